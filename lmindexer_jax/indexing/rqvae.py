"""Trains the rq-VAE on document vectors, an epoch at a time, and codes vectors by it.

An epoch is one compiled scan over shuffled batches. The books start as residual k-means of the latents. At the end of
an epoch a row that no vector chose moves to the residual of some vector of the last batch (dead-code restart, Dhariwal
et al. 2020), or it would stay behind for ever. Everything random follows from (seed, epoch), so a killed training that
is started again ends with the same bits.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lmindexer_jax.console import Console
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import residual
from lmindexer_jax.indexing.terms import Outcome, code_metrics
from lmindexer_jax.indexing.recipe import StageKind
from lmindexer_jax.models.quantiser import CodebookUpdate, RunningMean, start_running_mean, update_running_mean
from lmindexer_jax.models.rqvae import Outputs, Params, RqVae, RqVaeConfig, RqVaeFunctions
from lmindexer_jax.training import hosts
from lmindexer_jax.training.checkpoint import Checkpoints
from lmindexer_jax.training.journal import Journal
from lmindexer_jax.training.optim import OptimConfig, Rules, make_optimiser, split
from lmindexer_jax.training.sharding import here, lay_out, place, replicate, split_rows
from lmindexer_jax.training.steps import State, make_step

STAGE = "rq-vae"
ENCODED_TOGETHER = 1024  # vectors; one shape, so that a vector gets the same bits alone as in any company
START_SAMPLE = 65_536  # latents that the books' k-means looks at


@dataclasses.dataclass
class RqVaeTraining:
    """How long and how the rq-VAE trains."""

    epochs: int = 160
    batch_size: int = 1024
    restart: bool = True  # move rows that an epoch did not use
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)


class Fitted(NamedTuple):
    """A trained rq-VAE with the shift and scale that its inputs get."""

    params: Params
    mean: Float[np.ndarray, " D"]
    scale: Float[np.ndarray, ""]


def fit(
    vectors: Float[np.ndarray, "N D"],
    *,
    sizes: tuple[int, ...],
    config: RqVaeConfig,
    training: RqVaeTraining,
    dtype: jnp.dtype,
    key: PRNGKeyArray,
    mesh: Any,
    checkpoints: Checkpoints,
    checkpoint_seconds: float,
    fingerprint: str,
    journal: Callable[[int], Journal],
    console: Console,
) -> tuple[Fitted, float]:
    """Train from the beginning, or on from the newest whole checkpoint.

    Args:
      vectors: held on every device as a whole.
      sizes: K of every level.
      dtype: of the perceptrons' matmuls.
      key: everything random follows from it.
      mesh: over which batches and large parameters are split.
      checkpoints: where the state is kept; one is written when `checkpoint_seconds` have passed.
      fingerprint: of the run; checkpoints of another are refused.
      journal: opened at the epoch that training goes on from; one row per epoch, and one for the end.

    Returns:
      the trained parameters, and the seconds that training took in all.
    """
    check(training, documents=len(vectors))
    functions = RqVaeFunctions(RqVae(config, vectors.shape[1], sizes, dtype))
    mean, scale = moments(vectors)
    inputs = (jnp.asarray(vectors) - mean[None]) / scale
    size = min(training.batch_size, len(inputs))
    steps = len(inputs) // size
    start_key, epoch_key = jax.random.split(key)
    state, step = start(functions, inputs, training, steps=steps, key=start_key)
    state, inputs = place(state, mesh), replicate(inputs, mesh)
    epoch = make_epoch(functions, step, steps=steps, batch_size=size, restart=training.restart, mesh=mesh)
    done, before, state = restore(checkpoints, state, fingerprint=fingerprint, console=console)
    began = time.monotonic()
    due = hosts.Due(checkpoint_seconds, step=done)
    with (
        contextlib.closing(journal(done)) as writer,
        console.progress(STAGE, total=training.epochs, unit="epochs", start=done) as progress,
    ):
        for number in range(done + 1, training.epochs + 1):
            state, metrics = epoch(state, inputs, jax.random.fold_in(epoch_key, number))
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            row = {"stage": STAGE, "position": 1, "steps": training.epochs * steps, "step": number * steps}
            writer.write(number, row | values)
            if number < training.epochs and due(number):
                spent = before + time.monotonic() - began
                checkpoints.save(number, state._asdict(), meta={"spent": spent, "fingerprint": fingerprint})
            progress.advance(1, loss=values["loss"], unexplained=values["reconstruction"])
        seconds = before + time.monotonic() - began
        row = {"stage": STAGE, "kind": str(StageKind.QUANTISED), "position": 1, "seconds": seconds}
        writer.write(training.epochs + 1, {"event": "stage", **row})
    return Fitted(jax.device_get(here(state.params)), mean, scale), seconds


def check(training: RqVaeTraining, *, documents: int) -> None:
    """Refuse settings without a meaning, in one line each."""
    if training.epochs < 1 or training.batch_size < 1:
        raise UserError("two_stage.training: epochs and batch_size must be at least 1")
    if documents < 2:
        raise UserError(f"rq-VAE: {documents} document; it needs at least two")


def moments(vectors: Float[np.ndarray, "N D"]) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, ""]]:
    """Mean vector, and the root mean square of what deviates from it: after both, a loss of 1 explains nothing."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.square(vectors, dtype=np.float64).mean() - np.square(mean).mean())
    return mean.astype(np.float32), np.asarray(max(spread, 1e-12), np.float32)


def restore(checkpoints: Checkpoints, like: State, *, fingerprint: str, console: Console) -> tuple[int, float, State]:
    """Epochs done, seconds spent and the state, of the newest whole checkpoint; `like` at 0 where there is none."""
    found = checkpoints.newest(lambda meta: like._asdict(), fingerprint=fingerprint, warn=console.warn)
    if found is None:
        return 0, 0.0, like
    epoch, state, meta = found
    console.note(f"resuming the rq-VAE after epoch {epoch}")
    return epoch, meta["spent"], State(**state)


def rules(config: RqVaeConfig) -> Rules:
    """What the optimiser moves: all, but books that follow running means."""
    books = 0.0 if config.update == CodebookUpdate.EMA else 1.0
    return ((r"codebook_\d+", books), (r".*", 1.0))


def start(
    functions: RqVaeFunctions,
    inputs: Float[Array, "N D"],
    training: RqVaeTraining,
    *,
    steps: int,
    key: PRNGKeyArray,
) -> tuple[State, Callable]:
    """The state before the first step, its books residual k-means of the latents, and the step."""
    config, sizes = functions.module.config, functions.module.codebook_sizes
    init_key, *keys = jax.random.split(key, 2 + len(sizes))
    params = functions.init(init_key)
    rest = np.asarray(jax.random.permutation(keys[0], len(inputs))[:START_SAMPLE])
    rest = latents(functions, params, inputs[np.sort(rest)])
    for level, size in enumerate(sizes):
        few = min(size, len(rest))  # more rows than latents: the others stay random until they are restarted
        rows = residual.fit(rest, [], size=few, key=keys[1 + level])
        rest = residual.code(rest, [rows])[1]
        params[f"codebook_{level}"] = params[f"codebook_{level}"].at[:few].set(rows)
    optimiser = make_optimiser(training.optim, rules(config), params, steps=training.epochs * steps)
    moving, _ = split(params, rules(config))
    memory = {f"used_{level}": jnp.zeros(size) for level, size in enumerate(sizes)}
    if config.update == CodebookUpdate.EMA:
        for level in range(len(sizes)):
            mean = start_running_mean(jnp.copy(params[f"codebook_{level}"]))
            memory |= {f"count_{level}": mean.count, f"total_{level}": mean.total}
    state = State(params, optimiser.init(moving), memory, jnp.zeros((), jnp.int32))
    return state, make_step(make_objective(functions), optimiser, rules(config))


def make_objective(functions: RqVaeFunctions) -> Callable:
    """The objective of `training.steps.make_step`; a batch holds `vectors` (B, D)."""
    config = functions.module.config

    def objective(params: Params, memory: dict, batch: dict, key: PRNGKeyArray) -> tuple[Array, Outcome]:
        out: Outputs = functions.forward(params, batch["vectors"])
        terms = {"reconstruction": jnp.mean(out.reconstruction), "quantisation": jnp.mean(out.quantisation)}
        loss = terms["reconstruction"] + terms["quantisation"]
        memory, replaced = dict(memory), {}
        for level, rows in enumerate(functions.books(params)):
            chosen = out.levels.codes[:, level]
            memory[f"used_{level}"] = memory[f"used_{level}"] + jnp.bincount(chosen, length=len(rows))
            if config.update == CodebookUpdate.EMA:
                mean = RunningMean(memory[f"count_{level}"], memory[f"total_{level}"])
                mean, moved = update_running_mean(mean, out.levels.residuals[:, level], chosen, decay=config.ema_decay)
                memory |= {f"count_{level}": mean.count, f"total_{level}": mean.total}
                replaced[f"codebook_{level}"] = moved
        return loss, Outcome(terms | {"loss": loss}, memory, replaced)

    return objective


def make_epoch(
    functions: RqVaeFunctions, step: Callable, *, steps: int, batch_size: int, restart: bool, mesh: Any
) -> Callable:
    """Compile `(state, vectors (N, D), key) -> (state, metrics)`: every vector at most once, in a new order.

    The metrics are means over the epoch's steps, and the use of every level's rows over the epoch.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state: State, vectors: Float[Array, "N D"], key: PRNGKeyArray) -> tuple[State, dict[str, Array]]:
        order_key, step_key, restart_key = jax.random.split(key, 3)
        order = jax.random.permutation(order_key, len(vectors))[: steps * batch_size].reshape(steps, batch_size)

        def body(state: State, rows: Int[Array, " B"]) -> tuple[State, dict[str, Array]]:
            return step(state, split_rows({"vectors": vectors[rows]}, mesh), step_key)

        state, each = jax.lax.scan(body, state, order)
        metrics = {name: jnp.mean(values) for name, values in each.items()}
        for level in range(len(functions.module.codebook_sizes)):
            seen = code_metrics(state.memory[f"used_{level}"])
            metrics |= {f"{name}_{level + 1}": value for name, value in seen.items()}
        if restart:
            state = restart_dead(functions, state, vectors[order[-1]], restart_key)
        memory = {name: jnp.zeros_like(leaf) if name.startswith("used_") else leaf for name, leaf in state.memory.items()}
        return lay_out(state._replace(memory=memory), mesh), metrics

    return epoch


def restart_dead(functions: RqVaeFunctions, state: State, vectors: Float[Array, "B D"], key: PRNGKeyArray) -> State:
    """Move every row that `used_<level>` counts 0 for to a residual of these vectors, each to another where they suffice."""
    params, moments, memory = dict(state.params), state.moments, dict(state.memory)
    residuals = functions.levels(state.params, vectors).residuals
    for level, rows in enumerate(functions.books(state.params)):
        dead = memory[f"used_{level}"] == 0
        order = jax.random.permutation(jax.random.fold_in(key, level), len(vectors))
        turn = jnp.cumsum(dead) - 1  # the how-manieth dead row it is
        fresh = residuals[order[turn % len(vectors)], level]
        name = f"codebook_{level}"
        params[name] = jnp.where(dead[:, None], fresh, rows)
        moments = jax.tree_util.tree_map_with_path(functools.partial(forget, name=name, dead=dead), moments)
        if f"total_{level}" in memory:
            memory[f"count_{level}"] = jnp.where(dead, 1.0, memory[f"count_{level}"])
            memory[f"total_{level}"] = jnp.where(dead[:, None], fresh, memory[f"total_{level}"])
    return state._replace(params=params, moments=moments, memory=memory)


def forget(path: tuple, leaf: Array, *, name: str, dead: Array) -> Array:
    """A leaf of the moments with the dead rows of book `name` set to 0; other leaves as they are."""
    mine = path and getattr(path[-1], "key", None) == name
    return jnp.where(dead[:, None], 0.0, leaf) if mine else leaf


@functools.cache
def make_encode(functions: RqVaeFunctions) -> Callable:
    """Compiled `(params, inputs) -> latents`."""
    return jax.jit(functions.encode)


def latents(functions: RqVaeFunctions, params: Params, inputs: Float[Array | np.ndarray, "N D"]) -> Float[np.ndarray, "N W"]:
    """Latents of any number of inputs, in chunks of one shape."""
    encode, out = make_encode(functions), []
    for first in range(0, len(inputs), ENCODED_TOGETHER):
        part = np.asarray(inputs[first : first + ENCODED_TOGETHER], np.float32)
        padded = np.pad(part, ((0, ENCODED_TOGETHER - len(part)), (0, 0)))
        out.append(np.asarray(encode(params, padded))[: len(part)])
    return np.concatenate(out) if out else np.zeros((0, functions.module.config.latent), np.float32)


def code(vectors: Float[np.ndarray, "N D"], fitted: Fitted, *, config: RqVaeConfig) -> Int[np.ndarray, "N T"]:
    """The nearest row at every level, in float32; the same alone as in any company."""
    books = [np.asarray(fitted.params[f"codebook_{t}"]) for t in range(sum(name.startswith("codebook_") for name in fitted.params))]
    functions = RqVaeFunctions(RqVae(config, vectors.shape[1], tuple(len(rows) for rows in books)))
    inputs = (vectors - fitted.mean[None]) / fitted.scale
    return residual.code(latents(functions, fitted.params, inputs), books)[0]
