"""Counts per word against scikit-learn, in one piece and streamed."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from lmindexer_jax.evaluation.macro_f1 import accuracy, count, count_sets, macro_f1, no_counts

RNG = np.random.default_rng(0)
TRUE = RNG.integers(0, 30, 3000)
PREDICTED = np.where(RNG.random(3000) < 0.4, TRUE, RNG.integers(5, 40, 3000))


def test_against_scikit_learn():
    counts = count(PREDICTED, TRUE, vocabulary=64)
    assert macro_f1(counts) == pytest.approx(f1_score(TRUE, PREDICTED, average="macro"), abs=1e-12)
    assert accuracy(counts) == pytest.approx(accuracy_score(TRUE, PREDICTED), abs=1e-12)


def test_batches_add_up():
    total = no_counts(64)
    for part in np.array_split(np.arange(3000), 7):
        total = total.plus(count(PREDICTED[part], TRUE[part], vocabulary=64))
    for streamed, whole in zip(total, count(PREDICTED, TRUE, vocabulary=64)):
        np.testing.assert_array_equal(streamed, whole)


def test_sets_by_hand():
    counts = count_sets(
        [np.array([1, 2, 2]), np.array([3])], [np.array([2, 1, 1, 4]), np.array([4])], vocabulary=6
    )
    # word 1: F1 1; word 2: F1 1; word 3: predicted once, wrong: 0; word 4: two documents, never predicted: 0
    assert macro_f1(counts) == pytest.approx(0.5) and accuracy(counts) == pytest.approx(2 / 3)


def test_nothing_counted_is_zero():
    assert macro_f1(no_counts(5)) == accuracy(no_counts(5)) == 0.0
