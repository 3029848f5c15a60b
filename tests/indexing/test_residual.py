"""Residual k-means: each level lowers the error as well as scikit-learn would, and codes follow the definition."""

import jax
import numpy as np
from sklearn.cluster import KMeans

from lmindexer_jax.indexing import residual


def clustered(rows: int, width: int, parts: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(parts, width))[rng.integers(parts, size=rows)] + 0.6 * rng.normal(size=(rows, width))).astype(np.float32)


def fitted(vectors, sizes, seed=0):
    books = []
    for position, size in enumerate(sizes):
        books.append(residual.fit(vectors, books, size=size, key=jax.random.fold_in(jax.random.key(seed), position)))
    return books


def test_the_error_falls_by_level_as_with_scikit_learn():
    vectors = clustered(1500, 12, 30)
    books = fitted(vectors, (16, 16, 16))
    ours = [np.square(residual.code(vectors, books[:level])[1]).sum() for level in range(4)]
    assert all(below < above for above, below in zip(ours, ours[1:]))
    # Level by level on the same residuals, so that one level's luck is not the next one's task.
    for level, rows in enumerate(books):
        _, rest = residual.code(vectors, books[:level])
        theirs = KMeans(16, n_init=2, random_state=0).fit(rest)
        assert ours[level + 1] <= 1.02 * theirs.inertia_


def test_codes_are_greedy_nearest_rows():
    """faiss' ResidualQuantizer with a beam of one, written out."""
    vectors = clustered(1500, 12, 30)
    books = fitted(vectors, (16, 16))
    codes, rest = residual.code(vectors, books)
    for row in range(0, 1500, 10):
        left = vectors[row].astype(np.float64)
        for level, rows in enumerate(books):
            distances = np.square(left - rows).sum(axis=1)
            assert distances[codes[row, level]] <= distances.min() + 1e-5
            left = left - rows[codes[row, level]]
        np.testing.assert_allclose(rest[row], left, atol=1e-5)


def test_alone_as_in_company():
    vectors = clustered(1500, 12, 30)
    books = fitted(vectors, (16, 16))
    codes, _ = residual.code(vectors, books)
    for row in (0, 123, 1499):
        np.testing.assert_array_equal(residual.code(vectors[row : row + 1], books)[0][0], codes[row])
    assert residual.code(vectors[:0], books)[0].shape == (0, 2)
