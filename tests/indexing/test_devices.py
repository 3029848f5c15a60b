"""Whole runs on several simulated devices: the same result as on one, also when a run moves in the middle of a stage."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.run import execute

TESTS = pathlib.Path(__file__).parents[1]
ELSEWHERE = """
import pathlib, sys, jax, runs
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.run import execute
devices, name, home, workdir, killed_in = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(devices))
jax.config.update("jax_default_matmul_precision", "float32")
home = pathlib.Path(home)
config = getattr(runs, name)(home / "corpus.jsonl", home / "cache")
config.checkpoint_seconds = 0.0
console = runs.Mortal(3, killed_in) if killed_in else Console(Mode.QUIET)
try:
    execute(config, pathlib.Path(workdir), console=console)
except runs.Killed:
    sys.exit(9)
assert jax.device_count() == int(devices)
"""


def elsewhere(devices, name, home, workdir, killed_in=""):
    """Run in a process with so many devices; whether it was killed in the stage named."""
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    compiled = str(TESTS.parent / ".cache" / "jax")
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": compiled}
    command = [sys.executable, "-c", ELSEWHERE, str(devices), name, str(home), str(workdir), killed_in]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == (9 if killed_in else 0), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("devices")
    runs.write_corpus(home / "corpus.jsonl", documents=60)
    return home


@pytest.fixture(scope="module", params=["ours", "published"])
def whole(request, home):
    """A run on one device that nobody disturbed."""
    config = getattr(runs, request.param)(home / "corpus.jsonl", home / "cache")
    execute(config, home / request.param, console=Console(Mode.QUIET))
    return request.param, home / request.param


def alike(one, two):
    """Parameters after every position close, and codes the same but for documents that stand between two codes."""
    first, second = id_table.load(one / "ids"), id_table.load(two / "ids")
    shares = np.mean(first.codes == second.codes, axis=0)
    furthest = 0.0
    for position in range(first.codes.shape[1]):
        trees = [Assigners(workdir / "assigners").load(position) for workdir in (one, two)]
        gaps = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), *trees)
        furthest = max(furthest, *jax.tree.leaves(gaps))
    print(f"equal codes {shares}, furthest parameter {furthest:.2g}")
    return shares, furthest


@pytest.mark.slow
def test_eight_devices_end_as_one(whole, home):
    """Every kind of stage."""
    name, workdir = whole
    elsewhere(8, name, home, home / f"{name}-eight")
    shares, furthest = alike(workdir, home / f"{name}-eight")
    assert furthest < 1e-3 and (shares >= 0.95).all(), (shares, furthest)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(1, 4), (8, 1)])
@pytest.mark.parametrize("stage", ["position-1/quantised", "position-2/quantised"])
def test_a_run_moves_to_another_number_of_devices(whole, home, before, after, stage):
    name, workdir = whole
    moved = home / f"{name}-{before}-{after}-{stage[9]}"
    elsewhere(before, name, home, moved, killed_in=stage)
    elsewhere(after, name, home, moved)
    shares, furthest = alike(workdir, moved)
    assert furthest < 1e-3 and (shares >= 0.95).all(), (shares, furthest)
