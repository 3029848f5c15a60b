"""Co-occurrence of consecutive items, by hand and on made users."""

import numpy as np
import pytest

from lmindexer_jax.evaluation.lift import co_occurrence, consecutive_pairs, lifts


def test_by_hand():
    partition = np.array([0, 0, 1, 1])
    # Users: 0->1->2 and 3; pairs (0,1) same, (1,2) different. By chance (0,1), (0,2) or (1,2), but never (1,1).
    found = co_occurrence(partition, np.array([0, 1, 2, 3]), np.array([0, 3, 4]))
    assert (found.pairs, found.share) == (2, 0.5)
    assert found.chance == pytest.approx(1 / 3) and found.lift == pytest.approx(1.5)


def test_users_do_not_touch_each_other_and_items_not_themselves():
    found = co_occurrence(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2, 3]), np.array([0, 3, 5]))
    assert found.share == 1.0 and found.pairs == 2


def test_fine_random_codes_have_no_lift_either():
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(500)[:20] for _ in range(4000)])
    found = co_occurrence(rng.integers(0, 400, 500), items, np.arange(0, 80_001, 20))
    assert found.lift == pytest.approx(1, abs=0.15)


def test_samples_of_users_are_users():
    rng = np.random.default_rng(0)
    items, offsets = rng.integers(0, 60, 900), np.arange(0, 901, 9)
    pairs = consecutive_pairs(items, offsets)
    rows = np.stack([rng.permutation(100)[:40] for _ in range(3)])
    coarse, fine = rng.integers(0, 5, 60), rng.integers(0, 30, 60)
    for partition, values in zip((coarse, fine), lifts([coarse, fine], pairs, rows)):
        for sample, users in enumerate(rows):
            theirs = np.concatenate([items[offsets[user] : offsets[user + 1]] for user in users])
            alone = co_occurrence(partition, theirs, np.arange(0, 361, 9))
            assert [values[name][sample] for name in ("share", "chance", "lift")] == pytest.approx(
                [alone.share, alone.chance, alone.lift], abs=1e-12
            )


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
