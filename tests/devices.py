"""Tests that need JAX to start with eight simulated devices, in a process of their own."""

import os
import pathlib
import subprocess
import sys


def run_on_eight(tests: pathlib.Path) -> None:
    """Runs the tests of a file; what it says stands in the error where one fails."""
    root = pathlib.Path(__file__).parents[1]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
