"""Histories as tokens: newest first, cut where there is no more room, as if they had been put together by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.data.history_tokens import HistoryTokens, ItemTokens
from lmindexer_jax.data.packing import Spans

PAD, END = 0, 1
TEXTS = [[7, 8, END], [9, END], [10, 11, 12, 13, END], [END]]
TOKENS = ItemTokens(np.concatenate(TEXTS), np.r_[0, np.cumsum([len(text) for text in TEXTS])], PAD)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 16))
def test_the_newest_items_come_first_and_stay(histories, length, columns):
    ends = np.cumsum([len(history) for history in histories])
    spans = Spans(np.r_[0, ends[:-1]], ends)
    found = HistoryTokens(TOKENS, np.concatenate(histories), spans, length=length)
    order = np.arange(len(histories))[::-1]
    tokens, mask = found.batch(order, length=columns)
    for row, real, history, size in zip(tokens, mask, histories[::-1], found.lengths[order], strict=True):
        whole = [token for item in reversed(history) for token in TEXTS[item]][:length]
        assert size == len(whole)
        np.testing.assert_array_equal(row[real], whole[:columns])
        assert (row[~real] == PAD).all() and not real[len(whole) :].any() and real[: len(whole)].all()


def test_the_hash_is_of_items_texts_and_cuts():
    def hash_of(items=(0, 1, 2), cut=2, length=9, tokens=TOKENS):
        return HistoryTokens(tokens, np.asarray(items), Spans(np.array([0, cut]), np.array([cut, 3])), length=length).hash

    other = ItemTokens(TOKENS.flat + 1, TOKENS.offsets, PAD)
    assert hash_of() == hash_of()
    assert len({hash_of(), hash_of(items=(0, 1, 3)), hash_of(cut=1), hash_of(length=8), hash_of(tokens=other)}) == 5
