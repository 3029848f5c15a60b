"""Several processes, one run: how they find each other, wait for each other and go down together.

Every process runs the same program and takes the same way through it, so that whatever is computed on the devices of
all is asked for by all, in the same order. Files are written by the first; the others wait before they read them.
A process that is alone meets no barrier: every function here then does nothing.
"""

import contextlib
import contextvars
import dataclasses
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax._src import distributed  # its barriers and words are the only ones that hold up no device
from jax._src.clusters import ClusterEnv  # what `jax.distributed.initialize` looks through
from jax.experimental import multihost_utils

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError

EXIT_LOST = 3  # of a process that has lost another one
BARRIER_SECONDS = 7 * 24 * 3600  # the first may write a report for hours; a process that dies is noticed long before
GATHERED_TOGETHER = 2**26  # bytes of each process
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

_passed = itertools.count()
_alone = contextvars.ContextVar("alone", default=False)


@dataclasses.dataclass
class HostsConfig:
    """How long processes wait for each other."""

    join_seconds: int = 300  # from the start until all must be there
    lost_seconds: int = 60  # without a sign of life, after which a process counts as dead


def start(config: HostsConfig) -> None:
    """Join the other processes of the run, where the environment says that there are any; before anything else of JAX.

    The environment is JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or what JAX finds by itself on
    Cloud TPU, GKE, SLURM and Open MPI.

    Raises:
      UserError: variables that make no sense, or JAX does not see the kind of device that the launcher says is there. A
        process that has not found all others in time ends, with one line and exit code 3, since they may come when all are
        started again: never is trained alone what was meant for several.
    """
    _join(config)
    wanted = os.environ.get("LMINDEXER_PLATFORM")
    if wanted and jax.default_backend() != wanted:
        extra = {"gpu": "cuda"}.get(wanted, wanted)
        raise UserError(
            f"this machine has a {wanted.upper()}, but JAX in {sys.prefix} sees a {jax.default_backend().upper()} alone:"
            f" pip install -e '.[{extra}]' there, look at its driver, or say --platform {jax.default_backend()}"
        )


def _join(config: HostsConfig) -> None:
    count, index = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    found = any(not kind.opt_in_only_method and kind.is_env_present() for kind in ClusterEnv._cluster_types)
    if count == 1 or (missing == list(VARIABLES) and not found):
        return
    if missing and not found:
        raise UserError(f"several processes need {', '.join(VARIABLES)}; set {' and '.join(missing)} too, or none of them")
    if count is not None and index is not None and index >= count:
        raise UserError(f"JAX_PROCESS_ID={index}: processes are numbered from 0 to {count - 1}")
    # The runtime's own limit ends the process by a signal and a page of text, so a clock of our own runs out before it.
    clock = threading.Timer(config.join_seconds, _give_up, [config.join_seconds])
    clock.daemon = True
    clock.start()
    # Its handler would swallow SIGTERM, by which launchers end processes.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        num_processes=count,
        process_id=index,
        initialization_timeout=config.join_seconds + 60,
        heartbeat_timeout_seconds=config.lost_seconds,
        shutdown_timeout_seconds=config.lost_seconds,
    )
    clock.cancel()


def _give_up(seconds: int) -> None:
    """End a process that waits in vain for the others to join."""
    state = distributed.global_state
    print(
        f"error: process {state.process_id} at {state.coordinator_address}: not all processes of the run joined within"
        f" {seconds} s; start every one of them, and look at the address, its port and firewalls",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_LOST)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise UserError(f"{name}={text!r}: give a whole number")
    return int(text)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def several() -> bool:
    """Whether more than one process does what is done now."""
    return jax.process_count() > 1 and not _alone.get()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What is done in the block is done by this process alone: it waits for nobody, and uses its own devices."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def console(mode: Mode) -> Console:
    """What this process says: of several the first alone speaks."""
    return Console(mode) if first() else Console.silent()


def barrier() -> None:
    """Wait until all processes are here. No device waits, so the first may be busy for long."""
    if several():
        name = f"lmindexer-{next(_passed)}"
        distributed.global_state.client.wait_at_barrier(name, timeout_in_ms=1000 * BARRIER_SECONDS)


@contextlib.contextmanager
def first_goes_ahead() -> Iterator[None]:
    """The block is done by the first process, then by the others, which find what it has left."""
    if not first():
        barrier()
    yield
    if first():
        barrier()


def of_first(value: np.ndarray) -> np.ndarray:
    """The first process's array in all processes; of at most 32 bits a number, and of one shape everywhere.

    It goes by the devices, on which nothing else may run: what two programs exchange at a time can cross.
    """
    if not several():
        return value
    barrier()
    return np.asarray(multihost_utils.broadcast_one_to_all(value))


def said_by_first(text: str) -> str:
    """The first process's word in all processes. It goes past the devices, which may be in the middle of a step."""
    if not several():
        return text
    name, client = f"lmindexer-{next(_passed)}", distributed.global_state.client
    if first():
        client.key_value_set(name, text)
    return client.blocking_key_value_get(name, 1000 * BARRIER_SECONDS)


def agree(digest: str, *, what: str) -> None:
    """Refuse to go on where processes differ in what must be the same.

    Raises:
      UserError: this process has another digest than the first.
    """
    if digest != said_by_first(digest):
        raise UserError(f"process {jax.process_index()} has other {what} than the first; start all with the same command and files")


def deal(items: list) -> list[list]:
    """Items dealt to the processes in turn: what each of them works on."""
    return [items[process :: jax.process_count()] for process in range(jax.process_count())]


def gather(rows: np.ndarray, *, counts: list[int]) -> np.ndarray:
    """The rows of all processes in all processes, end to end in the processes' order.

    Args:
      rows: of this process, of at most 32 bits a number.
      counts: rows of every process.
    """
    if not several():
        return rows
    barrier()
    size = max(1, GATHERED_TOGETHER // max(1, math.prod(rows.shape[1:]) * rows.itemsize))
    parts = []
    for begin in range(0, max(counts), size):
        part = rows[begin : begin + size]
        room = np.zeros((min(size, max(counts) - begin), *rows.shape[1:]), rows.dtype)
        room[: len(part)] = part
        parts.append(np.asarray(multihost_utils.process_allgather(room)))
    every = np.concatenate(parts, axis=1)
    return np.concatenate([every[process, :count] for process, count in enumerate(counts)])


class Due:
    """Tells when some seconds have passed, at the same step in every process: the first one's clock decides.

    The processes look at it together, and then not again before the step at which the time should be over.
    """

    def __init__(self, seconds: float, *, step: int):
        """The time runs from now on, at this step."""
        self.seconds, self.since = seconds, time.monotonic()
        self.seen, self.look = (step, self.since), step + 1

    def __call__(self, step: int) -> bool:
        """Whether it is over; if so it starts anew. Asked once for every step."""
        now = time.monotonic()
        left = self.seconds - (now - self.since)
        if several():
            if step < self.look:
                return False
            pace = (now - self.seen[1]) / max(1, step - self.seen[0])
            ahead = 0 if left <= 0 else int(np.clip(left / max(pace, 1e-9), 1, 2**20))
            ahead = int(said_by_first(str(ahead)))
            self.seen, self.look = (step, now), step + max(1, ahead)
            left = ahead
        if left <= 0:
            self.since = now
        return left <= 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around a whole program: a process that ends badly leaves at once, and one that has lost another says so.

    Left to themselves, processes would wait at each other's end.
    """
    try:
        yield
        return
    except SystemExit as end:
        if not end.code or not jax.distributed.is_initialized():
            raise
        code = end.code
    except jax.errors.JaxRuntimeError as error:
        if not jax.distributed.is_initialized() or "RESOURCE_EXHAUSTED" in str(error):
            raise
        state = distributed.global_state
        print(
            f"error: process {state.process_id} of {state.num_processes} has lost another one ({_first_line(error)});"
            " start all of them again: the same command goes on",
            file=sys.stderr,
        )
        code = EXIT_LOST
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
