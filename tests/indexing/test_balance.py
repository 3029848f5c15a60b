"""Distinct codes within prefix groups."""

import itertools
import time

import numpy as np
import pytest
from scipy import optimize

from lmindexer_jax.indexing import balance
from lmindexer_jax.indexing.balance import distinct_within_groups


def test_distinct_is_optimal_and_moves_only_groups_in_conflict():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(12, 5))
    groups = np.array([7, 3, 7, 7, 3, 9, 9, 4, 4, 4, 4, 4])
    codes = np.argmax(scores, axis=1)
    codes[[5, 6]] = [0, 1]  # no conflict: stays, although not its best
    codes[[0, 2]] = 2
    found, moved = distinct_within_groups(scores, codes, groups)
    np.testing.assert_array_equal(found[[5, 6]], [0, 1])
    assert moved == np.mean(found != codes)
    for group in (3, 7, 4):
        rows = np.flatnonzero(groups == group)
        if len(set(codes[rows])) == len(rows):
            continue
        best = max(scores[rows, list(choice)].sum() for choice in itertools.permutations(range(5), len(rows)))
        assert len(set(found[rows])) == len(rows)
        np.testing.assert_allclose(scores[rows, found[rows]].sum(), best)


def test_a_group_larger_than_the_book_fills_it_evenly():
    scores = np.random.default_rng(0).normal(size=(23, 5))
    found, _ = distinct_within_groups(scores, np.zeros(23, np.int32), np.zeros(23, np.int32))
    assert np.bincount(found, minlength=5).max() == 5


def test_a_group_of_any_size_takes_bounded_memory(monkeypatch):
    """In parts it still fills the book evenly, and loses little of what the best assignment of the whole has."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(5, 3))
    scores = -np.square(middles[rng.integers(0, 3, 403), None] + 0.5 * rng.normal(size=(403, 1, 3)) - middles[None]).sum(-1)
    codes = np.argmax(scores, axis=1).astype(np.int32)
    groups = np.where(np.arange(403) < 3, 1, 0)  # all but three in one
    best, _ = distinct_within_groups(scores, codes, groups)
    shapes, assign = [], optimize.linear_sum_assignment
    monkeypatch.setattr(balance, "ASSIGNED_TOGETHER", 64)
    monkeypatch.setattr(balance, "ROWS_AT_A_TIME", 128)
    monkeypatch.setattr(optimize, "linear_sum_assignment", lambda cost, **how: shapes.append(cost.shape) or assign(cost, **how))
    asked = []
    found, _ = distinct_within_groups(lambda rows: asked.append(len(rows)) or scores[rows], codes, groups)
    assert max(asked) < 128 + 64 and max(rows * columns for rows, columns in shapes) <= 64**2
    assert np.bincount(found[groups == 0]).tolist() == [80] * 5 == np.bincount(best[groups == 0]).tolist()
    assert len(set(found[groups == 1])) == 3
    reached, possible, even = (scores[np.arange(403), of].mean() for of in (found, best, np.arange(403) % 5))
    assert reached > possible - 0.1 * (possible - even)


def test_scores_may_come_block_by_block(monkeypatch):
    rng = np.random.default_rng(0)
    scores, groups = rng.normal(size=(500, 8)), rng.integers(0, 120, 500)
    codes = np.argmax(scores, axis=1).astype(np.int32)
    monkeypatch.setattr(balance, "ROWS_AT_A_TIME", 64)
    asked = []
    found, _ = distinct_within_groups(lambda rows: asked.append(len(rows)) or scores[rows], codes, groups)
    np.testing.assert_array_equal(found, distinct_within_groups(scores, codes, groups)[0])
    assert len(asked) > 2 and max(asked) < 64 + np.bincount(groups).max()


def test_nothing_to_do():
    codes = np.array([1, 2, 1, 2], np.int32)
    found, moved = distinct_within_groups(lambda rows: pytest.fail("no scores needed"), codes, np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(found, codes)
    assert moved == 0.0
    assert distinct_within_groups(np.empty((0, 4)), np.empty(0, np.int32), np.empty(0, np.int32))[1] == 0.0


def test_a_catalogue_takes_seconds():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 7000, 12_000)
    scores = rng.normal(size=(12_000, 256)).astype(np.float32)
    codes = rng.integers(0, 8, 12_000).astype(np.int32)  # many conflicts
    started = time.perf_counter()
    found, moved = distinct_within_groups(scores, codes, groups)
    assert time.perf_counter() - started < 10.0
    assert len(np.unique(groups * 256 + found)) == 12_000 and moved > 0.1
