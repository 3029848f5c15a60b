"""A trace holds the steps that were asked for, and nothing is written where none were."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.training.loop import train
from lmindexer_jax.training.trace import SKIPPED, Trace


@pytest.mark.parametrize(("asked", "steps", "held"), [(2, 9, [8, 9]), (5, 5, [8, 9]), (0, 9, [])])
def test_it_holds_the_steps_that_were_asked_for(tmp_path, asked, steps, held):
    """A training that goes on from step 5; where it is shorter than the trace, it is traced to its end."""
    seen = []

    @jax.jit
    def step(state, batch, key):
        return state + batch, {"loss": state}

    state = train(
        jnp.zeros(()),
        step=step,
        batches=iter(np.ones(steps, np.float32)),
        key=None,
        start=5,
        steps=5 + steps,
        before=lambda *_: None,
        record=lambda taken, _: seen.append(taken),
        trace=Trace(tmp_path / "profile", start=5, steps=asked, console=Console(Mode.QUIET)),
    )
    assert state == steps and seen == list(range(6, 6 + steps)) and SKIPPED == 3
    files = list(tmp_path.rglob("*.xplane.pb"))
    assert len(files) == bool(held) == len(list(tmp_path.rglob("perfetto_trace.json.gz")))
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of the reader's own types
        planes = [plane for file in files for plane in jax.profiler.ProfileData.from_file(str(file)).planes]
        names = [(event.name, dict(event.stats)) for plane in planes for line in plane.lines for event in line.events]
    assert sorted(stats["step_num"] for name, stats in names if name == "train" and "step_num" in stats) == held
