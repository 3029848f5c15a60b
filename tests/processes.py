"""Real processes that are one run, on loopback: what tests of several hosts start and kill."""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).parent


class Group:
    """Processes of one program, as a launcher would start them on several hosts.

    Args:
      script: Python source; runs in each of them.
      arguments: of the script.
      count: processes.
      devices: simulated devices of each.
    """

    def __init__(self, script: str, arguments: list[str], *, count: int, devices: int, missing: tuple[int, ...] = ()):
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS))),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_DEFAULT_MATMUL_PRECISION": "float32",
            "JAX_COMPILATION_CACHE_DIR": str(TESTS.parent / ".cache" / "jax"),
        }
        if count > 1:
            environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count)}
        self.processes, self.logs = [], []
        for number in range(count):
            if number in missing:
                continue
            own = environment | ({"JAX_PROCESS_ID": str(number)} if count > 1 else {})
            log = tempfile.NamedTemporaryFile("w", suffix=f"-{number}.log", delete=False)
            command = [sys.executable, "-c", script, *map(str, arguments)]
            self.processes.append(subprocess.Popen(command, env=own, stdout=log, stderr=subprocess.STDOUT))
            self.logs.append(log)

    def wait(self, timeout: float) -> list[int]:
        """Exit codes of all; what still runs after so many seconds fails the test."""
        try:
            return [process.wait(timeout) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.said()}") from None
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
            for log in self.logs:
                log.close()

    def said(self) -> str:
        """All that they wrote."""
        return "\n".join(f"--- process {number}\n{self.output(number)}" for number in range(len(self.logs)))

    def output(self, number: int) -> str:
        """What one of them wrote."""
        return pathlib.Path(self.logs[number].name).read_text()
