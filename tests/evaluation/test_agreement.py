"""Agreement with labels against scikit-learn and the properties that make it fair."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from lmindexer_jax.evaluation.agreement import agreement, compared, full_path, repetition

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 12, 2000)
NOISY = np.where(RNG.random(2000) < 0.6, LABELS, RNG.integers(0, 12, 2000))


def test_measures_are_scikit_learns():
    found = agreement(NOISY, LABELS)
    assert found.ami == pytest.approx(adjusted_mutual_info_score(LABELS, NOISY), abs=1e-12)
    assert found.v_measure == pytest.approx(normalized_mutual_info_score(LABELS, NOISY), abs=1e-12)
    assert 0.1 < found.ami < 0.9


def test_names_do_not_matter_and_truth_is_one():
    names = RNG.permutation(12)
    assert agreement(names[LABELS], LABELS).ami == pytest.approx(1, abs=1e-12)
    assert agreement(names[NOISY], LABELS).ami == pytest.approx(agreement(NOISY, LABELS).ami, abs=1e-12)


@pytest.mark.parametrize("size", [2, 30, 300])
def test_random_codes_agree_with_nothing(size):
    assert agreement(RNG.integers(0, size, 2000), LABELS).ami == pytest.approx(0, abs=0.01)


def test_documents_without_a_label_are_left_out():
    labels = LABELS.copy()
    labels[::3] = -1
    known = labels >= 0
    found = agreement(NOISY, labels)
    assert found == agreement(NOISY[known], labels[known]) and found.documents == known.sum()
    assert agreement(NOISY, np.full(2000, -1)).documents == 0


def test_full_path_is_the_deepest_label():
    depths = [np.array([0, 0, 1, -1]), np.array([0, -1, 1, -1]), np.array([0, -1, -1, -1])]
    whole = full_path(depths)
    assert whole[3] == -1 and len(set(whole[:3])) == 3
    np.testing.assert_array_equal(full_path(depths[:1]), depths[0])


def test_by_depth_compares_prefix_with_depth():
    codes = np.stack([LABELS, RNG.integers(0, 3, 2000)], 1)
    root, deep = np.zeros(2000, np.int64), LABELS * 3 + codes[:, 1]
    rows = {(of, against): agreement(found, given) for of, against, found, given in compared(codes, [root, LABELS, deep])}
    # The root that all share is compared with nothing, but it is depth 1.
    assert set(rows) == {("c1", "path"), ("c1", "depth 2"), ("c1", "depth 3"), ("c1..c2", "depth 3")}
    assert rows["c1", "depth 2"].ami == pytest.approx(1, abs=1e-12)
    assert rows["c1..c2", "depth 3"].ami == pytest.approx(1, abs=1e-12)
    assert rows["c1", "path"].ami == rows["c1", "depth 3"].ami
    assert rows["c1", "path"].ami == pytest.approx(adjusted_mutual_info_score(deep, LABELS), abs=1e-11)


def test_depths_that_say_nothing_leave_the_others_their_numbers():
    same = np.zeros(2000, np.int64)
    codes = np.stack([LABELS, RNG.integers(0, 3, 2000), RNG.integers(0, 3, 2000)], 1)
    names = [(of, against) for of, against, _, _ in compared(codes, [LABELS, same, NOISY, same, LABELS * 12 + NOISY])]
    assert names[1:] == [("c1", f"depth {depth}") for depth in (1, 3, 5)] + [("c1..c2", "depth 3"), ("c1..c3", "depth 5")]


def test_documents_at_the_root_have_a_path():
    root, below = np.zeros(2000, np.int64), np.where(np.arange(2000) % 4 == 0, -1, LABELS)
    given = {against: labels for _, against, _, labels in compared(LABELS[:, None], [root, below])}
    assert (given["path"] >= 0).all() and len(np.unique(given["path"])) == 13
    assert (given["depth 2"] >= 0).mean() == 0.75


def test_labels_that_never_differ_give_no_rows():
    assert not list(compared(np.zeros((5, 2), np.int32), [np.zeros(5, np.int64)]))
    assert not list(compared(np.zeros((5, 2), np.int32), []))


def test_repetition_sees_a_position_that_adds_nothing():
    first = RNG.integers(0, 10, 2000)
    codes = np.stack([first, (first * 3) % 10, RNG.integers(0, 10, 2000)], 1)
    assert repetition(codes) == pytest.approx([1, 0], abs=0.02)
