"""Product quantisation (Jégou et al. 2011): a vector is cut into T blocks, and each block is coded by a book of its own.

Codes of different positions are independent: no position knows another, and none is coarser than another. A book is an
array (K, width of its block).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.indexing.nearest import assign_nearest
from lmindexer_jax.models.quantiser import Similarity


def blocks(width: int, positions: int) -> list[slice]:
    """T runs of dimensions, as even as they can be.

    Raises:
      UserError: more positions than dimensions.
    """
    if positions > width:
        raise UserError(f"product codes: {positions} positions need as many dimensions, the vectors have {width}")
    ends = np.cumsum([len(part) for part in np.array_split(np.arange(width), positions)])
    return [slice(int(start), int(end)) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def fit(
    vectors: Float[np.ndarray, "N D"], position: int, *, positions: int, size: int, key: Array
) -> Float[np.ndarray, "K W"]:
    """The book of one position, counted from 0, of `positions` in all: k-means of its block."""
    block = vectors[:, blocks(vectors.shape[1], positions)[position]]
    return np.asarray(kmeans(block, size, key=key, similarity=Similarity.L2).centres)


def code(vectors: Float[np.ndarray, "N D"], books: list[Float[np.ndarray, "K W"]]) -> Int[np.ndarray, "N T"]:
    """The nearest row of every block; the same alone as in any company."""
    parts = blocks(vectors.shape[1], len(books))
    codes = [assign_nearest(vectors[:, part], jnp.asarray(rows), Similarity.L2) for part, rows in zip(parts, books, strict=True)]
    return np.stack(codes, axis=1)
