"""Macro-F1 and accuracy from counts per word, so that they stream over batches."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Counts(NamedTuple):
    """Per word of a vocabulary; counts of batches add up field by field."""

    right: Int[np.ndarray, " V"]  # predicted and true
    predicted: Int[np.ndarray, " V"]
    true: Int[np.ndarray, " V"]

    def plus(self, other: "Counts") -> "Counts":
        """The counts of both."""
        return Counts(*(mine + its for mine, its in zip(self, other, strict=True)))


def no_counts(vocabulary: int) -> Counts:
    """Where a sum starts."""
    return Counts(*(np.zeros(vocabulary, np.int64) for _ in Counts._fields))


def count(predicted: Int[np.ndarray, " M"], true: Int[np.ndarray, " M"], *, vocabulary: int) -> Counts:
    """Count one prediction for each true word."""
    right = np.bincount(true[predicted == true], minlength=vocabulary)
    return Counts(right, np.bincount(predicted, minlength=vocabulary), np.bincount(true, minlength=vocabulary))


def count_sets(
    predicted: list[Int[np.ndarray, " P"]], true: list[Int[np.ndarray, " L"]], *, vocabulary: int
) -> Counts:
    """Count documents as sets of words: each word counts once per document, and order does not matter."""
    counts = no_counts(vocabulary)
    for guess, words in zip(predicted, true, strict=True):
        guess, words = np.unique(guess), np.unique(words)
        counts.predicted[guess] += 1
        counts.true[words] += 1
        counts.right[np.intersect1d(guess, words, assume_unique=True)] += 1
    return counts


def accuracy(counts: Counts) -> float:
    """Share of the predictions that are right (of sets: precision)."""
    return float(counts.right.sum() / max(1, counts.predicted.sum()))


def macro_f1(counts: Counts) -> float:
    """F1 of each word, averaged over the words that occur or are predicted (as scikit-learn's `average="macro"`)."""
    seen = (counts.true + counts.predicted) > 0
    if not seen.any():
        return 0.0
    return float(np.mean(2 * counts.right[seen] / (counts.predicted[seen] + counts.true[seen])))
