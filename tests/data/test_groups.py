"""Prefix groups: complete, and a document is never its own neighbour."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.data.groups import draw_neighbours, find_prefixes, group_by_prefix

codes_strategy = st.builds(
    lambda seed, n, k, p: np.random.default_rng(seed).integers(0, k, (n, p)).astype(np.int32),
    st.integers(0, 2**31),
    st.integers(1, 60),
    st.integers(1, 6),
    st.integers(0, 3),
)


@given(codes_strategy)
@settings(max_examples=50, deadline=None)
def test_groups_partition_the_documents(codes):
    groups = group_by_prefix(codes)
    assert sorted(groups.members.tolist()) == list(range(len(codes)))
    for g, prefix in enumerate(groups.prefixes):
        members = groups.members[groups.offsets[g] : groups.offsets[g + 1]]
        assert len(members)
        assert (codes[members] == prefix).all()
        assert (groups.group[members] == g).all()
    assert len({tuple(p) for p in groups.prefixes.tolist()}) == len(groups.prefixes)
    assert (groups.members[groups.place] == np.arange(len(codes))).all()


@given(codes_strategy, st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_neighbours_share_the_prefix_and_never_repeat(codes, count, seed):
    groups = group_by_prefix(codes)
    everyone = np.arange(len(codes))
    drawn, present = draw_neighbours(groups, everyone, count=count, rng=np.random.default_rng(seed))
    for document in everyone:
        real = drawn[document][present[document]].tolist()
        others = int((codes == codes[document]).all(1).sum()) - 1
        assert len(real) == len(set(real)) == min(count, others)
        assert document not in real
        assert (codes[real] == codes[document]).all()
        assert (drawn[document][~present[document]] == document).all()


def test_every_other_document_of_the_group_is_drawn_equally_often():
    codes = np.zeros((5, 1), np.int32)
    groups = group_by_prefix(codes)
    rng = np.random.default_rng(0)
    rows = np.zeros(4000, np.int64) + 2
    drawn, _ = draw_neighbours(groups, rows, count=2, rng=rng)
    counts = np.bincount(drawn.ravel(), minlength=5)
    assert counts[2] == 0
    assert np.abs(counts[[0, 1, 3, 4]] - 2000).max() < 150  # 5 standard deviations


def test_find_prefixes():
    codes = np.array([[1, 2], [1, 3], [0, 2]], np.int32)
    prefixes = group_by_prefix(codes).prefixes
    found = find_prefixes(prefixes, np.array([[1, 3], [7, 7], [0, 2], [0, 3]], np.int32))
    assert (found[[1, 3]] == -1).all()
    assert (prefixes[found[[0, 2]]] == [[1, 3], [0, 2]]).all()


@given(codes_strategy, codes_strategy)
@settings(max_examples=50, deadline=None)
def test_every_prefix_is_found_and_no_other(codes, others):
    others = np.resize(others, (len(others), codes.shape[1])).astype(np.int32)
    prefixes = group_by_prefix(codes).prefixes
    rows = {tuple(prefix): row for row, prefix in enumerate(prefixes.tolist())}
    wanted = [rows.get(tuple(each), -1) for each in others.tolist()]
    assert find_prefixes(prefixes, others).tolist() == wanted
    assert (prefixes[find_prefixes(prefixes, codes)] == codes).all()


def test_prefixes_of_any_length_are_found():
    """The product of the books' sizes, here 256 ** 12 and 51,200 ** 8, need not fit an integer."""
    rng = np.random.default_rng(0)
    for size, length in ((256, 12), (51200, 8)):
        codes = rng.integers(0, size, (500, length)).astype(np.int32)
        groups = group_by_prefix(codes)
        np.testing.assert_array_equal(find_prefixes(groups.prefixes, codes), groups.group)
        assert (find_prefixes(groups.prefixes, (codes + 1) % size) == -1).all()


def test_sizes_count_documents():
    assert group_by_prefix(np.array([[3], [1], [3]], np.int32)).sizes.tolist() == [1, 2]
    with pytest.raises(IndexError):
        group_by_prefix(np.zeros(3, np.int32))
