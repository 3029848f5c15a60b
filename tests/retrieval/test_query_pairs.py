"""What a retriever learns from: nothing that is held out, and links between documents both ways of use."""

import numpy as np
import pyarrow as pa
import pytest

from lmindexer_jax.data.alignment import plain
from lmindexer_jax.data.qrels import make_qrels
from lmindexer_jax.data.relevance import Queries, RetrievalTask
from lmindexer_jax.errors import UserError
from lmindexer_jax.retrieval.query_pairs import from_documents, from_task


class Corpus:
    """As much of `data.corpus.Corpus` as is read."""

    def __init__(self, links):
        self.fields = ("summary", "see_also")
        self.names = [f"d{row}" for row in range(40)]
        self.summaries = [f"Summary of thing number {row}." for row in range(40)]
        self.links = links

    def __len__(self):
        return 40

    def ids(self):
        return pa.chunked_array([self.names])

    def field(self, name):
        return pa.chunked_array([self.summaries if name == "summary" else self.links])

    def text(self, row):
        return f"{self.summaries[row]} It does one. It does two with {row}. And something else again. More words follow here."


@pytest.fixture
def corpus():
    rng = np.random.default_rng(0)
    links = [[f"d{other}" for other in rng.integers(0, 40, 3)] + ["unknown"] for _ in range(40)]
    return Corpus(links)


def test_links_of_held_out_documents_are_only_measured(corpus):
    pairs, (summaries, links) = from_documents(corpus, count=2, seed=0)
    assert len(summaries.texts) == 4 and links.source == "held-out See Also links"
    assert not set(pairs.texts) & set(summaries.texts)
    asked = {(text, row) for text, row in zip(pairs.texts, pairs.rows.tolist(), strict=True)}
    for row, (summary, names) in enumerate(zip(corpus.summaries, corpus.links, strict=True)):
        wanted = {corpus.names.index(name) for name in names if name in corpus.names} - {row}
        if summary in summaries.texts:
            place = links.texts.index(summary)
            assert links.without[place] == row
            assert set(links.qrels.rows[links.qrels.query == place]) == wanted
        else:
            assert {(summary, other) for other in wanted} <= asked


def test_a_corpus_without_links_holds_out_summaries_alone(corpus):
    corpus.fields = ("summary",)
    pairs, held = from_documents(corpus, count=2, seed=0)
    assert [each.source for each in held] == ["held-out summaries"] and len(pairs.texts) == len(pairs.rows)


def queries(*texts):
    """Query i asks for document i."""
    rows = np.arange(len(texts))
    return Queries([f"q{row}" for row in rows], list(texts), make_qrels(rows, rows, np.ones(len(texts), np.int64), queries=len(texts)))


@pytest.fixture
def task():
    splits = {"train": queries("learned", "Asked in  a test", "asked of TREC"), "dev": queries("tuned"), "trec": queries("asked of TREC")}
    return RetrievalTask(40, splits | {"test": queries("asked in a test")}, {})


@pytest.mark.parametrize(("splits", "measured"), [((), ["test"]), (("trec",), ["trec"]), (("trec", "dev"), ["trec", "dev"])])
def test_any_split_can_be_measured_and_none_is_learned_from(corpus, task, splits, measured):
    pairs, _, held = from_task(task, corpus, count=2, seed=0, splits=splits)
    assert [each.source for each in held] == [f"queries of split {name}" for name in measured]
    assert [each.texts for each in held] == [task.splits[name].texts for name in measured]
    assert "learned" in pairs.texts and not {"asked in a test", "asked of trec", "tuned"} & set(map(plain, pairs.texts))
    assert pairs.texts == from_task(task, corpus, count=2, seed=0)[0].texts


def test_some_training_queries_are_kept_back_whole(corpus):
    texts = [f"{'qQ'[number % 2]}uery {number // 2}" for number in range(100)]  # 50, each of two documents
    asked = Queries(
        [f"q{number}" for number in range(100)], texts, make_qrels(np.arange(100), np.arange(100) % 40, np.ones(100, np.int64), queries=100)
    )
    pairs, aside, (held,) = from_task(RetrievalTask(40, {"train": asked, "test": queries("asked")}, {}), corpus, count=2, seed=0)
    assert len(aside) == 10 and len(set(map(plain, aside.texts))) == 5 and not set(map(plain, aside.texts)) & set(map(plain, pairs.texts))
    learned = [(text, row) for text, row in zip(pairs.texts, pairs.rows) if plain(text).startswith("query ")]
    assert len(learned) == 90 and held.asked.tolist() == [row for _, row in learned]
    assert {*learned, *zip(aside.texts, aside.rows)} == set(zip(texts, np.arange(100) % 40))


@pytest.mark.parametrize(
    ("splits", "said"), [(("train",), "what is learned from"), (("tset",), "no split 'tset'.*train, dev, trec, test")]
)
def test_a_split_that_cannot_be_measured_is_named(corpus, task, splits, said):
    with pytest.raises(UserError, match=said):
        from_task(task, corpus, count=2, seed=0, splits=splits)
