"""Every next item is a target once, rows never overflow, and an epoch is a function of its seed and number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.data.packing import Spans, TrainingRows, lay, pack, windows

LENGTH = 8


def spans_of(lengths):
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    return Spans(offsets[:-1], offsets[1:])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(2, 11))
def test_every_item_but_the_first_is_a_target_once(lengths, length):
    spans = spans_of(lengths)
    found = windows(spans, length=length)
    assert (found.end - found.begin <= length).all() and (found.end > found.begin).all()
    targets = [t for begin, end, fresh in zip(*found, strict=True) for t in range(max(fresh, begin + 1), end + 1)]
    wanted = [t for begin, end in zip(*spans, strict=True) for t in range(begin + 1, end)]
    assert sorted(targets) == wanted
    for begin, end, fresh in zip(*found, strict=True):
        first = spans.begin[np.searchsorted(spans.begin, begin, side="right") - 1]
        assert fresh - begin >= min(length - length // 2, fresh - first), "enough history before every counted target"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, LENGTH), max_size=120))
def test_packed_stretches_do_not_touch(lengths):
    spans = spans_of(lengths)
    rows = pack(spans.lengths, length=LENGTH)
    laid = lay(np.arange(sum(lengths)) + 100, spans, rows, length=LENGTH)
    taken = np.zeros((rows.count, LENGTH), int)
    for number, (row, column, size) in enumerate(zip(rows.row, rows.column, lengths, strict=True)):
        taken[row, column : column + size] += 1
        np.testing.assert_array_equal(laid["items"][row, column : column + size], np.arange(spans.begin[number], spans.end[number]) + 100)
        assert len(set(laid["segment"][row, column : column + size])) == 1
    assert taken.max(initial=0) <= 1
    np.testing.assert_array_equal(laid["segment"] > 0, taken > 0)
    for row in range(rows.count):
        assert laid["segment"][row].max() == np.count_nonzero(rows.row == row), "each stretch has a number of its own"
    if lengths:
        assert taken.any(1).all(), "no row is empty"


@pytest.fixture(scope="module", params=[False, True], ids=["targets apart", "targets read"])
def rows(request):
    lengths = np.random.default_rng(0).integers(1, 30, 50)
    return TrainingRows(
        np.arange(lengths.sum()), spans_of(lengths), length=LENGTH, batch_size=4, epochs=3, seed=1, read_targets=request.param
    )


def test_an_epoch_counts_every_target_once(rows):
    batches = list(rows.batches())
    assert len(batches) == rows.steps == rows.epoch_ends()[-1]
    first = batches[: rows.epoch_ends()[0]]
    targets = np.concatenate([batch["targets"][batch["weight"] > 0] for batch in first])
    assert len(targets) == rows.targets == len(set(targets.tolist()))
    for batch in batches:
        real = batch["segment"] > 0
        assert (batch["weight"][~real] == 0).all()
        assert batch["items"].shape == (4, LENGTH + rows.behind)
        counted = batch["weight"] > 0
        np.testing.assert_array_equal(batch["targets"][counted], batch["items"][counted] + 1)
        if rows.behind:
            ahead = {name: np.roll(batch[name], -1, axis=1)[counted] for name in ("items", "segment")}
            np.testing.assert_array_equal(ahead["items"], batch["targets"][counted])
            np.testing.assert_array_equal(ahead["segment"], batch["segment"][counted])
            assert not counted[:, -1].any()
        else:
            np.testing.assert_array_equal(batch["targets"][real], batch["items"][real] + 1)


def test_a_resumed_epoch_goes_on_where_it_was(rows):
    whole = list(rows.batches())
    for start in (0, 1, rows.epoch_ends()[0], rows.epoch_ends()[0] + 3, rows.steps - 1):
        for one, other in zip(whole[start:], rows.batches(start=start), strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


def test_epochs_differ(rows):
    ends = rows.epoch_ends()
    batches = list(rows.batches())
    assert not np.array_equal(batches[0]["items"], batches[ends[0]]["items"])
