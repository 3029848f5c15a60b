"""Measures of two partitions on many samples at once, against scikit-learn and scipy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from lmindexer_jax.evaluation.contingency import contingency_measures, entropies, expected_x_log_x
from lmindexer_jax.evaluation.significance import half_sample_estimate, half_sampled, half_samples

RNG = np.random.default_rng(0)


def made(documents, codes, labels, *, skew, seed=0):
    """A partition that follows skewed labels half of the time."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1.0, labels + 1) ** -skew
    given = rng.choice(labels, documents, p=shares / shares.sum())
    found = np.where(rng.random(documents) < 0.5, given * 7 % codes, rng.integers(0, codes, documents))
    return found, given


def scikit_learns(found, given):
    homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(given, found)
    matrix = metrics.cluster.contingency_matrix(given, found)
    return {
        "ami": metrics.adjusted_mutual_info_score(given, found),
        "nmi": metrics.normalized_mutual_info_score(given, found, average_method="geometric"),
        "v_measure": v_measure,
        "homogeneity": homogeneity,
        "completeness": completeness,
        "purity": matrix.max(0).sum() / matrix.sum(),
    }


def whole(found, given):
    return {name: float(value[0]) for name, value in contingency_measures(found, given, np.arange(len(found))[None, :]).items()}


@pytest.mark.parametrize(
    ("documents", "codes", "labels", "skew"),
    [(3000, 256, 100, 1.0), (3000, 2500, 100, 1.2), (6000, 4, 3, 2.0), (3000, 64, 6, 3.0), (40, 40, 40, 0.0), (500, 1, 5, 0.0)],
)
def test_one_sample_is_scikit_learns(documents, codes, labels, skew):
    found, given = made(documents, codes, labels, skew=skew)
    assert whole(found, given) == pytest.approx(scikit_learns(found, given), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
@example(documents=23, codes=1, labels=2, seed=0)
def test_small_tables_too(documents, codes, labels, seed):
    rng = np.random.default_rng(seed)
    found, given = rng.integers(0, codes, documents), rng.integers(0, labels, documents)
    ours, theirs = whole(found, given), scikit_learns(found, given)
    if len(set(found)) == len(set(given)) == documents:  # nothing but chance can be expected: AMI is 0/0
        ours.pop("ami"), theirs.pop("ami")
    assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(("codes", "labels", "skew"), [(200, 80, 1.2), (8, 4, 2.0)])
def test_many_samples_are_what_each_is_alone(codes, labels, skew):
    found, given = made(4000, codes, labels, skew=skew)
    rows = next(half_samples(4000, replicates=40, seed=0))
    many = contingency_measures(found, given, rows)
    for sample in range(3):
        alone = scikit_learns(found[rows[sample]], given[rows[sample]])
        assert {name: value[sample] for name, value in many.items()} == pytest.approx(alone, abs=1e-6)
        assert abs(many["purity"][sample] - alone["purity"]) < 1e-12


def test_the_expectation_is_that_of_the_hypergeometric():
    x = np.arange(31)
    term = scipy.stats.hypergeom(100, 40, 30).pmf(x) @ (x * np.log(np.maximum(x, 1)))
    rest = scipy.stats.hypergeom(100, 60, 30).pmf(x) @ (x * np.log(np.maximum(x, 1)))
    found = expected_x_log_x(np.array([[40, 0, 60]]), np.array([[30, 30]]), total=100)
    assert found == pytest.approx([2 * (term + rest)], rel=1e-12)


def test_random_codes_are_worth_nothing_also_in_halves_but_not_in_a_bootstrap():
    found, given = RNG.integers(0, 60, 1500), RNG.integers(0, 40, 1500)
    values = half_sampled(lambda rows: contingency_measures(found, given, rows), 1500, replicates=100, seed=0)["ami"]
    assert abs(values[0]) < 0.01 and abs(values[1:].mean()) < 0.01
    rows = RNG.integers(0, 1500, (20, 1500))
    assert contingency_measures(found, given, rows)["ami"].mean() > 0.05, "why halves are drawn without replacement"


def test_intervals_of_ami_cover_the_truth():
    def corpus(seed, documents=400):
        rng = np.random.default_rng(seed)
        given = rng.integers(0, 8, documents)
        return np.where(rng.random(documents) < 0.5, given, rng.integers(0, 8, documents)), given

    truth = np.mean([whole(*corpus(10_000 + seed))["ami"] for seed in range(200)])
    covered = 0
    for seed in range(200):
        found, given = corpus(seed)
        values = half_sampled(lambda rows: {"ami": contingency_measures(found, given, rows)["ami"]}, 400, replicates=100, seed=seed)
        estimate = half_sample_estimate(values["ami"], units=400, level=0.9)
        covered += estimate.low <= truth <= estimate.high
    assert 165 <= covered <= 194  # 180 are expected; three standard deviations


def test_entropy_of_samples():
    found, _ = made(1000, 30, 20, skew=1.0)
    rows = next(half_samples(1000, replicates=4, seed=0))
    expected = [scipy.stats.entropy(np.bincount(found[row])) for row in rows]
    assert entropies(found, rows) == pytest.approx(expected, abs=1e-12)
