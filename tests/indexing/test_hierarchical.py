"""Hierarchical k-means: a tree whose codes nest, whose leaves number their documents, and which new vectors descend."""

import jax
import numpy as np
import pytest

from lmindexer_jax.indexing import hierarchical
from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.models.quantiser import Similarity


def tree(vectors, sizes, seed=0):
    levels = []
    for position, size in enumerate(sizes):
        key = jax.random.fold_in(jax.random.key(seed), position)
        levels.append(hierarchical.fit(vectors, levels, size=size, key=key))
    return levels


@pytest.fixture(scope="module")
def grown():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(12, 8))[rng.integers(12, size=700)] + 0.3 * rng.normal(size=(700, 8))).astype(np.float32)
    vectors[600:650] = vectors[0]  # documents that are all alike
    levels = tree(vectors, (4, 4, 40))
    return vectors, levels, hierarchical.code(vectors, levels)[0]


def test_codes_nest(grown):
    vectors, levels, codes = grown
    assert (codes < (4, 4, 40)).all() and (codes >= 0).all()
    for depth in (1, 2):
        np.testing.assert_array_equal(hierarchical.code(vectors, levels[:depth])[0], codes[:, :depth])
    # Each cluster is clustered by itself: the best rows for its own documents, not for the corpus.
    whole = kmeans(vectors, 4, key=jax.random.key(0), similarity=Similarity.L2)
    first = np.asarray(levels[0].centres)[codes[:, 0]]
    assert np.square(vectors - first).sum() <= 1.05 * whole.inertia
    for number in range(4):
        inside = vectors[codes[:, 0] == number]
        rows = levels[1].centres[levels[1].offsets[number] : levels[1].offsets[number + 1]]
        found = np.square(inside[:, None] - rows[None]).sum(-1).min(1).sum()
        assert found <= 1.1 * kmeans(inside, 4, key=jax.random.key(1), similarity=Similarity.L2, restarts=3).inertia


def test_a_leaf_numbers_its_different_documents(grown):
    vectors, levels, codes = grown
    groups = np.unique(codes[:, :2], axis=0)
    leaves = 0
    for group in groups:
        inside = np.flatnonzero((codes[:, :2] == group).all(axis=1))
        if len(inside) <= 40:
            leaves += 1
            different = len(np.unique(vectors[inside], axis=0))
            assert sorted(set(codes[inside, 2].tolist())) == list(range(different))
    assert leaves > 3
    assert len(np.unique(codes[600:650], axis=0)) == 1, "equal vectors share their codes"


def test_small_clusters_end_early():
    vectors = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    codes = hierarchical.code(vectors, tree(vectors, (8, 8)))[0]
    np.testing.assert_array_equal(codes, [[0, 0], [1, 0], [2, 0], [3, 0], [4, 0]])


def test_fewer_different_vectors_than_centres():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    codes = hierarchical.code(vectors, tree(vectors, (8, 2, 2)))[0]
    assert len(np.unique(codes, axis=0)) == 3


def test_new_vectors_descend_alone_as_in_company(grown):
    vectors, levels, codes = grown
    new = vectors + 0.01 * np.random.default_rng(2).normal(size=vectors.shape).astype(np.float32)
    many = hierarchical.code(new, levels)[0]
    assert np.mean(many[:, 0] == codes[:, 0]) > 0.97
    for row in (0, 301, 699):
        np.testing.assert_array_equal(hierarchical.code(new[row : row + 1], levels)[0][0], many[row])
    far = np.random.default_rng(3).normal(size=(300, 8)).astype(np.float32) * 5
    assert (hierarchical.code(far, levels)[0] < (4, 4, 40)).all(), "every way down has an end"
