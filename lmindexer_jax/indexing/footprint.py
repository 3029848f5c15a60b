"""What a training step takes of a device's memory, from the compiled step, before anything is allocated."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmindexer_jax.indexing.objective import make_objective, start_memory
from lmindexer_jax.indexing.recipe import RecipeConfig, Stage
from lmindexer_jax.models.indexer import IndexerFunctions, Params
from lmindexer_jax.training.optim import make_optimiser, paths, split
from lmindexer_jax.training.sharding import describe, describe_batch, tree_shardings
from lmindexer_jax.training.steps import Batch, State, make_step

FREE = 0.05  # of a device's memory, left to whatever else there is


class Footprint(NamedTuple):
    """Bytes on one device.

    Attributes:
      state: parameters and moments, and the gradients, which are as large as the parameters that move.
      work: batch, activations and whatever is gathered; about proportional to the batch size.
    """

    state: int
    work: int

    @property
    def total(self) -> int:
        """All that a step needs at once."""
        return self.state + self.work


class TracedStep(NamedTuple):
    """A step that is not compiled yet, and the state that it takes, as shapes and shardings."""

    lowered: jax.stages.Lowered
    state: State


def trace_step(
    functions: IndexerFunctions, params: Params, stage: Stage, *, recipe: RecipeConfig, batch: Batch, mesh: Any
) -> TracedStep:
    """Trace a stage's step; no array of it is made.

    Args:
      functions: the indexer.
      params: its parameters, or only their shapes: `jax.eval_shape(functions.init, key)`.
      stage: a stage that trains.
      recipe: of the run.
      batch: a process's share of one batch, whose shapes are read.
      mesh: what the step is to run on.
    """
    rules = stage.rules(paths=tuple(paths(params)))
    optimiser = make_optimiser(stage.optim, rules, params, steps=stage.steps)

    def fresh(params: Params) -> State:
        moments = optimiser.init(split(params, rules)[0])
        return State(params, moments, start_memory(params, stage, recipe), jnp.zeros((), jnp.int32))

    state = describe(jax.eval_shape(fresh, params), mesh)
    step = make_step(make_objective(functions, stage, recipe), optimiser, rules, layout=tree_shardings(state, mesh))
    return TracedStep(step.lower(state, describe_batch(batch, mesh), jax.random.key(0)), state)


def footprint(step: TracedStep) -> Footprint:
    """Compile a step for the devices it was traced for, and ask what it will take.

    Where a compile cache is set the compiled step goes there, and the run finds it.
    """
    found = step.lowered.compile().memory_analysis()
    whole = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
    held = on_one_device(step.state) + on_one_device(step.state.moments) // 2
    return Footprint(held, max(whole - held, 1))


def on_one_device(tree: Any) -> int:
    """Bytes of a tree of described arrays that lie on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def largest_batch(step: Footprint, *, batch_size: int, limit: int, devices: int) -> int:
    """The largest batch size that fits into `limit` bytes a device: the devices times a power of two; 0 if there is none."""
    rows = batch_size / devices * (limit * (1 - FREE) - step.state) / step.work
    return devices * 2 ** math.floor(math.log2(rows)) if rows >= 1 else 0
