"""The documents whose vectors are likest a query's: of all, or of those below the likest prefixes where there are very many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmindexer_jax.retrieval.cells import cells, probe
from lmindexer_jax.retrieval.permits import Permits
from lmindexer_jax.retrieval.topk import top_k
from lmindexer_jax.retrieval.trie import Trie

SCANNED = 1 << 18  # documents whose vectors all are compared with a query, and lie on the device


class Near:
    """The vectors of a trie's documents, and how they are searched."""

    def __init__(self, trie: Trie, vectors: Float[np.ndarray, "N D"], *, room: int):
        """Puts on the device all vectors or, of more than SCANNED, the centres of cells.

        Args:
          trie: on the host, not padded.
          vectors: in half precision, unit length, by the documents' rows; NaN for one that has none.
          room: documents of the padded trie.
        """
        self.vectors, self.all, self.cells = vectors, None, None
        if len(vectors) <= SCANNED:
            self.all = jax.device_put(np.pad(vectors, ((0, room - len(vectors)), (0, 0)), constant_values=np.nan))
        else:
            found = cells(trie, vectors)
            self.cells = found._replace(centres=jax.device_put(found.centres))

    def __call__(
        self, queries: Float[Array, "B D"], trie: Trie, permits: Permits | None, *, count: int
    ) -> Int[Array | np.ndarray, "B n"]:
        """Rows of the likest documents, best first; -1 where there are no more.

        Args:
          trie: on the device, padded.
          permits: a subset of it.
          count: documents wanted; there are fewer columns where there are not as many.
        """
        if self.all is not None:
            return nearest(queries, self.all, trie, permits, count=min(count, len(self.all)))
        rows = np.asarray(probe(queries, self.cells.centres, trie, permits, depth=self.cells.depth))
        scores = np.full(rows.shape, -np.inf, np.float32)
        for query, vector in enumerate(np.asarray(queries)):
            real = rows[query] >= 0
            scores[query, real] = np.nan_to_num(self.vectors[rows[query, real]].astype(np.float32) @ vector, nan=-np.inf)
        places = top_k(scores, count).rows
        return np.where(places >= 0, np.take_along_axis(rows, np.maximum(places, 0), axis=1), -1)


@functools.partial(jax.jit, static_argnames="count")
def nearest(
    queries: Float[Array, "B D"], documents: Float[Array, "N D"], trie: Trie, permits: Permits | None = None, *, count: int
) -> Int[Array, "B n"]:
    """Rows of the documents of a trie, or of a subset of them, that are nearest by inner product, best first; -1 where there
    are no more. A document of NaN is none."""
    within = trie.documents >= 0 if permits is None else permits.documents
    allowed = jnp.zeros(len(documents), bool).at[jnp.where(within, trie.documents, len(documents))].set(True, mode="drop")
    scores = queries @ documents.astype(queries.dtype).T
    scores, rows = jax.lax.top_k(jnp.where(allowed[None] & ~jnp.isnan(scores), scores, -jnp.inf), count)
    return jnp.where(jnp.isneginf(scores), -1, rows)
