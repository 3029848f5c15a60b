"""Product quantisation: k-means of every block by itself (faiss' IndexPQ, written out)."""

import jax
import numpy as np
import pytest

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import product
from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.models.quantiser import Similarity


def test_codes_are_per_block_k_means():
    vectors = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    keys = [jax.random.key(position) for position in range(3)]
    books = [product.fit(vectors, p, positions=3, size=8, key=key) for p, key in enumerate(keys)]
    parts = [vectors[:, :4], vectors[:, 4:7], vectors[:, 7:]]
    codes = product.code(vectors, books)
    for position, (part, key) in enumerate(zip(parts, keys)):
        alone = kmeans(part, 8, key=key, similarity=Similarity.L2)
        np.testing.assert_array_equal(books[position], alone.centres)
        np.testing.assert_array_equal(codes[:, position], alone.codes)
    np.testing.assert_array_equal(product.code(vectors[7:8], books)[0], codes[7])


def test_more_positions_than_dimensions_is_one_line():
    with pytest.raises(UserError, match="3 positions"):
        product.blocks(2, 3)
