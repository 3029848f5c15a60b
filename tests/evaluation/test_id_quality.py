"""Usage, prefixes and collisions against hand counts and properties."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lmindexer_jax.evaluation.id_quality import collisions, gini, perplexity, prefix_ids, usage

CODES = st.integers(1, 40).flatmap(lambda n: st.integers(1, 4).flatmap(lambda t: arrays(np.int32, (n, t), elements=st.integers(0, 3))))


@given(CODES)
def test_prefix_ids_are_equal_exactly_where_prefixes_are(codes):
    ids = prefix_ids(codes)
    for t in range(codes.shape[1]):
        same = (codes[:, None, : t + 1] == codes[None, :, : t + 1]).all(-1)
        np.testing.assert_array_equal(same, ids[:, None, t] == ids[None, :, t])
        assert set(ids[:, t]) == set(range(ids[:, t].max() + 1))


def test_prefix_ids_survive_many_large_codes():
    codes = np.random.default_rng(0).integers(0, 60_000, (500, 6))
    assert len(np.unique(prefix_ids(codes)[:, -1])) == 500


def one(codes, size):
    """Usage of a single position."""
    return usage(np.asarray(codes)[:, None], (size,))[0]


def test_usage_of_an_even_codebook():
    found = one(np.repeat(np.arange(8), 5), 8)
    assert found.usage == 1 and found.dead == 0
    assert found.perplexity == found.perplexity_within == pytest.approx(8, abs=1e-12)
    assert found.largest_share == pytest.approx(1 / 8) and found.gini == pytest.approx(0, abs=1e-12)


def test_usage_of_a_collapsed_codebook():
    found = one(np.zeros(30, np.int32), 10)
    assert (found.usage, found.dead, found.perplexity, found.largest_share) == (0.1, 9, 1.0, 1.0)
    assert found.gini == pytest.approx(0.9, abs=1e-12)


def test_usage_by_hand():
    found = one([0, 0, 0, 2], 4)
    nats = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert found.perplexity == pytest.approx(np.exp(nats), abs=1e-12)
    # Mean absolute difference over all pairs, over twice the mean.
    counts = np.array([3, 0, 1, 0])
    assert found.gini == pytest.approx(np.abs(counts[:, None] - counts[None]).mean() / (2 * counts.mean()), abs=1e-12)


@given(CODES, st.randoms())
def test_names_of_codes_do_not_matter(codes, random):
    names = list(range(4))
    random.shuffle(names)
    renamed = np.array(names)[codes]
    assert collisions(codes) == collisions(renamed)
    sizes = (4,) * codes.shape[1]
    for before, after in zip(usage(codes, sizes), usage(renamed, sizes)):
        assert dataclasses.astuple(before) == pytest.approx(dataclasses.astuple(after), rel=1e-12)


@given(CODES)
def test_perplexity_within_is_of_the_entropy_averaged_over_documents(codes):
    for t, found in enumerate(usage(codes, (4,) * codes.shape[1])):
        groups = {}
        for row in codes:
            groups.setdefault(tuple(row[:t]), []).append(row[t])
        nats = sum(len(g) * np.log(perplexity(np.bincount(g))) for g in groups.values()) / len(codes)
        assert found.perplexity_within == pytest.approx(np.exp(nats), rel=1e-9)


def test_a_repeated_code_has_perplexity_one_within():
    first = np.arange(60) % 6
    rows = usage(np.stack([first, (first * 5) % 6], 1), (6, 6))
    assert [row.perplexity_within for row in rows] == pytest.approx([6, 1])
    assert rows[1].perplexity == pytest.approx(6)


def test_collisions_by_hand():
    found = collisions(np.array([[0, 1], [0, 1], [0, 2], [3, 1], [0, 1]]))
    assert dataclasses.astuple(found) == (3, 0.6, 3, 3)


def test_distinct_ids_do_not_collide():
    assert dataclasses.astuple(collisions(np.arange(20).reshape(20, 1))) == (20, 1.0, 0, 1)


def test_entropy_is_the_log_of_perplexity_and_adds_up():
    codes = np.random.default_rng(0).integers(0, 5, (300, 2))
    first, second = usage(codes, (5, 5))
    assert np.exp(first.entropy) == pytest.approx(first.perplexity) and first.entropy_within == pytest.approx(first.entropy)
    joint = perplexity(np.unique(codes, axis=0, return_counts=True)[1])
    assert first.entropy + second.entropy_within == pytest.approx(np.log(joint), abs=1e-12)


@given(arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 20)), st.integers(0, 5))
def test_gini_is_the_mean_difference(counts, missing):
    whole = np.r_[counts, np.zeros(missing, np.int64)]
    found = gini(counts, np.zeros(len(counts), np.int64), places=np.array([len(whole)]))[0]
    expected = np.abs(whole[:, None] - whole[None]).mean() / (2 * whole.mean()) if whole.any() else (len(whole) - 1) / len(whole)
    assert found == pytest.approx(expected, abs=1e-12)


def test_gini_within_a_group_knows_how_far_its_documents_could_spread():
    # Group 0: four documents as spread as they can be. Group 1: four in one code of the four places that they have.
    codes = np.array([[0, 0], [0, 1], [0, 2], [0, 3], [1, 7], [1, 7], [1, 7], [1, 7]])
    assert usage(codes, (2, 8))[1].gini_within == pytest.approx((0 + 0.75) / 2)
    # More documents than codes: all codes are places.
    assert usage(np.array([[0, 0]] * 6 + [[0, 1]] * 2), (1, 2))[1].gini_within == pytest.approx(0.25)
