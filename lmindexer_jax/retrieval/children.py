"""Looking up children on the device: from prefix codes to nodes, and from nodes to what may follow."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from lmindexer_jax.retrieval.trie import END, Trie


def descend(trie: Trie, depth: int, nodes: Int[Array, "*S"], codes: Int[Array, "*S"]) -> Int[Array, "*S"]:
    """The children with the given codes, of nodes of the given depth; -1 where there is none, or where a node is -1.

    A binary search among each node's children.
    """
    first, below = trie.first[depth], trie.codes[depth]
    low, high = first[jnp.maximum(nodes, 0)], first[jnp.maximum(nodes, 0) + 1]
    end = high
    for _ in range(trie.widest[depth].bit_length()):
        middle = low + (high - low) // 2
        right = (below[jnp.minimum(middle, len(below) - 1)] < codes) & (low < high)
        low, high = jnp.where(right, middle + 1, low), jnp.where(right, high, middle)
    found = (low < end) & (below[jnp.minimum(low, len(below) - 1)] == codes) & (nodes >= 0)
    return jnp.where(found, low, -1)


def find(trie: Trie, codes: Int[Array, "*S P"]) -> Int[Array, "*S"]:
    """The node of every prefix, -1 where no ID begins so; an end may be -1 (`END`) or the end marker."""
    nodes = jnp.zeros(codes.shape[:-1], jnp.int32)
    for depth in range(codes.shape[-1]):
        nodes = descend(trie, depth, nodes, _marked(trie, depth, codes[..., depth]))
    return nodes


def _marked(trie: Trie, position: int, codes: Int[Array, "*S"]) -> Int[Array, "*S"]:
    return codes if trie.end(position) is None else jnp.where(codes == END, trie.end(position), codes)


class Slots(NamedTuple):
    """A node's children in a row as long as the most that a node of its depth has."""

    nodes: Int[Array, "*S C"]
    codes: Int[Array, "*S C"]
    real: Bool[Array, "*S C"]


def slots(trie: Trie, depth: int, nodes: Int[Array, "*S"]) -> Slots:
    """The children of nodes of the given depth, in the order of their codes; none for a node that is -1."""
    first, below = trie.first[depth], trie.codes[depth]
    safe = jnp.maximum(nodes, 0)
    low, high = first[safe], jnp.where(nodes < 0, 0, first[safe + 1])
    children = low[..., None] + _along(nodes, jnp.arange(trie.widest[depth], dtype=jnp.int32))
    real = children < high[..., None]
    return Slots(children, below[jnp.minimum(children, len(below) - 1)].astype(jnp.int32), real)


def _along(like: Int[Array, "*S"], values: Int[Array, " C"]) -> Int[Array, "*ones C"]:
    return values.reshape((1,) * like.ndim + values.shape)


def node_mask(trie: Trie, depth: int, nodes: Int[Array, "*S"]) -> Bool[Array, "*S K"]:
    """Which codes may follow nodes of the given depth; none where a node is -1."""
    if trie.rows[depth] is not None:
        return trie.rows[depth][jnp.maximum(nodes, 0)] & (nodes >= 0)[..., None]
    flat = nodes.reshape(-1)
    found = slots(trie, depth, flat)
    places = jnp.where(found.real, found.codes, trie.sizes[depth])  # beyond the last code: dropped
    mask = jnp.zeros((len(flat), trie.sizes[depth]), bool)
    mask = mask.at[jnp.arange(len(flat))[:, None], places].set(True, mode="drop")
    return mask.reshape(*nodes.shape, -1)


def children_mask(trie: Trie, codes: Int[Array, "*S P"]) -> Bool[Array, "*S K"]:
    """Which codes may follow each prefix of P codes; none after a prefix that no ID has.

    With logits masked so at every position, the cross-entropy of an ID's codes is exactly -log p(ID) among all IDs.
    """
    return node_mask(trie, codes.shape[-1], find(trie, codes))


def children_masks(trie: Trie, codes: Int[Array, "*S T"]) -> tuple[Bool[Array, "*S K"], ...]:
    """`children_mask` of every prefix of whole IDs, 0..T-1 codes long, in one walk."""
    nodes, masks = jnp.zeros(codes.shape[:-1], jnp.int32), []
    for depth in range(trie.length):
        masks.append(node_mask(trie, depth, nodes))
        nodes = descend(trie, depth, nodes, _marked(trie, depth, codes[..., depth]))
    return tuple(masks)


def parents(trie: Trie, depth: int, nodes: Int[Array, "*S"]) -> Int[Array, "*S"]:
    """The parents, of depth `depth` - 1, of nodes of the given depth (1 or more)."""
    return (jnp.searchsorted(trie.first[depth - 1], nodes, side="right") - 1).astype(jnp.int32)


def leaf_spans(trie: Trie, depth: int, nodes: Int[Array, "*S"]) -> tuple[Int[Array, "*S"], Int[Array, "*S"]]:
    """Where the leaves below nodes of the given depth begin and end."""
    low, high = nodes, nodes + 1
    for first in trie.first[depth:]:
        low, high = first[low], first[high]
    return low, high


def spans(trie: Trie, depth: int, nodes: Int[Array, "*S"]) -> tuple[Int[Array, "*S"], Int[Array, "*S"]]:
    """Where the documents below nodes of the given depth begin and end in `trie.documents`."""
    low, high = leaf_spans(trie, depth, nodes)
    return (low, high) if trie.starts is None else (trie.starts[low], trie.starts[high])


def node_codes(trie: Trie, depth: int, nodes: Int[Array, "*S"]) -> Int[Array, "*S P"]:
    """The prefix c_1..c_depth of nodes of the given depth; ends are end markers."""
    codes = []
    for above in range(depth, 0, -1):
        codes.append(trie.codes[above - 1][nodes].astype(jnp.int32))
        nodes = parents(trie, above, nodes)
    return jnp.stack(codes[::-1], axis=-1) if codes else jnp.zeros((*nodes.shape, 0), jnp.int32)
