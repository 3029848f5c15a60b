"""Diverse beam search (Vijayakumar et al., 2018): groups of beams choose in turn, each among the children of its own beams.

Groups may keep the same prefix, but no more of them than there are IDs below it, so that each can end at an ID of its own.
A group whose beams have too few children left goes on from those of the others. So no prefix is lost while there is room
for it, and together the groups find as many IDs as one search of all their beams does.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def in_turn(
    totals: Float[Array, "B X C"],
    codes: Int[Array, "B X C"],
    room: Int[Array, "B X C"],
    *,
    nodes: Int[Array, "B X"],
    groups: int,
    wanted: int,
    codebook: int,
    diversity: float,
) -> tuple[Int[Array, "B Y"], Bool[Array, "B Y"]]:
    """Places of the candidates that each group chooses, and which of them are candidates at all.

    Args:
      totals: scores of the children of every beam, -inf for none; the beams of one group side by side.
      codes: of the children.
      room: IDs below each child that may be found.
      nodes: of the beams; one is shared by all groups at the root.
      groups: G.
      wanted: children that a group keeps: Y / G.
      codebook: codes that there are at this position.
      diversity: what a code costs for each of the earlier groups' beams that has just chosen it.
    """
    batch, count, width = totals.shape
    query = jnp.arange(batch)[:, None]
    same = nodes[:, :, None] == nodes[:, None, :]
    first = jnp.argmax(same, axis=2)  # of the beams on one node; what is held of its children is counted there
    used, held = jnp.zeros((batch, codebook)), jnp.zeros(totals.shape, jnp.int32)
    size = max(1, count // groups)
    chosen, alive = [], []
    for group in range(groups):
        low = min(group * size, count - size)
        keys = totals - diversity * used[query[..., None], codes]
        keys = jnp.where(held[query, first] < room, keys, -jnp.inf)
        own, places = jax.lax.top_k(keys[:, low : low + size].reshape(batch, -1), min(wanted, size * width))
        lent = (first == jnp.arange(count)[None]) & ~same[:, low : low + size].any(1)
        others, more = jax.lax.top_k(jnp.where(lent[..., None], keys, -jnp.inf).reshape(batch, -1), wanted)
        real = jnp.concatenate([own, others], axis=1) > -jnp.inf
        order = jnp.argsort(~real, axis=1, stable=True)[:, :wanted]  # its own come first
        index = jnp.take_along_axis(jnp.concatenate([low * width + places, more], axis=1), order, axis=1)
        real = jnp.take_along_axis(real, order, axis=1)
        parents = index // width
        used = used.at[query, codes[query, parents, index % width]].add(real.astype(used.dtype))
        held = held.at[query, first[query, parents], index % width].add(real.astype(held.dtype))
        chosen.append(index)
        alive.append(real)
    return jnp.concatenate(chosen, axis=1), jnp.concatenate(alive, axis=1)
