"""Neighbourhoods in a space of words, and the tree that every perplexity can be compared with."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from lmindexer_jax.evaluation.agreement import agreement
from lmindexer_jax.evaluation.id_quality import perplexity
from lmindexer_jax.evaluation.neighbours import nearest_documents, neighbour_agreement
from lmindexer_jax.evaluation.reference import reference_tree
from lmindexer_jax.evaluation.text_space import condensed, text_space

RNG = np.random.default_rng(0)
TOPICS = RNG.integers(0, 12, 600)
WORDS = [f"{chr(97 + i)}{chr(97 + j)}" for i in range(26) for j in range(26)]
TEXTS = [" ".join(RNG.choice(WORDS[20 * topic : 20 * topic + 20], 8)) + " " + " ".join(RNG.choice(WORDS[300:], 2)) for topic in TOPICS]
SPACE = text_space(TEXTS)
TREE = reference_tree(condensed(SPACE))


def test_vectors_are_tf_idf():
    settings = {"binary": True, "norm": None, "smooth_idf": False, "min_df": 2, "stop_words": "english"}
    vectorizer = TfidfVectorizer(token_pattern=r"[^\W\d_][\w'’-]+", **settings)
    expected = vectorizer.fit_transform(TEXTS) - (vectorizer.transform(TEXTS) > 0)  # theirs is 1 + log(N / n)
    expected = expected.toarray() / np.linalg.norm(expected.toarray(), axis=1, keepdims=True)
    columns = [SPACE.vocabulary.index(word) for word in vectorizer.get_feature_names_out()]
    np.testing.assert_allclose(SPACE.vectors.toarray()[:, columns], expected, atol=1e-6)


def test_neighbours_are_scikit_learns():
    found = nearest_documents(SPACE, count=5, most_queries=100)
    brute = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(SPACE.vectors.toarray())
    distances, _ = brute.kneighbors(SPACE.vectors.toarray()[found.queries])
    rows = SPACE.vectors.toarray()
    for query, row, expected in zip(found.queries, found.found, distances):
        assert query not in row and len(set(row.tolist())) == 5
        assert np.sort(1 - rows[row] @ rows[query]) == pytest.approx(expected[1:], abs=1e-5)


def test_random_codes_agree_by_chance_alone_and_topics_do():
    neighbours = nearest_documents(SPACE)
    for size in (4, 60):
        found = neighbour_agreement(RNG.integers(0, size, 600), neighbours)
        assert found.share == pytest.approx(found.chance, abs=0.02) and abs(found.agreement) < 0.02
    found = neighbour_agreement(TOPICS, neighbours)
    assert found.agreement > 0.9 and found.per_query.mean() == found.share
    assert neighbour_agreement(np.zeros(600, np.int64), neighbours).agreement == 0
    assert neighbour_agreement(np.arange(600), neighbours).agreement == 0


def test_chance_is_that_of_any_other_document():
    partition = np.array([0, 0, 0, 1])
    neighbours = nearest_documents(text_space(["xx yy"] * 4 + ["zz"]))
    assert neighbours.found.shape == (5, 10) and (neighbours.found[4] == -1).all()
    found = neighbour_agreement(np.r_[partition, 0], neighbours)
    # Queries 0 to 3 have three neighbours each; 0 is in a group of four, 1 alone.
    assert found.share == pytest.approx((3 * 2 / 3 + 0) / 4) and found.chance == pytest.approx((3 * 3 / 4 + 0) / 4)


def test_texts_without_words():
    space = text_space(["1 2", "", "3"])
    assert (nearest_documents(space).found == -1).all()
    assert neighbour_agreement(np.array([0, 0, 1]), nearest_documents(space)).share == 0
    assert reference_tree(condensed(space)).at(1.0).tolist() == [0, 0, 0]


def test_the_tree_meets_every_perplexity_and_knows_topics():
    tree = TREE
    for wanted in (2.0, 12.0, 50.0, 150.0):
        leaf = tree.at(wanted)
        assert perplexity(np.bincount(leaf)) == pytest.approx(wanted, rel=0.1)
        assert np.array_equal(np.unique(leaf), np.arange(leaf.max() + 1))
    coarse, fine = tree.at(12.0), tree.at(50.0)
    assert len(np.unique(np.c_[coarse, fine], axis=0)) == fine.max() + 1, "leaves are nested"
    assert agreement(coarse, TOPICS).ami > 0.7
    assert tree.at(590.0) is None, "finer than the tree"
    for count, value in enumerate(tree.perplexities[:40]):
        leaf = np.zeros(600, np.int64)
        for number, moved in enumerate(tree.moved[:count], start=1):
            leaf[moved] = number
        assert perplexity(np.bincount(leaf)) == pytest.approx(value, rel=1e-9)


def test_a_table_is_met_at_its_own_perplexity():
    leaf = TREE.like(TOPICS)
    assert perplexity(np.bincount(leaf)) == pytest.approx(perplexity(np.bincount(TOPICS)), rel=0.1)


def test_documents_that_are_all_alike_are_not_split():
    tree = reference_tree(np.ones((20, 4)) / 2)
    assert tree.moved == [] and tree.at(5.0) is None
