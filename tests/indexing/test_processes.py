"""Whole runs of several processes: the same IDs as of one, also after a death, and on another number of processes."""

import os
import re
import signal
import time

import numpy as np
import pytest
import runs
from processes import Group

from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.two_stage import IndexerKind

MINUTES = 8 * 60
LOST = 10  # seconds without a sign of life
PROGRAM = f"""
import functools, pathlib, sys, runs
from lmindexer_jax import main
from lmindexer_jax.console import run_main
from lmindexer_jax.indexing import encode, kmeans
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.training import hosts, sharding
encode.PART = 16  # so that all have a part
kmeans.SPLIT_FROM = 1
sharding.SMALL = 64
name, home, workdir, fsdp = sys.argv[1:]
home = pathlib.Path(home)
make = getattr(runs, name, None) or functools.partial(runs.two_stage, IndexerKind(name))
config = make(home / "corpus.jsonl", home / "cache")
config.checkpoint_seconds, config.mesh.fsdp = 0.0, int(fsdp)
config.hosts.lost_seconds = {LOST}
main.FLAGS.parse = lambda _: (config, pathlib.Path(workdir))
main.run()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("processes")
    runs.write_corpus(home / "corpus.jsonl", documents=60)
    return home


def start(name, home, workdir, *, count, devices, fsdp=1):
    return Group(PROGRAM, [name, home, workdir, fsdp], count=count, devices=devices)


def finish(*arguments, **keywords):
    group = start(*arguments, **keywords)
    codes = group.wait(MINUTES)
    assert not any(codes), group.said()
    return group


def whole(name, home):
    """A run of one process with as many devices as the groups have together; made once."""
    workdir = home / name
    if not (workdir / "report.html").exists():
        finish(name, home, workdir, count=1, devices=4)
    return workdir


def same(one, two):
    first, second = id_table.load(one / "ids"), id_table.load(two / "ids")
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.counter, second.counter)


def wait_for_checkpoint(workdir, group, *, beyond):
    """Until there is a whole checkpoint after so many steps."""
    until = time.monotonic() + MINUTES
    while time.monotonic() < until:
        there = [int(path.parent.name) for path in (workdir / "checkpoints").glob("*/manifest.json")]
        if max(there, default=0) > beyond:
            return
        assert all(process.poll() is None for process in group.processes), group.said()
        time.sleep(0.05)
    raise AssertionError("no checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "published", IndexerKind.RQVAE, IndexerKind.RESIDUAL])
def test_two_processes_end_as_one(name, home):
    group = finish(name, home, home / f"{name}-two", count=2, devices=2)
    same(whole(name, home), home / f"{name}-two")
    assert "IDs in" in group.output(0) and not re.search("corpus:|steps|IDs in", group.output(1)), group.said()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_death_ends_all_and_the_same_command_goes_on(killed, home):
    workdir = home / f"killed-{killed}"
    group = start("ours", home, workdir, count=2, devices=2)
    wait_for_checkpoint(workdir, group, beyond=5)
    os.kill(group.processes[killed].pid, signal.SIGKILL)
    began = time.monotonic()
    codes = group.wait(MINUTES)
    assert time.monotonic() - began < LOST + 20, group.said()
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] not in (0, -signal.SIGKILL)
    assert re.search("lost another one|another task died", group.output(1 - killed)), group.said()
    assert not (workdir / "ids").exists()
    group = finish("ours", home, workdir, count=2, devices=2)
    assert "resuming at" in group.output(0)
    same(whole("ours", home), workdir)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(before, after, home):
    workdir = home / f"moved-{before}-{after}"
    group = start("published", home, workdir, count=before, devices=4 // before)
    wait_for_checkpoint(workdir, group, beyond=6)
    for process in group.processes:
        process.kill()
    group.wait(60)
    group = finish("published", home, workdir, count=after, devices=4 // after)
    assert "resuming at" in group.output(0)
    same(whole("published", home), workdir)
