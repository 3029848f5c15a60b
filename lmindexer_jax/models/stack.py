"""How a stack of like layers is run: one after the other, computed twice to save memory, or as a loop over one compiled layer.

The parameters are the same tree either way. A loop stacks them as it begins, so that rules of learning rates, shardings,
checkpoints and weights of others know nothing of it; gradients come back through the same stack.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Hidden = Float[Array, "B L D"]


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """Time for memory, and the time of a compilation for that of a step (docs/performance.md has both measured)."""

    remat: bool = False  # keep what goes into each layer alone, and compute its insides again in the backward pass
    scan: bool = False  # compile one layer and loop over it; dropout draws other masks than without


def run_stack(layers: Sequence[nn.Module], hidden: Hidden, call: Callable[[Any, Hidden], Hidden], config: StackConfig) -> Hidden:
    """`hidden` through all layers.

    Args:
      layers: of one kind and size, bound to the module that calls this.
      hidden: what the first one reads.
      call: `(layer, hidden) -> hidden`; whatever else a layer reads is closed over, and is the same for all.
      config: how.
    """
    if not config.scan or len(layers) < 2 or layers[0].is_initializing():
        call = nn.remat(call) if config.remat else call
        for layer in layers:
            hidden = call(layer, hidden)
        return hidden
    apply = nn.apply(call, layers[0].clone(parent=None))
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(layer.variables["params"] for layer in layers))
    keys = jax.random.split(layers[0].make_rng("dropout"), len(layers)) if layers[0].has_rng("dropout") else None

    def body(hidden: Hidden, layer: tuple[Any, Array | None]) -> tuple[Hidden, None]:
        params, key = layer
        return apply({"params": params}, hidden, rngs=None if key is None else {"dropout": key}), None

    body = jax.checkpoint(body, prevent_cse=False) if config.remat else body  # a loop keeps what is computed twice apart
    return jax.lax.scan(body, hidden, (params, keys))[0]
