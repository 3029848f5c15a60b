"""Every kind of step on several devices, in a process that starts with eight simulated ones."""

import os
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_every_kind_of_step_on_eight_devices():
    """Runs `on_meshes.py`."""
    tests = pathlib.Path(__file__).with_name("on_meshes.py")
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)]
    done = subprocess.run(command, env=environment, cwd=tests.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
