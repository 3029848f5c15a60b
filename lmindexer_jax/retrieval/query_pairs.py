"""What a retriever learns from: pairs of a text and the document that it should find, and queries held out of them."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from lmindexer_jax.data.alignment import plain
from lmindexer_jax.data.corpus import Corpus
from lmindexer_jax.data.pseudo_queries import pseudo_queries
from lmindexer_jax.data.qrels import Qrels, make_qrels, one_each
from lmindexer_jax.data.relevance import TRAIN, Queries, RetrievalTask
from lmindexer_jax.errors import UserError

HELD_OUT = ("test", "validation", "dev")  # splits to measure on, in order of preference
MOST_HELD_OUT = 1000  # documents
ASIDE, MOST_ASIDE = 0.1, 300  # share of the training queries, and number, that are kept back to balance IDs and likeness
SUMMARY = "summary"  # a column of one-line descriptions, where the corpus keeps one
SEE_ALSO = "see_also"  # and one of the ids of related documents


@dataclasses.dataclass(frozen=True)
class Pairs:
    """P texts, and for each the row of its document."""

    texts: list[str]
    rows: Int[np.ndarray, " P"]

    def __len__(self) -> int:
        """P."""
        return len(self.texts)

    @property
    def hash(self) -> str:
        """Of the texts, in order."""
        digest = hashlib.blake2b(digest_size=16)
        for text in self.texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8) + encoded)
        return digest.hexdigest()

    def batches(self) -> Iterator[list[str]]:
        """The texts, as a corpus gives them."""
        yield self.texts


@dataclasses.dataclass(frozen=True)
class Held:
    """Queries that training does not see, and their judgements.

    Attributes:
      ids: of the queries; a document's own where it asks.
      source: in words, for the closing table.
      asked: documents that answer a training query.
      without: a document for each query that is no answer: the one that asks.
    """

    ids: list[str]
    texts: list[str]
    qrels: Qrels
    source: str
    asked: Int[np.ndarray, " M"] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    without: Int[np.ndarray, " Q"] | None = None


NOTHING = Pairs([], np.zeros(0, np.int64))


def from_documents(corpus: Corpus, *, count: int, seed: int) -> tuple[Pairs, list[Held]]:
    """Pairs from the documents alone: each one's text, its pseudo-queries and its summary where there is one.

    A tenth of the documents, at most 1,000, give their summary, or a pseudo-query, to be held out. No training text of such
    a document contains that query or is contained in it; the other texts of the document stay. Where the corpus links
    documents to related ones, a document's summary asks for those too; the held-out summaries do so only to measure.

    Args:
      count: pseudo-queries for each document.
      seed: of the pseudo-queries and of who is held out.
    """
    order = np.random.default_rng(seed).permutation(len(corpus))
    chosen = set(order[: min(-(-len(corpus) // 10), MOST_HELD_OUT)].tolist())
    summaries = corpus.field(SUMMARY).to_pylist() if SUMMARY in corpus.fields else [""] * len(corpus)
    names = corpus.ids().to_pylist()
    texts, rows, held, held_rows = [], [], [], []
    for row, summary in enumerate(summaries):
        text = corpus.text(row)
        own = ([summary] if summary else []) + pseudo_queries(text, seed=seed, count=count)
        if row in chosen and own:
            held.append(own[0])
            held_rows.append(row)
            own = [each for each in (*own[1:], text) if not _overlap(each, own[0])]
        else:
            own.append(text)
        texts += own
        rows += [row] * len(own)
    if not held:
        raise UserError("the documents are too short to make queries of; give some by --queries")
    source = "held-out summaries" if SUMMARY in corpus.fields else "held-out pseudo-queries"
    found = [Held([names[row] for row in held_rows], held, one_each(np.asarray(held_rows)), source)]
    if {SUMMARY, SEE_ALSO} <= set(corpus.fields):
        asking, related = _related(corpus)
        unseen = np.isin(asking, held_rows)
        texts += [summaries[row] for row in asking[~unseen]]
        rows += related[~unseen].tolist()
        if unseen.any():
            found.append(_held_links(names, summaries, asking[unseen], related[unseen]))
    return Pairs(texts, np.asarray(rows, np.int64)), found


def _related(corpus: Corpus) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """Rows of documents with a summary, and of those that they say to see also."""
    at = {name: row for row, name in enumerate(corpus.ids().to_pylist())}
    links = [
        (row, at[name])
        for row, (summary, names) in enumerate(zip(corpus.field(SUMMARY).to_pylist(), corpus.field(SEE_ALSO).to_pylist(), strict=True))
        for name in names
        if summary and name in at and at[name] != row
    ]
    return tuple(np.asarray(links, np.int64).reshape(-1, 2).T)


def _held_links(
    names: list[str], summaries: list[str], asking: Int[np.ndarray, " M"], related: Int[np.ndarray, " M"]
) -> Held:
    """Each asking document's summary as a query for its related documents; links come in order of the document that asks."""
    askers, query = np.unique(asking, return_inverse=True)
    qrels = make_qrels(query, related, np.ones(len(related), np.int64), queries=len(askers))
    texts = [summaries[row] for row in askers]
    return Held([names[row] for row in askers], texts, qrels, "held-out See Also links", without=askers)


def from_task(
    task: RetrievalTask, corpus: Corpus, *, count: int, seed: int, splits: Sequence[str] = ()
) -> tuple[Pairs, Pairs, list[Held]]:
    """Pairs from a task's training queries, beside every document's text and pseudo-queries; other splits are held out.

    Some of the training queries are kept back, for `temper.fit`.

    Args:
      count: pseudo-queries of a document.
      seed: of which sentences they are.
      splits: to measure on; what is learned from does not depend on them. By default the first there is of `HELD_OUT`.

    Returns:
      what to learn from, what is kept back of the training queries, and what is held out.

    Raises:
      UserError: the task has no split to measure on or not those named, or no query of one has an answer.
    """
    if TRAIN in splits:
        raise UserError(f"split {TRAIN!r} is what is learned from; measure on another of {', '.join(task.splits)}")
    names = splits or [name for name in HELD_OUT if name in task.splits][:1]
    if not names:
        raise UserError(f"no split to measure on among {', '.join(task.splits)}; call one of them {' or '.join(HELD_OUT)}, or name it")
    others = {plain(text) for name, queries in task.splits.items() if name != TRAIN for text in queries.texts}
    asked = _asked(task.splits[TRAIN], others) if TRAIN in task.splits else NOTHING
    asked, aside = _kept_back(asked, seed=seed)
    held = []
    for name in names:
        queries = task.split(name).answerable()
        if not len(queries):
            raise UserError(f"no query of split {name!r} has a relevant document")
        held.append(Held(queries.ids, queries.texts, queries.qrels, f"queries of split {name}", asked.rows))
    texts, rows = [], []
    for row in range(len(corpus)):
        own = [corpus.text(row), *pseudo_queries(corpus.text(row), seed=seed, count=count)]
        texts += own
        rows += [row] * len(own)
    pairs = Pairs(texts + asked.texts, np.concatenate([np.asarray(rows, np.int64), asked.rows]))
    return pairs, aside, held


def _kept_back(asked: Pairs, *, seed: int) -> tuple[Pairs, Pairs]:
    """Pairs of most of the queries, and of a few; those of one text stay together."""
    texts = sorted(set(map(plain, asked.texts)))
    drawn = np.random.default_rng(seed).permutation(len(texts))[: min(int(ASIDE * len(texts)), MOST_ASIDE)]
    few = {texts[place] for place in drawn}
    chosen = np.array([plain(text) in few for text in asked.texts], bool)
    return tuple(Pairs([asked.texts[place] for place in np.flatnonzero(part)], asked.rows[part]) for part in (~chosen, chosen))


def _asked(queries: Queries, held: set[str]) -> Pairs:
    """Training queries with each of their relevant documents, but for those that are held out too."""
    qrels = queries.qrels
    places = [place for place in np.flatnonzero(qrels.grades > 0) if plain(queries.texts[qrels.query[place]]) not in held]
    return Pairs([queries.texts[q] for q in qrels.query[places]], qrels.rows[places]) if places else NOTHING


def _overlap(one: str, other: str) -> bool:
    one, other = (" ".join(text.casefold().split()).rstrip(".") for text in (one, other))
    return one in other or other in one
