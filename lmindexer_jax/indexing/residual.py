"""Residual k-means: every position clusters what the positions before it left over.

A vector is approximated by a sum of rows, one of each book (residual quantisation, Chen et al. 2010; without a beam).
A book is an array (K, D) of rows; near means a small distance.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.indexing.nearest import assign_nearest
from lmindexer_jax.models.quantiser import Similarity


def fit(
    vectors: Float[np.ndarray, "N D"], books: list[Float[np.ndarray, "K D"]], *, size: int, key: Array
) -> Float[np.ndarray, "K D"]:
    """The next book: k-means of the residuals after the books so far."""
    _, rest = code(vectors, books)
    return np.asarray(kmeans(rest, size, key=key, similarity=Similarity.L2).centres)


def code(
    vectors: Float[np.ndarray, "N D"], books: list[Float[np.ndarray, "K D"]]
) -> tuple[Int[np.ndarray, "N T"], Float[np.ndarray, "N D"]]:
    """Codes of all books, and what they leave over.

    A vector gets the same codes alone as in any company.
    """
    codes = np.zeros((len(vectors), len(books)), np.int32)
    rest = np.asarray(vectors, np.float32)
    for position, rows in enumerate(books):
        codes[:, position] = assign_nearest(rest, jnp.asarray(rows), Similarity.L2)
        rest = rest - np.asarray(rows)[codes[:, position]]
    return codes, rest
