"""What a killed stage leaves to the one that goes on: its place in the memory, its seconds and all its rows."""

import gc
import json

import jax
import numpy as np
import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.indexing import runner
from lmindexer_jax.indexing.runner import Run, walk
from lmindexer_jax.prepare import prepare
from lmindexer_jax.training.checkpoint import Checkpoints
from lmindexer_jax.training.sharding import MeshConfig, make_mesh, place

QUIET = Console(Mode.QUIET)
STAGE, DEATH = "position-1/continuous", 3


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("resume")
    runs.write_corpus(home / "corpus.jsonl", documents=80)
    return home


def run_of(home, workdir):
    config = runs.ours(home / "corpus.jsonl", home / "cache")
    config.indexer.codebook_sizes = (6,)
    ready = prepare(config, workdir, console=QUIET)
    mesh = make_mesh(MeshConfig())
    parts = (ready.functions, config.recipe, ready.stages, ready.inputs, place(ready.params, mesh), mesh, 0, QUIET)
    return Run(workdir, *parts, lambda moment: {}, 0.0, "this run")


def held_by(run, monkeypatch):
    """Walks the run; gives the bytes on the device at each step of the stage, beyond those that there were before the run."""
    found, batches = {}, runner.batches

    def counted(run, stage, iterator):
        source = batches(run, stage, iterator)

        class Source:
            get_state = staticmethod(source.get_state)

            def __iter__(self):
                for batch in source:
                    gc.collect()
                    found.setdefault(stage.name, []).append(sum(array.nbytes for array in jax.live_arrays()))
                    yield batch

        return Source()

    with monkeypatch.context() as patched:
        patched.setattr(runner, "batches", counted)
        walk(run)
    return found[STAGE]


def test_killed_right_after_a_checkpoint_and_started_again(home, monkeypatch):
    run = run_of(home, home / "whole")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(run.params))
    gc.collect()
    others = sum(array.nbytes for array in jax.live_arrays()) - size
    whole = [held - others for held in held_by(run, monkeypatch)]
    del run
    save = Checkpoints.save

    def save_and_die(self, step, state, *, meta):
        save(self, step, state, meta=meta)
        self.wait()
        if step == DEATH:
            raise runs.Killed

    with monkeypatch.context() as patched, pytest.raises(runs.Killed):
        patched.setattr(Checkpoints, "save", save_and_die)
        walk(run_of(home, home / "killed"))
    seconds = Checkpoints(home / "killed" / "checkpoints").meta(DEATH)["spent"]
    assert seconds[STAGE] > 0, "of the stage in work, too"

    gc.collect()
    others = sum(array.nbytes for array in jax.live_arrays())
    run = run_of(home, home / "killed")
    resumed = [held - others for held in held_by(run, monkeypatch)]
    assert run.spent[STAGE] > seconds[STAGE]
    assert len(resumed) == len(whole) - DEATH
    assert max(resumed) < max(whole) + 0.2 * size, f"{max(resumed) / size} times the parameters, {max(whole) / size} at first"
    rows = [json.loads(line) for line in (home / "killed" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["stage"] == STAGE and "event" not in row]
    assert steps == list(range(1, len(whole) + 1)), "every step once, also that of the checkpoint"
