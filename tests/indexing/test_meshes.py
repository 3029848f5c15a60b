"""Every kind of step on several devices, in a process that starts with eight simulated ones."""

import pathlib

import pytest
from devices import run_on_eight


@pytest.mark.slow
def test_every_kind_of_step_on_eight_devices():
    """Runs `on_meshes.py`."""
    run_on_eight(pathlib.Path(__file__).with_name("on_meshes.py"))
