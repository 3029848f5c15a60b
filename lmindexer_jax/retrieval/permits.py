"""What a search may return: a subset of the documents for all queries, and what each query has seen already left out.

Both prune the trie from its leaves: a node is open while a document below it may still be returned, so a beam never
walks into a dead end. Probabilities do not change; only what is returned does.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from lmindexer_jax.retrieval.children import leaf_spans, parents, spans
from lmindexer_jax.retrieval.trie import Trie


class Permits(NamedTuple):
    """A subset of a trie's documents, as a pytree.

    Attributes:
      documents: which of `trie.documents`, by their places there.
      before: how many of these come before each place, and their number.
      nodes: for each depth 1..T, which nodes have one below them.
      rows: `trie.rows` restricted to such nodes.
    """

    documents: Bool[Array, " N"]
    before: Int[Array, " N+1"]
    nodes: tuple[Bool[Array, " n"], ...]
    rows: tuple[Bool[Array, "n K"] | None, ...]


def permit(trie: Trie, allowed: Bool[Array, " N"]) -> Permits:
    """The subset of the documents whose rows of the table are true: available ones, or those of a category."""
    allowed = jnp.asarray(allowed)
    documents = allowed[jnp.maximum(trie.documents, 0)] & (trie.documents >= 0)
    before = _counted(documents)
    low, high = spans(trie, trie.length, jnp.arange(trie.nodes[-1]))
    nodes = [before[high] > before[low]]
    for first in trie.first[:0:-1]:
        below = _counted(nodes[0])
        nodes.insert(0, below[first[1:]] > below[first[:-1]])
    rows = []
    for depth, dense in enumerate(trie.rows):
        if dense is not None:
            children = jnp.arange(trie.nodes[depth + 1])
            real = children < trie.first[depth][-1]
            above = jnp.where(real, parents(trie, depth + 1, children), len(dense))
            dense = jnp.zeros(dense.shape, bool).at[above, trie.codes[depth]].set(nodes[depth], mode="drop")
        rows.append(dense)
    return Permits(documents, before, tuple(nodes), tuple(rows))


def _counted(flags: Bool[Array, " N"]) -> Int[Array, " N+1"]:
    return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(flags, dtype=jnp.int32)])


class Closed(NamedTuple):
    """What each query may not enter any more.

    Attributes:
      nodes: for each depth 0..T, nodes of which nothing is left, each once and in ascending order, with -1 in between for none.
      documents: rows of the table, -1 for none.
    """

    nodes: tuple[Int[Array, "B S"], ...]
    documents: Int[Array, "B S"]


def close(trie: Trie, seen: Int[Array, "B S"], *, permits: Permits | None = None) -> Closed:
    """Leave out the documents that each query has seen.

    Args:
      seen: rows of the table, in any order and perhaps twice; -1 for none.
      permits: the subset that is searched; a node is closed when all of the subset below it is seen.
    """
    # In the order of their leaves, and so of their nodes at every depth: those of one node are neighbours.
    leaves = jnp.where(seen < 0, trie.nodes[-1], trie.leaf[jnp.maximum(seen, 0)])
    nodes, rows = jax.lax.sort((leaves, seen), num_keys=2)
    counts = (rows >= 0) & (rows != _before(rows))  # each document once
    if permits is not None:
        # A document's own permission, found by its place among the documents of its leaf.
        low, _ = spans(trie, trie.length, nodes)
        places = low[..., None] + jnp.arange(trie.sharing, dtype=low.dtype)[None, None]
        places = jnp.minimum(places, len(trie.documents) - 1)
        counts &= jnp.any((trie.documents[places] == rows[..., None]) & permits.documents[places], axis=-1)
    counted, closed = jax.vmap(_counted)(counts), []
    for depth in range(trie.length, -1, -1):
        low, high = spans(trie, depth, nodes)
        left = high - low if permits is None else permits.before[high] - permits.before[low]
        begin, end = (jax.vmap(functools.partial(jnp.searchsorted, side=side))(nodes, nodes) for side in ("left", "right"))
        gone = jnp.take_along_axis(counted, end, axis=1) - jnp.take_along_axis(counted, begin, axis=1)
        closed.insert(0, jnp.where((nodes != _before(nodes)) & (gone >= jnp.maximum(left, 1)), nodes, -1))
        nodes = parents(trie, depth, nodes) if depth else nodes
    return Closed(tuple(closed), jnp.where(seen >= 0, seen, -1))


def _before(values: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """Of each, the one before it in its row; -1 before the first."""
    return jnp.pad(values, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]


def closed_slots(trie: Trie, depth: int, *, nodes: Int[Array, "B X"], closed: Closed, dense: bool) -> Bool[Array, "B X C"]:
    """Which children of nodes of the given depth are closed: by code where `dense`, else by their order."""
    below = closed.nodes[depth + 1]
    above = jnp.where(below < 0, -2, parents(trie, depth + 1, jnp.maximum(below, 0)))
    if dense:
        places, width = trie.codes[depth][jnp.maximum(below, 0)].astype(jnp.int32), trie.sizes[depth]
    else:
        places, width = below - trie.first[depth][jnp.maximum(above, 0)], trie.widest[depth]
    shape = (*nodes.shape, below.shape[1])
    places = jnp.where(nodes[:, :, None] == above[:, None, :], jnp.broadcast_to(places[:, None, :], shape), width)
    query = jnp.broadcast_to(jnp.arange(shape[0])[:, None, None], shape)
    beam = jnp.broadcast_to(jnp.arange(shape[1])[None, :, None], shape)
    return jnp.zeros((*nodes.shape, width), bool).at[query, beam, places].set(True, mode="drop")


def open_leaves(
    trie: Trie, depth: int, nodes: Int[Array, "B X C"], *, permits: Permits | None, closed: Closed | None
) -> Int[Array, "B X C"]:
    """How many IDs below nodes of the given depth may be returned."""
    low, high = leaf_spans(trie, depth, nodes)
    left = high - low
    if permits is not None:
        before = _counted(permits.nodes[-1])
        left = before[high] - before[low]
    if closed is not None:
        gone = jnp.sort(jnp.where(closed.nodes[-1] < 0, trie.nodes[-1], closed.nodes[-1]), axis=1)
        left -= jax.vmap(jnp.searchsorted)(gone, high) - jax.vmap(jnp.searchsorted)(gone, low)
    return left


def first_open_document(
    trie: Trie, leaves: Int[Array, "B M"], *, permits: Permits | None, closed: Closed | None
) -> Int[Array, "B M"]:
    """The first document of each leaf, in the order of the table, that may be returned; -1 where a leaf is -1."""
    safe = jnp.maximum(leaves, 0)
    low, high = spans(trie, trie.length, safe)
    places = low[..., None] + jnp.arange(trie.sharing, dtype=low.dtype)[None, None]
    good = places < high[..., None]
    places = jnp.minimum(places, len(trie.documents) - 1)
    rows = trie.documents[places]
    if permits is not None:
        good &= permits.documents[places]
    if closed is not None:
        good &= ~jnp.any(rows[..., None] == closed.documents[:, None, None, :], axis=-1)
    first = jnp.argmax(good, axis=-1)
    found = jnp.take_along_axis(rows, first[..., None], axis=-1)[..., 0]
    return jnp.where(good.any(-1) & (leaves >= 0), found, -1)
