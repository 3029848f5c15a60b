"""Queries made of a document's own words: its words alone, never all of them, the same every time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.data.pseudo_queries import pseudo_queries

TEXT = "The first sentence is here. Is this the second one? Yes. A third follows, with 3.5 units!\nAnd a last line of words"
SENTENCES = {
    "The first sentence is here.",
    "Is this the second one?",
    "A third follows, with 3.5 units!",
    "And a last line of words",
}


def test_sentences_come_first():
    assert set(pseudo_queries(TEXT, seed=0, count=4)) == SENTENCES
    assert set(pseudo_queries(TEXT, seed=1, count=2)) < SENTENCES
    many = pseudo_queries(TEXT, seed=0, count=8)
    assert set(many[:4]) == SENTENCES and len(set(many)) == 8 and all(query in TEXT.replace("\n", " ") for query in many[4:])


def test_a_function_of_text_and_seed():
    assert pseudo_queries(TEXT, seed=3) == pseudo_queries(f" {TEXT}\n", seed=3)
    assert len({tuple(pseudo_queries(TEXT, seed=seed)) for seed in range(10)}) > 5
    assert pseudo_queries("one two three four five six", seed=0) != pseudo_queries("one two three four five seven", seed=0)


def test_long_sentences_give_spans():
    text = " ".join(f"w{number}" for number in range(200)) + ". And a short one."
    for query in pseudo_queries(text, seed=0, count=6):
        assert 3 <= len(query.split()) <= 32 and query in text


def test_repeated_sentences_count_once():
    queries = pseudo_queries("Same thing again. Same  thing again! SAME THING AGAIN. Another one here.", seed=0, count=2)
    assert len({query.casefold().rstrip(".!") for query in queries}) == 2


def test_a_language_without_spaces():
    text = "今日は天気がいいですね。明日は雨が降るでしょう。明後日は分かりません。"
    assert set(pseudo_queries(text, seed=0, count=3)) == {part + "。" for part in text.split("。") if part}
    one = "今日は天気がとてもいいですから散歩に行きましょうと彼は言った"
    assert pseudo_queries(one, seed=0) and all(query in one for query in pseudo_queries(one, seed=0))


@pytest.mark.parametrize("text", ["", " ", "word", "."])
def test_nothing_to_leave_out_gives_nothing(text):
    assert pseudo_queries(text, seed=0) == []


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="ab .!?\n。é", max_size=80), seed=st.integers(0, 3), count=st.integers(0, 6))
def test_always_parts_never_the_whole(text, seed, count):
    queries = pseudo_queries(text, seed=seed, count=count)
    assert len(queries) <= count and len(set(queries)) == len(queries)
    whole = "".join(text.split())
    for query in queries:
        own = "".join(query.split())
        assert own and own in whole and own.rstrip(".!?。") != whole.rstrip(".!?。")
