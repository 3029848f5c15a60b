"""One optimiser step as one compiled function, whatever the objective.

A step is a pure function of (state, batch, key): the state holds every parameter, the moments of the moving ones, and
the stage's memory. Frozen parameters are not differentiated and hold no moments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from lmindexer_jax.training.optim import Rules, merge, split

Params = dict
Batch = dict[str, Array]


class State(NamedTuple):
    """Everything that a step changes."""

    params: Params
    moments: optax.OptState
    memory: dict[str, Array]
    step: Int[Array, ""]  # within the stage


def make_step(
    objective: Callable, optimiser: optax.GradientTransformation, rules: Rules, *, layout: State | None = None
) -> Callable[[State, Batch, PRNGKeyArray], tuple[State, dict[str, Array]]]:
    """Compile `objective` into a training step.

    Args:
      objective: `(params, memory, batch, key) -> (loss, outcome)`; the outcome has metrics, memory, replaced.
      optimiser: over the moving parameters.
      rules: which parameters move.
      layout: a sharding for every leaf of the state, which then lies so after every step; by default as jit decides.

    Returns:
      `(state, batch, stage_key) -> (state, metrics)`. The state is donated. Randomness is a function of the stage's
      key and the step's number, so nothing random is carried.
    """

    def step(state: State, batch: Batch, key: PRNGKeyArray) -> tuple[State, dict[str, Any]]:
        moving, frozen = split(state.params, rules)
        key = jax.random.fold_in(key, state.step)

        def loss(moving: Params) -> tuple[Array, Any]:
            return objective(merge(moving, frozen), state.memory, batch, key)

        (_, outcome), gradient = jax.value_and_grad(loss, has_aux=True)(moving)
        updates, moments = optimiser.update(gradient, state.moments, moving)
        params = merge(optax.apply_updates(moving, updates), frozen) | outcome.replaced
        metrics = outcome.metrics | {"gradient_norm": optax.tree.norm(gradient)}
        return State(params, moments, outcome.memory, state.step + 1), metrics

    if layout is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(layout, None))
