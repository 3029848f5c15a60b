"""Metrics are read one step late, but those of the step that led to a save before it."""

import jax.numpy as jnp
import numpy as np

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.training.loop import train
from lmindexer_jax.training.trace import Trace


def test_what_led_to_a_save_is_recorded_first(tmp_path):
    seen = []

    def step(state, batch, key):
        seen.append(("step", int(state) + 1))
        return state + batch, {}

    def before(taken, state, catch_up):
        assert state == taken
        if taken in (2, 4):
            catch_up()
            seen.append(("save", taken))

    train(
        jnp.zeros(()),
        step=step,
        batches=iter(np.ones(4, np.float32)),
        key=None,
        start=0,
        steps=4,
        before=before,
        record=lambda taken, _: seen.append(("record", taken)),
        trace=Trace(tmp_path, start=0, steps=0, console=Console(Mode.QUIET)),
    )
    late = [("step", 1), ("step", 2), ("record", 1), ("record", 2), ("save", 2)]
    assert seen == [*late, ("step", 3), ("step", 4), ("record", 3), ("record", 4), ("save", 4)]
