"""Intervals cover what they should, equal systems are equal, and twins do not pass for agreement."""

import numpy as np
import pytest
import scipy.stats

from lmindexer_jax.evaluation.significance import (
    bootstrap,
    half_sample_difference,
    half_sample_estimate,
    half_sampled,
    half_samples,
    paired_bootstrap,
)

RNG = np.random.default_rng(0)
SKEWED = RNG.exponential(size=80)


def mean_of(scores):
    return lambda rows: {"mean": scores[rows].mean(1)}


def test_bca_is_scipys():
    ours = bootstrap(SKEWED, replicates=20_000)
    theirs = scipy.stats.bootstrap((SKEWED,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    plain = scipy.stats.bootstrap((SKEWED,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.01 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.015 * width)
    assert abs(plain.high - theirs.high) > 0.04 * width, "skew makes a difference here"


def test_paired_p_value_is_that_of_the_t_test():
    first = RNG.normal(size=400)
    second = first + RNG.normal(0.05, 0.5, size=400)
    found = paired_bootstrap(first, second, replicates=20_000)
    assert found.p_value == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue, abs=0.01)
    low, high = scipy.stats.ttest_rel(second, first).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
    assert found.difference == pytest.approx(found.second - found.first)
    back = paired_bootstrap(second, first, replicates=20_000)
    assert back.difference == -found.difference and back.p_value == pytest.approx(found.p_value, abs=0.01)


def test_pairs_see_what_apart_is_noise():
    hard = RNG.normal(0, 10, size=300)
    assert paired_bootstrap(hard, hard + RNG.normal(0.3, 1, 300)).p_value < 0.01
    assert paired_bootstrap(hard, RNG.permutation(hard)).p_value > 0.5


@pytest.mark.parametrize("scores", [SKEWED, np.ones(5), np.array([0.1] * 7)])
def test_equal_systems_are_equal(scores):
    found = paired_bootstrap(scores, scores.copy())
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    values = half_sampled(mean_of(scores), len(scores), replicates=50, seed=0)["mean"]
    found = half_sample_difference(values, values)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_sure_difference_has_the_smallest_p_value():
    assert paired_bootstrap(np.zeros(50), np.ones(50), replicates=999).p_value == 1 / 1000


def test_scores_of_other_units_are_refused():
    with pytest.raises(ValueError, match="same units"):
        paired_bootstrap(np.zeros(3), np.zeros(1))
    with pytest.raises(ValueError, match="same units"):
        paired_bootstrap(np.zeros(0), np.zeros(0))


def test_halves_are_halves_and_the_same_each_time():
    halves = np.concatenate(list(half_samples(101, replicates=300, seed=3)))
    assert halves.shape == (300, 50)
    assert all(len(set(row)) == 50 for row in halves.tolist())
    counts = np.bincount(halves.ravel(), minlength=101)
    assert abs(counts / 300 - 50 / 101).max() < 0.15
    np.testing.assert_array_equal(halves, np.concatenate(list(half_samples(101, replicates=300, seed=3))))
    assert (halves != np.concatenate(list(half_samples(101, replicates=300, seed=4)))).any()


def test_of_a_mean_half_samples_find_the_standard_error():
    values = half_sampled(mean_of(SKEWED), len(SKEWED), replicates=20_000, seed=0)["mean"]
    assert values[0] == SKEWED.mean() and len(values) == 20_001
    assert values[1:].std() == pytest.approx(SKEWED.std(ddof=1) / np.sqrt(len(SKEWED)), rel=0.02)


@pytest.mark.parametrize("way", ["bootstrap", "halves"])
def test_intervals_cover_the_truth(way):
    covered = 0
    for seed in range(400):
        scores = np.random.default_rng(seed).gamma(2.0, size=100)
        if way == "bootstrap":
            found = bootstrap(scores, replicates=300, level=0.9, seed=seed)
        else:
            values = half_sampled(mean_of(scores), 100, replicates=300, seed=seed)["mean"]
            found = half_sample_estimate(values, level=0.9)
        covered += found.low <= 2.0 <= found.high
    # 90 % of 400, three standard deviations, and a little less because skewed samples of 100 are hard for every method.
    assert 335 <= covered <= 378


def test_no_replicates_measure_the_whole_alone():
    values = half_sampled(mean_of(SKEWED), len(SKEWED), replicates=0, seed=0)["mean"]
    assert len(values) == 1
    found = half_sample_estimate(values)
    assert found.low == found.high == found.value == SKEWED.mean()
