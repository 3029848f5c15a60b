"""Intervals cover what they should, equal systems are equal, and twins do not pass for agreement."""

import numpy as np
import pytest
import scipy.stats

from lmindexer_jax.evaluation.significance import (
    half_sample_difference,
    half_sample_estimate,
    half_sampled,
    half_samples,
    paired_test,
)

RNG = np.random.default_rng(0)
SKEWED = RNG.exponential(size=80)


def mean_of(scores):
    return lambda rows: {"mean": scores[rows].mean(1)}


def test_few_signs_are_all_tried():
    """Darwin's pairs of maize plants, by which Fisher (1935, section 21) showed the test: 1,726 of the 32,768 signs."""
    inches = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]) / 8
    found = paired_test(np.zeros(15), inches, replicates=2**14)
    assert found.p_value == 1726 / 32768 and found.low < 0 < found.high
    assert found == paired_test(np.zeros(15), inches, replicates=2**14, seed=1)
    some = [paired_test(np.zeros(15), inches, seed=seed) for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2] and some[0].p_value == pytest.approx(1726 / 32768, abs=0.015)


@pytest.mark.parametrize("units", [1, 2, 3, 5])
def test_fewer_than_six_units_are_never_enough(units):
    first, second = np.full(units, 0.30), np.linspace(0.31, 0.32, units)
    values = [half_sampled(mean_of(scores), units, replicates=500, seed=0)["mean"] for scores in (first, second)]
    for found in (paired_test(first, second), half_sample_difference(*values, units=units)):
        assert found.p_value >= 2.0 ** (1 - units) and found.low is found.high is None
    assert paired_test(first, second).p_value == 2.0 ** (1 - units)
    estimate = half_sample_estimate(values[1], units=units)
    assert estimate.value == second.mean() and estimate.low is estimate.high is None


def test_six_units_may_be_enough():
    found = paired_test(np.zeros(6), np.arange(1.0, 7))
    assert (found.p_value, found.low, found.high) == (1 / 32, 1, 6), "the mildest interval there is: all of the units"
    assert paired_test(np.zeros(6), np.arange(1.0, 7), level=0.99).low is None


def test_the_interval_leaves_out_what_is_significant():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores = rng.choice([0.1, 0.2, 0.3], size=(2, int(rng.integers(6, 40))))  # with ties, and equal but for rounding
        found = paired_test(scores[0], scores[1] + seed % 3 / 20, replicates=199)
        assert (found.low <= 0 <= found.high) == (found.p_value > 0.05)


@pytest.mark.parametrize("units", [6, 7, 12])
def test_halves_of_few_units_are_worth_a_t_test(units):
    rng = np.random.default_rng(units)
    first = rng.normal(size=units)
    second = first + rng.normal(0.4, 1, size=units)
    values = [half_sampled(mean_of(scores), units, replicates=20_000, seed=0)["mean"] for scores in (first, second)]
    found, theirs = half_sample_difference(*values, units=units), scipy.stats.ttest_rel(second, first)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=0.05) and found.p_value > 2.0 ** (1 - units)
    interval = theirs.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.02 * (interval.high - interval.low))


def test_paired_p_value_is_that_of_the_t_test():
    first = RNG.normal(size=400)
    second = first + RNG.normal(0.05, 0.5, size=400)
    found = paired_test(first, second, replicates=20_000)
    assert found.p_value == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue, abs=0.01)
    low, high = scipy.stats.ttest_rel(second, first).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
    assert found.difference == pytest.approx(found.second - found.first)
    back = paired_test(second, first, replicates=20_000)
    assert back.difference == -found.difference and back.p_value == pytest.approx(found.p_value, abs=0.01)


def test_pairs_see_what_apart_is_noise():
    hard = RNG.normal(0, 10, size=300)
    assert paired_test(hard, hard + RNG.normal(0.3, 1, 300)).p_value < 0.01
    assert paired_test(hard, RNG.permutation(hard)).p_value > 0.5


@pytest.mark.parametrize("scores", [SKEWED, np.ones(6), np.array([0.1] * 7)])
def test_equal_systems_are_equal(scores):
    found = paired_test(scores, scores.copy())
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    values = half_sampled(mean_of(scores), len(scores), replicates=50, seed=0)["mean"]
    found = half_sample_difference(values, values, units=len(scores))
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_sure_difference_has_the_smallest_p_value():
    assert paired_test(np.zeros(50), np.ones(50), replicates=999).p_value == 1 / 1000


def test_scores_of_other_units_are_refused():
    with pytest.raises(ValueError, match="same units"):
        paired_test(np.zeros(3), np.zeros(1))
    with pytest.raises(ValueError, match="same units"):
        paired_test(np.zeros(0), np.zeros(0))


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


@pytest.mark.parametrize("way", ["signs", "halves"])
def test_intervals_cover_the_truth(way):
    covered = 0
    for seed in range(400):
        scores = np.random.default_rng(seed).gamma(2.0, size=100)
        if way == "signs":
            found = paired_test(np.zeros(100), scores, replicates=300, level=0.9, seed=seed)
        else:
            values = half_sampled(mean_of(scores), 100, replicates=300, seed=seed)["mean"]
            found = half_sample_estimate(values, units=100, level=0.9)
        covered += found.low <= 2.0 <= found.high
    # 90 % of 400, three standard deviations, and a little less because skewed samples of 100 are hard for every method.
    assert 335 <= covered <= 378


def test_no_replicates_measure_the_whole_alone():
    values = half_sampled(mean_of(SKEWED), len(SKEWED), replicates=0, seed=0)["mean"]
    assert len(values) == 1
    found = half_sample_estimate(values, units=len(SKEWED))
    assert found.value == SKEWED.mean() and found.low is found.high is None, "of its spread nothing is known"
