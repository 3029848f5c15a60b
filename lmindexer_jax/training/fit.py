"""Training in one stage, of one process or of several: one loop, checkpoints, a journal.

A killed training that is started again ends with the same bits as one that was left alone. (The indexer's stages are many
on one sequence of checkpoints; `indexing/runner.py` walks them.)
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Container, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lmindexer_jax.console import Console
from lmindexer_jax.training import hosts
from lmindexer_jax.training.checkpoint import Checkpoints
from lmindexer_jax.training.journal import Journal
from lmindexer_jax.training.loop import train
from lmindexer_jax.training.optim import OptimConfig, Rules, make_optimiser, split
from lmindexer_jax.training.sharding import describe, free, here, place, put_batch, tree_shardings
from lmindexer_jax.training.steps import Params, State, make_step
from lmindexer_jax.training.trace import Trace

CHECKPOINTS = "checkpoints"


@dataclasses.dataclass
class Fit:
    """Everything that a training needs.

    Attributes:
      directory: of checkpoints and journal.
      name: of the progress and in the journal.
      objective: see `make_step`; its memory is given and does not change.
      memory: arrays that the objective reads beside the parameters.
      rules: which parameters move.
      steps: of the whole training.
      batches: gives those from a step on, of each the rows that are this process's.
      key: of the randomness within steps.
      fingerprint: of whatever determines the result; it binds the checkpoints.
      look_after: steps after which the parameters are looked at.
      look: gives metrics for the journal, from the steps taken and parameters on this process's own devices; of several
        processes the first alone is asked.
      profile: steps whose trace is kept in `profile`.
    """

    directory: pathlib.Path
    name: str
    objective: Callable
    memory: Any
    optim: OptimConfig
    rules: Rules
    steps: int
    batches: Callable[[int], Iterator[dict[str, np.ndarray]]]
    key: PRNGKeyArray
    mesh: Any
    fingerprint: str
    checkpoint_seconds: float
    console: Console
    look_after: Container[int] = ()
    look: Callable[[int, Params], dict[str, object]] | None = None
    profile: int = 0


def refuse_others(directory: pathlib.Path, fingerprint: str) -> None:
    """Refuse checkpoints of another training at once, where `fit` would do so only after what is prepared for it.

    Raises:
      UserError: `directory` holds such ones.
    """
    with Checkpoints(directory / CHECKPOINTS) as checkpoints:
        checkpoints.refuse_others(fingerprint)


def fit(run: Fit, params: Params) -> Params:
    """Train from the beginning or from the newest checkpoint.

    Args:
      params: where training starts, of which every process has all; their memory may be taken over.

    Returns:
      the parameters after the last step, on this process's own devices.

    Raises:
      UserError: there are checkpoints, but of another run, or none of them can be read; or processes that differ in
        what they train.
    """
    hosts.agree(run.fingerprint, what="settings or data")
    run.directory.mkdir(parents=True, exist_ok=True)
    hosts.barrier()
    optimiser = make_optimiser(run.optim, run.rules, params, steps=run.steps)

    def fresh(params: Params) -> tuple[Any, dict, jax.Array]:
        return optimiser.init(split(params, run.rules)[0]), {}, jnp.zeros((), jnp.int32)

    shapes = describe(State(params, *jax.eval_shape(fresh, params)), run.mesh)
    with Checkpoints(run.directory / CHECKPOINTS) as checkpoints:
        state, spent = _restore(run, checkpoints, shapes, instead_of=params)
        if state is None:
            params = place(params, run.mesh)
            # Compiled, so that every device makes its own part alone.
            layout = tree_shardings(jax.eval_shape(fresh, params), run.mesh)
            state = State(params, *jax.jit(fresh, out_shardings=layout)(params))
        # A step takes the memory over; the caller keeps his.
        state = state._replace(memory=place(jax.tree.map(jnp.copy, run.memory), run.mesh))
        journal = Journal(run.directory, resume_at=int(state.step))
        try:
            state = _train(run, state, optimiser, checkpoints, journal, spent=spent)
        finally:
            journal.close()
    return here(state.params)


def _train(run: Fit, state: State, optimiser, checkpoints: Checkpoints, journal: Journal, *, spent: float) -> State:
    begin, started = int(state.step), time.monotonic()
    step = make_step(run.objective, optimiser, run.rules, layout=tree_shardings(state, run.mesh))
    due = hosts.Due(run.checkpoint_seconds, step=begin)

    with run.console.progress(run.name, total=run.steps, start=begin) as progress:

        def seconds() -> float:
            return spent + time.monotonic() - started

        def before(taken: int, state: State, catch_up: Callable[[], None]) -> None:
            if taken == begin:
                return
            if run.look and taken in run.look_after:
                params = here(state.params)
                if hosts.first():
                    with hosts.alone():
                        journal.write(taken, {"event": "epoch", **run.look(taken, params), "seconds": seconds()})
            if taken == run.steps or due(taken):
                catch_up()
                meta = {"fingerprint": run.fingerprint, "seconds": seconds()}
                checkpoints.save(taken, _kept(state), meta=meta)

        def record(taken: int, metrics: dict) -> None:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            journal.write(taken, {"stage": run.name, "step": taken, "steps": run.steps, **values})
            progress.advance(1, loss=values["loss"])

        return train(
            state,
            step=step,
            batches=(put_batch(batch, run.mesh) for batch in run.batches(begin)),
            key=run.key,
            start=begin,
            steps=run.steps,
            before=before,
            record=record,
            trace=Trace(run.directory / "profile", start=begin, steps=run.profile, console=run.console),
        )


def _kept(state: State) -> dict[str, Any]:
    """What a checkpoint holds: memory is made anew."""
    return state._replace(memory={})._asdict()


def _restore(run: Fit, checkpoints: Checkpoints, shapes: State, *, instead_of: Params) -> tuple[State | None, float]:
    """The state of the newest whole checkpoint, but its memory, and the seconds spent until then; None where there is none."""

    def like(meta: dict) -> dict[str, Any]:
        free(instead_of)  # or the devices would hold parameters twice
        return _kept(shapes)

    found = checkpoints.newest(like, fingerprint=run.fingerprint, warn=run.console.warn)
    if found is None:
        return None, 0.0
    step, state, meta = found
    run.console.note(f"resuming at step {step:,} of {run.steps:,}")
    return State(**state), meta.get("seconds", 0.0)
