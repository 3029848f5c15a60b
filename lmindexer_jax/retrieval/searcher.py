"""Text queries to named documents by a retriever that was kept in a workdir:

    searcher = Searcher.load("runs/mine")
    searcher.search(["fit a smoothing spline"], k=10)
    searcher.search(["fit a smoothing spline"], k=10, within=searcher.subset(category=["scipy"]))

The beams propose documents by their IDs, and the vectors propose the NEAR likest (`near.py`). The order is that of

    log p(ID | query) + cos(query, document) / temperature

with the encoder's vectors of both, so that what the codes leave open is not left to the order of their last positions
(generation and dense retrieval joined, as in LIGER, Yang et al. 2024). Where no beam reached a document it counts as the least
probable that one did. Without a gist, or with `by_id`, it is beams and log p alone.
"""

import dataclasses
import functools
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.tokenizer import Tokenizer
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.retrieval import kept
from lmindexer_jax.retrieval import trie as tries
from lmindexer_jax.retrieval.beam import BeamConfig, Beams, Found
from lmindexer_jax.retrieval.dense import Dense
from lmindexer_jax.retrieval.generate import make_generator
from lmindexer_jax.retrieval.kept import Kept
from lmindexer_jax.retrieval.near import Near
from lmindexer_jax.retrieval.permits import Permits, permit
from lmindexer_jax.retrieval.topk import Ranked, nothing, padded
from lmindexer_jax.typed import from_dict

BATCHES = (1, 8, 32)  # queries at a time: a search is compiled for these alone
BEAMS, GROUPED = 100, 20  # prefixes kept at every position unless told; fewer in groups, or all would find the same in the end
NEAR = 32  # documents that the vectors propose; not in groups, whose results are to differ
SNIPPET = 200  # characters of a document's text


@dataclasses.dataclass(frozen=True)
class Hit:
    """One document that was found: text and category path are empty where it was added after the run, or the corpus
    cannot be read."""

    document: str
    log_prob: float | None  # None where its vector alone proposed it
    similarity: float | None  # cosine of query and document, where there are vectors of both
    full_id: str
    text: str
    path: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What one position of a search kept, best first: the prefixes, their nodes in the trie, log p of each in nats."""

    codes: Int[np.ndarray, "X t"]
    nodes: Int[np.ndarray, " X"]
    log_probs: Float[np.ndarray, " X"]


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """A search with the way it took: a step for each of the T codes (a counter behind them is none)."""

    hits: list[Hit]
    steps: list[Step]


def parse_category(text: str) -> tuple[str, ...]:
    """The path that is written as "Beauty > Hands".

    Raises:
      UserError: there is no name in it.
    """
    path = tuple(part for part in map(str.strip, text.split(">")) if part)
    if not path:
        raise UserError(f"{text!r} names no category; write it as in 'Beauty > Hands'")
    return path


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """Token ids of texts, padded to `length`, and which are real."""
    tokens = np.full((len(texts), length), tokenizer.pad_id, np.int32)
    mask = np.zeros((len(texts), length), bool)
    for row, ids in enumerate(tokenizer.encode(texts, length)):
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return tokens, mask


class Searcher:
    """A retriever with its documents. Threads may share one."""

    def __init__(self, retriever: Kept, table: IdTable, corpus: Corpus | None):
        """Puts parameters and trie on the device; see `load`."""
        self.table, self.corpus = table, corpus
        self._retriever = retriever
        self._params, self._trie = jax.device_put(retriever.params), jax.device_put(tries.pad(retriever.trie))
        self._texts = table.texts
        self._near = None
        if retriever.vectors is not None:
            self._near = Near(retriever.trie, retriever.vectors, room=len(self._trie.documents))
        self._generators, self._lock = {}, threading.Lock()

    @classmethod
    def load(cls, workdir: str | os.PathLike) -> "Searcher":
        """The retriever of a workdir, over the documents of its ID table as it is now.

        Raises:
          UserError: no retriever there, a damaged one, or one that does not fit the table.
        """
        workdir = pathlib.Path(workdir)
        table = id_table.load(workdir / "ids")
        return cls(kept.load(workdir, table), table, _open_corpus(table))

    def balance(self, temperature: float) -> None:
        """Set how much likeness counts; a workdir keeps it by `kept.balance`."""
        self._retriever = dataclasses.replace(self._retriever, temperature=temperature)

    def search(
        self, queries: Sequence[str], *, k: int = 10, within: Permits | None = None, groups: int = 1, beams: int | None = None,
        by_id: bool = False,
    ) -> list[list[Hit]]:  # fmt: skip
        """The k best documents of every query, best first; fewer where there are not as many.

        The first call for a number of queries or results compiles; later ones take milliseconds.

        Args:
          queries: texts.
          k: documents wanted.
          within: the only documents that may be found, see `subset`.
          groups: more than 1 for different results: so many groups of beams choose in turn, and codes that one has
            chosen cost the next ones probability (diverse beam search).
          beams: prefixes kept at every position; more miss less and take longer. There are never fewer than k. By default
            100, and 20 in groups, which else would find the same in the end.
          by_id: find and order by the probability of the ID alone.

        Raises:
          UserError: an empty query, k below 1, or groups that the beams cannot be divided into.
        """
        found = self._found(queries, k=k, within=within, groups=groups, beams=beams, by_id=by_id)
        return [self._hits(answer, i) for answer in found for i in range(answer.queries)]

    def trace(
        self, queries: Sequence[str], *, k: int = 10, within: Permits | None = None, groups: int = 1, beams: int | None = None
    ) -> list[Trace]:
        """What `search` finds, and what every position kept on the way there."""
        traces = []
        for answer in self._found(queries, k=k, within=within, groups=groups, beams=beams, trail=True):
            trail = answer.trail[: self.table.codes.shape[1]]
            traces += [Trace(self._hits(answer, i), [_step(each, i) for each in trail]) for i in range(answer.queries)]
        return traces

    def rank(
        self, queries: Sequence[str], *, k: int, within: Permits | None = None, groups: int = 1, beams: int | None = None,
        by_id: bool = False,
    ) -> Ranked:  # fmt: skip
        """What `search` finds, as rows of the table and the scores that order them."""
        parts = [nothing(0, max(k, 0))]
        for answer in self._found(queries, k=k, within=within, groups=groups, beams=beams, by_id=by_id):
            parts.append(padded(answer.rows[: answer.queries], answer.scores[: answer.queries], k))
        return Ranked(*map(np.concatenate, zip(*parts, strict=True)))

    def by_vectors(self, documents: int) -> Dense | None:
        """The retriever's queries beside the vectors of the first `documents` documents, all of them, without IDs; None where
        it compares no vectors."""
        vectors = self._retriever.vectors
        if vectors is None:
            return None
        encode = jax.jit(self._retriever.functions.encode)
        return Dense(vectors[:documents].astype(np.float32), functools.partial(self._gists, encode))

    def subset(
        self, *, category: Sequence[str] = (), only: Sequence[str] | None = None, exclude: Sequence[str] = ()
    ) -> Permits:
        """A part of the documents, to search `within`; make it once and use it often.

        Args:
          category: beginning of a category path, root first: documents that bear it.
          only: the ids of these documents.
          exclude: ids of documents that are not to be found.

        Raises:
          UserError: an unknown document, a category that no document has, or nothing is left.
        """
        allowed = np.ones(len(self.table), bool)
        if category:
            allowed &= self._bearing(tuple(category))
        if only is not None:
            allowed &= self._named(only)
        allowed &= ~self._named(exclude)
        if not allowed.any():
            raise UserError("no document is left to search; ask for a larger subset or exclude fewer")
        return _permit(self._trie, np.pad(allowed, (0, len(self._trie.documents) - len(allowed))))

    def proposed(self, queries: Sequence[str]) -> tuple[Int[np.ndarray, "Q C"], Float[np.ndarray, "Q C"], Float[np.ndarray, "Q C"]]:
        """All that a search of each query chooses from, in no order: rows of the table, log p of their IDs or what stands for
        it, and their cosines; -1 and -inf where there is none.

        Raises:
          UserError: an empty query.
          ValueError: a retriever without vectors.
        """
        if self._retriever.vectors is None:
            raise ValueError("a retriever without vectors compares none")
        parts = []
        for candidates, _, real in self._candidates(queries):
            parts.append([each[:real] for each in (candidates.rows, candidates.ids, candidates.likeness)])
        return tuple(map(np.concatenate, zip(*parts, strict=True)))

    def _found(self, queries: Sequence[str], *, k: int, by_id: bool = False, **options) -> Iterator["_Answer"]:
        """The best, batch by batch, on the host; options of `_candidates`."""
        for candidates, trail, real in self._candidates(queries, k=k, by_id=by_id, **options):
            temperature = np.inf if by_id else self._retriever.temperature
            yield _best(candidates, trail, queries=real, k=k, temperature=temperature)

    def _candidates(
        self, queries: Sequence[str], *, k: int = 1, within: Permits | None = None, groups: int = 1, beams: int | None = None,
        trail: bool = False, by_id: bool = False,
    ) -> Iterator[tuple["_Candidates", tuple[Beams, ...], int]]:  # fmt: skip
        """What is proposed, what the positions kept, and how many of the queries are real, batch by batch on the host."""
        if k < 1 or any(not query.strip() for query in queries):
            raise UserError("search: give queries that are not empty, and k of at least 1")
        if beams is None:
            beams = BEAMS if groups == 1 else max(GROUPED, k)
        if not 1 <= groups <= beams:
            raise UserError(f"search: {groups} groups of {beams} beams; give at least 1 group, and a beam for each")
        beams = max(beams, 1 << (k - 1).bit_length())
        config = BeamConfig(beams=beams + -beams % groups, groups=groups, trail=trail)
        for first, batch in _batches(len(queries)):
            part = queries[first : first + batch]
            tokens, mask = self._tokens(part, batch)
            present = np.arange(batch) < len(part)
            found, gist = self._generator(config)(self._params, self._trie, tokens, mask, present, within)
            near = None
            if self._near is not None and groups == 1 and not by_id:
                near = self._near(gist, self._trie, within, count=NEAR)
            found, gist, near = jax.device_get((found, gist, near))
            yield self._joined(found, gist, near), found.trail, len(part)

    def _gists(self, encode: Callable, queries: Sequence[str]) -> Float[np.ndarray, "Q D"]:
        """The vectors by which queries are compared with documents."""
        parts = []
        for first, batch in _batches(len(queries)):
            part = queries[first : first + batch]
            gists = encode(self._params, *self._tokens(part, batch)).gist
            parts.append(np.asarray(gists, np.float32)[: len(part)])
        return np.concatenate(parts)

    def _tokens(self, part: Sequence[str], batch: int) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        """Of some queries, as many more as fill the batch."""
        texts = list(part)
        return tokenize(self._retriever.tokenizer, texts + texts[:1] * (batch - len(texts)), self._retriever.query_length)

    def _joined(
        self, found: Found, gist: Float[np.ndarray, "B D"], near: Int[np.ndarray, "B n"] | None
    ) -> "_Candidates":
        """What the beams found and what is near besides."""
        rows, log_probs = np.where(found.valid, found.documents, -1), np.where(found.valid, found.log_probs, -np.inf)
        scores, vectors = log_probs, self._retriever.vectors
        if near is not None:
            near = np.where((near[:, :, None] == rows[:, None, :]).any(2), -1, near)
            least = np.where(found.valid, log_probs, np.inf).min(1, keepdims=True)
            rows, scores = np.c_[rows, near], np.c_[scores, np.where(near >= 0, least, -np.inf)]
            log_probs = np.c_[log_probs, np.full(near.shape, np.nan)]
        if vectors is None:
            return _Candidates(rows, scores, log_probs, None, np.zeros_like(scores))
        similarities = np.einsum("bd,bmd->bm", gist, vectors[np.maximum(rows, 0)].astype(np.float32))
        known = (rows >= 0) & ~np.isnan(similarities)
        usual = np.where(known, similarities, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
        likeness = np.where(known, similarities, usual)  # without a vector: neither up nor down
        return _Candidates(rows, scores, log_probs, similarities, likeness)

    def _generator(self, config: BeamConfig):
        key = dataclasses.astuple(config)
        with self._lock:
            if key not in self._generators:
                self._generators[key] = make_generator(self._retriever.functions, config=config)
            return self._generators[key]

    def _bearing(self, category: tuple[str, ...]) -> Bool[np.ndarray, " N"]:
        """Which documents have a category path that begins so."""
        allowed = np.zeros(len(self.table), bool)
        name = " > ".join(category)
        if self.corpus is None:
            raise UserError(f"category {name!r}: the run's documents cannot be read any more, and with them their categories")
        depth = len(category)
        label = next((i for i, path in enumerate(self.corpus.label_names(depth)) if path == category), None)
        if label is None:
            raise UserError(f"no document has a category path that begins with {name!r}")
        allowed[: len(self.corpus)] = self.corpus.labels(depth) == label
        return allowed

    def _named(self, documents: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """Which rows have these ids."""
        named = np.zeros(len(self.table), bool)
        if len(documents):
            rows = pc.index_in(pa.array(documents, pa.string()), value_set=self.table.ids)
            if rows.null_count:
                missing = documents[rows.is_null().index(True).as_py()]
                raise UserError(f"document {missing!r} is not in the ID table of {len(self.table):,} documents")
            named[rows.to_numpy()] = True
        return named

    def _hits(self, answer: "_Answer", query: int) -> list[Hit]:
        """The documents of one query of an answer."""
        hits = []
        for place, row in enumerate(answer.rows[query].tolist()):
            if row < 0:
                break
            known = self.corpus is not None and row < len(self.corpus)
            text = " ".join(self.corpus.text(row)[: 4 * SNIPPET].split())[:SNIPPET] if known else ""
            path = self.corpus.path(row) if known else ()
            cosine = np.nan if answer.similarities is None else float(answer.similarities[query, place])
            log_prob = float(answer.log_probs[query, place])
            log_prob, similarity = (None if np.isnan(value) else value for value in (log_prob, cosine))
            hits.append(Hit(self.table.ids[row].as_py(), log_prob, similarity, self._texts[row].as_py(), text, path))
        return hits


class _Answer(NamedTuple):
    """What a batch found, in order; the first `queries` of it are real."""

    queries: int
    rows: Int[np.ndarray, "B k"]  # of the table; -1 where there are fewer
    scores: Float[np.ndarray, "B k"]
    log_probs: Float[np.ndarray, "B k"]
    similarities: Float[np.ndarray, "B k"] | None
    trail: tuple[Beams, ...]


class _Candidates(NamedTuple):
    """Documents that a search chooses from; the order of all is that of `ids` + `likeness` / temperature."""

    rows: Int[np.ndarray, "B C"]  # of the table; -1 for none
    ids: Float[np.ndarray, "B C"]  # log p, or what stands for it
    log_probs: Float[np.ndarray, "B C"]  # NaN where no beam reached the document
    similarities: Float[np.ndarray, "B C"] | None
    likeness: Float[np.ndarray, "B C"]  # the same, or the usual one where there is none


def _best(candidates: _Candidates, trail: tuple[Beams, ...], *, queries: int, k: int, temperature: float) -> _Answer:
    """The k best of some candidates."""
    scores = candidates.ids + candidates.likeness / temperature
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    arrays = candidates.rows, scores, candidates.log_probs, candidates.similarities
    taken = [None if each is None else np.take_along_axis(each, order, axis=1) for each in arrays]
    return _Answer(queries, *taken, trail)


_permit = jax.jit(permit)


def _batches(queries: int) -> Iterator[tuple[int, int]]:
    """The first query of every batch, and the size that the batch is filled up to."""
    first = 0
    while first < queries:
        batch = next((size for size in BATCHES if size >= queries - first), BATCHES[-1])
        yield first, batch
        first += batch


def _step(beams: Beams, query: int) -> Step:
    """What is alive of one query's beams, best first; a prefix that several groups keep is there once."""
    nodes, first = np.unique(beams.nodes[query], return_index=True)
    alive = first[nodes >= 0]
    order = alive[np.argsort(-beams.scores[query][alive], kind="stable")]
    return Step(beams.codes[query][order], beams.nodes[query][order], beams.scores[query][order])


def _open_corpus(table: IdTable) -> Corpus | None:
    """The documents of the run, for their texts; None where they cannot be read any more or have changed."""
    settings = table.manifest.config["corpus"]
    try:
        corpus = open_corpus(from_dict(CorpusConfig, settings))
    except UserError:
        return None
    return corpus if corpus.hash == table.manifest.corpus_hash else None
