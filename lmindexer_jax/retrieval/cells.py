"""The likest documents of a corpus that is too large to compare all of: those below the prefixes whose centres are likest.

Documents that share a prefix lie next to each other in the trie, so semantic IDs are an inverted file (Jegou, Douze and
Schmid 2011) as they are: nothing is clustered for it, and a subset of the documents is a subset of its cells.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmindexer_jax.retrieval.children import spans
from lmindexer_jax.retrieval.permits import Permits
from lmindexer_jax.retrieval.trie import Trie

MOST = 1 << 16  # prefixes whose centres are compared with a query: of the longest prefixes that are no more
VISITED = 1 << 10  # of these are looked into at most
PROBED = 1 << 13  # documents that are compared
_CHUNK = 1 << 16  # vectors in float32 at a time


class Cells(NamedTuple):
    """The prefixes of one length as nodes of a trie, each with the unit mean of its documents' vectors."""

    depth: int
    centres: Float[np.ndarray, "n D"]


def cells(trie: Trie, vectors: Float[np.ndarray, "N D"]) -> Cells:
    """The cells of a trie on the host, of the longest prefixes that there are at most MOST of.

    Args:
      vectors: of its documents by their row, unit length; NaN for one that has none.
    """
    depth = max((t for t in range(1, trie.length + 1) if trie.nodes[t] <= MOST), default=1)
    ends = np.asarray(spans(trie, depth, np.arange(trie.nodes[depth]))[1])
    centres = np.zeros((len(ends), vectors.shape[1]), np.float32)
    for first in range(0, len(trie.documents), _CHUNK):
        rows = np.asarray(trie.documents[first : first + _CHUNK])
        cell = np.searchsorted(ends, first + np.arange(len(rows)), side="right")
        begins = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
        centres[cell[begins]] += np.add.reduceat(np.nan_to_num(vectors[rows].astype(np.float32)), begins, axis=0)
    return Cells(depth, centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12))


@functools.partial(jax.jit, static_argnames=("depth", "count"))
def probe(
    queries: Float[Array, "B D"],
    centres: Float[Array, "n D"],
    trie: Trie,
    permits: Permits | None = None,
    *,
    depth: int,
    count: int = PROBED,
) -> Int[Array, "B count"]:
    """Rows of the first `count` permitted documents of the likest cells, cell by cell; -1 where there are no more.

    Args:
      centres: of the nodes of `depth`, from `cells`; a padded trie has more nodes, which have no documents.
    """
    low, high = spans(trie, depth, jnp.arange(trie.nodes[depth], dtype=jnp.int32))
    some = (high > low) & (trie.documents[low] >= 0)  # a padded leaf has a place, and no document there
    if permits is not None:
        low, high = permits.before[low], permits.before[high]  # from here on places among the permitted documents
        some = high > low
    scores = queries @ jnp.pad(centres, ((0, len(low) - len(centres)), (0, 0))).astype(queries.dtype).T
    numbers = jnp.arange(count, dtype=jnp.int32)

    def below(scores: Float[Array, " n"]) -> Int[Array, " count"]:
        scores, nearest = jax.lax.top_k(jnp.where(some, scores, -jnp.inf), min(VISITED, len(low)))
        sizes = jnp.where(jnp.isneginf(scores), 0, (high - low)[nearest])
        ends = jnp.cumsum(sizes)
        cell = jnp.searchsorted(ends, numbers, side="right")
        real, cell = cell < len(nearest), jnp.minimum(cell, len(nearest) - 1)
        places = (low[nearest] - (ends - sizes))[cell] + numbers
        if permits is not None:
            places = jnp.searchsorted(permits.before, places, side="right") - 1
        return jnp.where(real, trie.documents[jnp.minimum(places, len(trie.documents) - 1)], -1)

    return jax.vmap(below)(scores)
