"""Co-occurrence of consecutive items, by hand and on made users."""

import numpy as np
import pytest

from lmindexer_jax.evaluation.lift import co_occurrence


def test_by_hand():
    partition = np.array([0, 0, 1, 1])
    # Users: 0->1->2 and 3; pairs (0,1) same, (1,2) different.
    found = co_occurrence(partition, np.array([0, 1, 2, 3]), np.array([0, 3, 4]))
    assert (found.pairs, found.share, found.chance) == (2, 0.5, 0.5) and found.lift == 1.0


def test_users_do_not_touch_each_other():
    found = co_occurrence(np.array([0, 1]), np.array([0, 0, 1, 1]), np.array([0, 2, 4]))
    assert found.share == 1.0 and found.pairs == 2


def test_random_codes_have_no_lift_and_loyal_users_have():
    rng = np.random.default_rng(0)
    items = rng.integers(0, 500, 40_000)
    offsets = np.arange(0, 40_001, 8)
    found = co_occurrence(rng.integers(0, 10, 500), items, offsets)
    assert found.lift == pytest.approx(1, abs=0.05) and found.ami == pytest.approx(0, abs=0.005)
    taste = np.repeat(rng.integers(0, 10, 5000), 8)
    loyal = co_occurrence(np.arange(500) % 10, taste + 10 * rng.integers(0, 50, 40_000), offsets)
    assert loyal.share == 1 and loyal.ami == pytest.approx(1) and loyal.lift == pytest.approx(10, rel=0.05)


def test_no_pairs_is_an_error():
    with pytest.raises(ValueError, match="two items"):
        co_occurrence(np.array([0, 1]), np.array([0, 1]), np.array([0, 1, 2]))
