"""Train a recommender: one loop, checkpoints, a journal; the same command goes on with what a kill has left."""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lmindexer_jax.console import Console
from lmindexer_jax.data.packing import TrainingRows
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.journal import Journal
from lmindexer_jax.indexing.terms import Outcome
from lmindexer_jax.models.layers import MASKED
from lmindexer_jax.models.recommender import Catalogue, Head, Histories, Params, RecommenderFunctions
from lmindexer_jax.training.checkpoint import Checkpoints, DamagedCheckpoint
from lmindexer_jax.training.loop import train
from lmindexer_jax.training.losses import cross_entropy, mean
from lmindexer_jax.training.optim import OptimConfig, make_optimiser
from lmindexer_jax.training.sharding import own_rows, put_batch, tree_shardings
from lmindexer_jax.training.steps import State, make_step

RULES = ((".*", 1.0),)


@dataclasses.dataclass
class TrainingConfig:
    """How a recommender is trained."""

    epochs: int = 30
    batch_size: int = 32  # rows of model.length items, filled with as many histories as they hold
    optim: OptimConfig = dataclasses.field(
        default_factory=lambda: OptimConfig(learning_rate=2e-3, b2=0.98, weight_decay=0.05, warmup_share=0.05)
    )
    negatives: int = 0  # items that the targets are compared with, by SASRec or a dense model, drawn for each batch; 0: all items
    validate_every: int = 10  # epochs between two looks at the validation items


def make_objective(functions: RecommenderFunctions, config: TrainingConfig) -> Callable:
    """-log p(next item) at every counted place, as an objective for `make_step`; `memory` holds the catalogue. A model that
    generates and compares learns both, at equal weight."""
    module = functions.module
    generates = module.head != Head.ITEMS
    compares = module.config.dense or not generates

    def objective(params: Params, memory: dict, batch: dict[str, Array], key: PRNGKeyArray) -> tuple[Array, Outcome]:
        catalogue = memory["catalogue"]
        body_key, head_key = jax.random.split(key)
        histories = Histories(batch["items"], batch["segment"])
        states = functions.states(params, histories, catalogue, key=body_key)
        states = states.reshape(-1, *states.shape[2:])
        targets, weight = batch["targets"].reshape(-1), batch["weight"].reshape(-1)
        loss, parts = 0.0, {}
        if generates:
            logs = functions.log_likelihood(params, states, targets, catalogue, key=head_key)
            parts |= {f"level_{k + 1}": mean((-logs[:, k], weight)) for k in range(logs.shape[1])}
            loss += mean((-logs.sum(-1), weight))
        if compares:
            first = states[:, 0] if states.ndim == 3 else states
            drawn_key = jax.random.fold_in(head_key, 1) if generates else head_key
            values = item_loss(functions, params, first, targets, catalogue, negatives=config.negatives, key=drawn_key)
            parts |= {"items": mean((values, weight))} if generates else {}
            loss += mean((values, weight))
        return loss, Outcome({"loss": loss, **parts}, memory, {})

    return objective


def item_loss(
    functions: RecommenderFunctions,
    params: Params,
    states: Float[Array, "M D"],
    targets: Array,
    catalogue: Catalogue,
    *,
    negatives: int,
    key: PRNGKeyArray,
) -> Float[Array, " M"]:
    """Cross-entropy of the targets among all items, or among themselves and uniform negatives shared by the batch."""
    queries = functions.queries(params, states)
    items = functions.module.items
    if negatives == 0 or negatives >= items:
        return cross_entropy(queries @ functions.item_vectors(params, jnp.arange(items), catalogue).T, targets)
    drawn = jax.random.randint(key, (negatives,), 0, items)
    others = queries @ functions.item_vectors(params, drawn, catalogue).T
    others = jnp.where(targets[:, None] == drawn[None, :], MASKED, others)
    own = jnp.sum(queries * functions.item_vectors(params, targets, catalogue), axis=-1, keepdims=True)
    logits = jnp.concatenate([own, others], axis=-1)
    return cross_entropy(logits, jnp.zeros_like(targets))


@dataclasses.dataclass
class Fit:
    """Everything that a training needs. `look` is asked for metrics of the parameters where an epoch is to be judged."""

    workdir: pathlib.Path
    functions: RecommenderFunctions
    config: TrainingConfig
    rows: TrainingRows
    catalogue: Catalogue
    mesh: Any
    seed: int
    console: Console
    look: Callable[[Params], dict[str, float]]
    checkpoint_seconds: float
    fingerprint: str


def fit(run: Fit) -> Params:
    """Train from the beginning or from the newest checkpoint.

    Returns:
      the parameters after the last step.

    Raises:
      UserError: there are checkpoints, but of another run, or none of them can be read.
    """
    params = run.functions.init(jax.random.fold_in(jax.random.key(run.seed), 0), run.catalogue)
    optimiser = make_optimiser(run.config.optim, RULES, params, steps=run.rows.steps)
    memory = {"catalogue": jax.tree.map(jnp.copy, run.catalogue)}  # a step takes its memory over; the caller keeps his
    state = State(params, optimiser.init(params), memory, jnp.zeros((), jnp.int32))
    state = jax.device_put(state, tree_shardings(state, run.mesh))
    with Checkpoints(run.workdir / "checkpoints") as checkpoints:
        state, spent = restore(run, checkpoints, state)
        begin = int(state.step)
        journal = Journal(run.workdir, resume_at=begin)
        try:
            state = _train(run, state, optimiser, checkpoints, journal, spent=spent)
        finally:
            journal.close()
    return state.params


def _train(run: Fit, state: State, optimiser, checkpoints: Checkpoints, journal: Journal, *, spent: float) -> State:
    begin, total = int(state.step), run.rows.steps
    ends = run.rows.epoch_ends()
    epoch_of = {end: epoch for epoch, end in enumerate(ends, start=1)}
    started = saved = time.monotonic()
    step = make_step(make_objective(run.functions, run.config), optimiser, RULES, layout=tree_shardings(state, run.mesh))
    batches = run.rows.batches(start=begin, rows=own_rows(run.config.batch_size, run.mesh))

    with run.console.progress("train", total=total, start=begin) as progress:

        def seconds() -> float:
            return spent + time.monotonic() - started

        def before(taken: int, state: State) -> None:
            nonlocal saved
            epoch = epoch_of.get(taken)
            if epoch and taken > begin and (epoch % run.config.validate_every == 0 or taken == total):
                row = {"event": "epoch", "epoch": epoch, **run.look(state.params)}
                journal.write(taken, {**row, "seconds": seconds()})
            due = taken == total or time.monotonic() - saved >= run.checkpoint_seconds
            if taken > begin and due:
                meta = {"step": taken, "fingerprint": run.fingerprint, "seconds": seconds()}
                checkpoints.save(taken, state._replace(memory={}), meta=meta)
                saved = time.monotonic()

        def record(taken: int, metrics: dict) -> None:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            journal.write(taken, values)
            progress.advance(1, loss=values["loss"])

        return train(
            state,
            step=step,
            batches=(put_batch(batch, run.mesh) for batch in batches),
            key=jax.random.fold_in(jax.random.key(run.seed), 1),
            start=begin,
            steps=total,
            before=before,
            record=record,
        )


def restore(run: Fit, checkpoints: Checkpoints, fresh: State) -> tuple[State, float]:
    """The state of the newest whole checkpoint and the seconds spent until then, or `fresh` where there is none."""
    steps = checkpoints.steps()
    for latest in reversed(steps):
        try:
            if checkpoints.meta(latest)["fingerprint"] != run.fingerprint:
                raise UserError(f"{checkpoints.directory}: these checkpoints belong to another run; use another --workdir")
            state, meta = checkpoints.restore(latest, fresh._replace(memory={}))
        except DamagedCheckpoint as damage:
            run.console.warn(f"{damage}; trying the checkpoint before it")
            continue
        run.console.note(f"resuming at step {latest:,} of {run.rows.steps:,}")
        return state._replace(memory=fresh.memory), meta["seconds"]
    if steps:
        raise UserError(f"{checkpoints.directory}: no checkpoint can be read; move this folder away to start afresh")
    return fresh, 0.0
