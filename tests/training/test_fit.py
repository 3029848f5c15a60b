"""A training that dies and is started again ends alike, writes every step down once, and holds its state once."""

import gc
import hashlib
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.training.checkpoint import Checkpoints
from lmindexer_jax.training.fit import Fit, fit
from lmindexer_jax.training.optim import OptimConfig
from lmindexer_jax.training.sharding import MeshConfig, make_mesh

STEPS, WIDTH = 6, 64


class Outcome(NamedTuple):
    """What an objective returns beside its loss."""

    metrics: dict
    memory: dict
    replaced: dict


def objective(params, memory, batch, key):
    loss = jnp.mean((batch["x"] @ params["w"] - batch["x"] * memory["scale"]) ** 2)
    return loss, Outcome({"loss": loss}, memory, {})


def start():
    return {"w": 0.1 * jax.random.normal(jax.random.key(0), (WIDTH, WIDTH))}


def training(directory, held=None):
    """With a dictionary for the bytes on the device at each step, beyond those that are there now."""
    gc.collect()
    others = sum(array.nbytes for array in jax.live_arrays())

    def batches(begin):
        for number in range(begin, STEPS):
            gc.collect()
            if held is not None:
                held[number] = sum(array.nbytes for array in jax.live_arrays()) - others
            yield {"x": np.random.default_rng(number).normal(size=(8, WIDTH)).astype(np.float32)}

    return Fit(
        directory=directory,
        name="train",
        objective=objective,
        memory={"scale": jnp.full((), 2.0)},
        optim=OptimConfig(learning_rate=1e-2),
        rules=((".*", 1.0),),
        steps=STEPS,
        batches=batches,
        key=jax.random.key(1),
        mesh=make_mesh(MeshConfig()),
        fingerprint=hashlib.sha256(b"this training").hexdigest(),
        checkpoint_seconds=0.0,
        console=Console(Mode.QUIET),
    )


def test_died_after_a_save_and_started_again(tmp_path, monkeypatch):
    whole, resumed = {}, {}
    params = fit(training(tmp_path / "whole", whole), start())
    save = Checkpoints.save

    def save_and_die(self, step, state, *, meta):
        save(self, step, state, meta=meta)
        self.wait()
        if step == 3:
            raise runs.Killed

    with monkeypatch.context() as patched, pytest.raises(runs.Killed):
        patched.setattr(Checkpoints, "save", save_and_die)
        fit(training(tmp_path / "died"), start())
    again = fit(training(tmp_path / "died", resumed), start())
    np.testing.assert_array_equal(params["w"], again["w"])
    rows = [json.loads(line) for line in (tmp_path / "died" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), "also the row of the step that was saved"
    assert list(resumed) == [3, 4, 5]
    size = params["w"].nbytes
    assert 3 * size <= whole[4] < 3.5 * size, "parameters and two moments"
    for number, held in resumed.items():
        assert held < 3.5 * size, f"step {number}: {held / size} times the parameters"
