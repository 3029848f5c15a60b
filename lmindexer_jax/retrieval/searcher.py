"""Text queries to named documents by a retriever that was kept in a workdir:

    searcher = Searcher.load("runs/mine")
    searcher.search(["fit a smoothing spline"], k=10)
    searcher.search(["fit a smoothing spline"], k=10, within=searcher.subset(category=["scipy"]))

`W/retriever/` holds `params/` (a checkpoint), `tokenizer/`, `trie/` and `retriever.json`, which is written last.
"""

import dataclasses
import json
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.tokenizer import Tokenizer, load_tokenizer
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models.bert import BertConfig
from lmindexer_jax.models.retriever import Params, Retriever, RetrieverConfig, RetrieverFunctions
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.retrieval import trie as tries
from lmindexer_jax.retrieval.beam import BeamConfig, Beams, Found
from lmindexer_jax.retrieval.build import of_table
from lmindexer_jax.retrieval.generate import make_generator
from lmindexer_jax.retrieval.permits import Permits, permit
from lmindexer_jax.retrieval.topk import Ranked, nothing
from lmindexer_jax.training.checkpoint import load_tree, save_tree
from lmindexer_jax.typed import from_dict

HOME, META, FORMAT = "retriever", "retriever.json", 1
BATCHES = (1, 8, 32)  # queries at a time: a search is compiled for these alone
BEAMS = 20  # prefixes that are kept at every position, if no more are asked for
SNIPPET = 200  # characters of a document's text
FAMILIES = {"t5": T5Config, "bert": BertConfig}


@dataclasses.dataclass(frozen=True)
class Hit:
    """One document that was found: text and category path are empty where it was added after the run, or the corpus
    cannot be read."""

    document: str
    log_prob: float
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


def save(
    workdir: pathlib.Path, functions: RetrieverFunctions, params: Params, tokenizer: Tokenizer, *, table: IdTable, max_length: int
) -> None:
    """Keep a trained retriever; only once the last file is there, `Searcher.load` sees it."""
    home = workdir / HOME
    home.mkdir(parents=True, exist_ok=True)
    (home / META).unlink(missing_ok=True)
    module = functions.module
    tokenizer.save(home / "tokenizer")
    save_tree(home / "params", params)
    tries.save(of_table(table, counters=room(module.sizes)), home / "trie", table=table)
    family = next(name for name, kind in FAMILIES.items() if isinstance(module.language_model, kind))
    meta = {
        "format": FORMAT,
        "family": family,
        "language_model": dataclasses.asdict(module.language_model),
        "config": dataclasses.asdict(module.config),
        "sizes": module.sizes,
        "precision": np.dtype(module.dtype).name,
        "max_length": max_length,
        "model": table.manifest.model_hash,
        "table": table.digest,
    }
    with replacing(home / META) as path:
        path.write_text(json.dumps(meta, indent=1))


def room(sizes: Sequence[int]) -> int:
    """Documents of the same codes that a retriever can tell apart; the last code of its last position is the end."""
    return sizes[-1] - 1


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

    def __init__(
        self, functions: RetrieverFunctions, params: Params, tokenizer: Tokenizer, trie: tries.Trie, table: IdTable,
        corpus: Corpus | None, *, max_length: int,
    ):  # fmt: skip
        """Puts parameters and trie on the device; see `load`."""
        self.table, self.corpus = table, corpus
        self._functions, self._tokenizer, self._max_length = functions, tokenizer, max_length
        self._params, self._trie = jax.device_put(params), jax.device_put(tries.pad(trie))
        self._texts = table.texts
        self._generators, self._lock = {}, threading.Lock()

    @classmethod
    def load(cls, workdir: str | os.PathLike) -> "Searcher":
        """The retriever of a workdir, over the documents of its ID table as it is now.

        Raises:
          UserError: no retriever there, a damaged one, or one that does not fit the table.
        """
        workdir = pathlib.Path(workdir)
        home = workdir / HOME
        table = id_table.load(workdir / "ids")
        if not (home / META).is_file():
            raise UserError(f"{workdir}: no retriever yet; make one with `python -m lmindexer_jax.finetune --workdir {workdir}`")
        again = f"run `python -m lmindexer_jax.finetune --workdir {workdir}` again"
        try:
            meta = json.loads((home / META).read_text())
            if meta["format"] != FORMAT:
                raise UserError(f"{home / META}: format {meta['format']}, but this version reads {FORMAT}; {again}")
            model = FAMILIES[meta["family"]](**meta["language_model"])
            module = Retriever(RetrieverConfig(**meta["config"]), model, tuple(meta["sizes"]), jnp.dtype(meta["precision"]))
            max_length, made_for = meta["max_length"], meta["model"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{home / META}: damaged ({error}); {again}") from None
        if made_for != table.manifest.model_hash:
            raise UserError(f"{home}: made for other IDs than those of {workdir / 'ids'}; remove it, and {again}")
        trie = _open_trie(home / "trie", table, module.sizes)
        if trie.sizes != module.sizes:
            raise UserError(
                f"{home}: more documents share all codes than the {room(module.sizes)} it was made for; remove it, and {again}"
            )
        functions, params = RetrieverFunctions(module), load_tree(home / "params")
        tokenizer = load_tokenizer(home / "tokenizer")
        return cls(functions, params, tokenizer, trie, table, _open_corpus(table), max_length=max_length)

    def search(
        self, queries: Sequence[str], *, k: int = 10, within: Permits | None = None, groups: int = 1, beams: int = BEAMS
    ) -> list[list[Hit]]:
        """The k most probable documents of every query, best first; fewer where there are not as many.

        The first call for a number of queries or results compiles; later ones take milliseconds.

        Args:
          queries: texts.
          k: documents wanted.
          within: the only documents that may be found, see `subset`.
          groups: more than 1 for different results: so many groups of beams choose in turn, and codes that one has
            chosen cost the next ones probability (diverse beam search).
          beams: prefixes kept at every position; more miss less and take longer. There are never fewer than k.

        Raises:
          UserError: an empty query, k below 1, or groups that the beams cannot be divided into.
        """
        ranked = self.rank(queries, k=k, within=within, groups=groups, beams=beams)
        return [self._hits(*each) for each in zip(*ranked)]

    def trace(
        self, queries: Sequence[str], *, k: int = 10, within: Permits | None = None, groups: int = 1, beams: int = BEAMS
    ) -> list[Trace]:
        """What `search` finds, and what every position kept on the way there."""
        traces = []
        for count, found in self._found(queries, k=k, within=within, groups=groups, beams=beams, trail=True):
            rows, scores = np.where(found.valid, found.documents, -1)[:, :k], found.log_probs[:, :k]
            trail = found.trail[: self.table.codes.shape[1]]
            traces += [Trace(self._hits(rows[i], scores[i]), [_step(each, i) for each in trail]) for i in range(count)]
        return traces

    def rank(
        self, queries: Sequence[str], *, k: int, within: Permits | None = None, groups: int = 1, beams: int = BEAMS
    ) -> Ranked:
        """What `search` finds, as rows of the table and log-probabilities."""
        rows, scores = nothing(len(queries), max(k, 0))
        first = 0
        for count, found in self._found(queries, k=k, within=within, groups=groups, beams=beams):
            width = min(k, found.documents.shape[1])
            place = slice(first, first + count)
            valid = found.valid[:count, :width]
            rows[place, :width] = np.where(valid, found.documents[:count, :width], -1)
            scores[place, :width] = np.where(valid, found.log_probs[:count, :width], -np.inf)
            first += count
        return Ranked(rows, scores)

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

    def _found(
        self, queries: Sequence[str], *, k: int, within: Permits | None, groups: int, beams: int, trail: bool = False
    ) -> Iterator[tuple[int, Found]]:
        """Batch by batch, how many of its queries are real and what was found, on the host."""
        if k < 1 or any(not query.strip() for query in queries):
            raise UserError("search: give queries that are not empty, and k of at least 1")
        if not 1 <= groups <= beams:
            raise UserError(f"search: {groups} groups of {beams} beams; give at least 1 group, and a beam for each")
        beams = max(beams, 1 << (k - 1).bit_length())
        config = BeamConfig(beams=beams + -beams % groups, groups=groups, trail=trail)
        for first, batch in _batches(len(queries)):
            part = list(queries[first : first + batch])
            tokens, mask = tokenize(self._tokenizer, part + part[:1] * (batch - len(part)), self._max_length)
            present = np.arange(batch) < len(part)
            found = self._generator(config)(self._params, self._trie, tokens, mask, present, within)
            yield len(part), jax.device_get(found)

    def _generator(self, config: BeamConfig):
        key = dataclasses.astuple(config)
        with self._lock:
            if key not in self._generators:
                self._generators[key] = make_generator(self._functions, config=config)
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

    def _hits(self, rows: Int[np.ndarray, " k"], scores: Float[np.ndarray, " k"]) -> list[Hit]:
        return [self._hit(int(row), float(score)) for row, score in zip(rows, scores, strict=True) if row >= 0]

    def _hit(self, row: int, score: float) -> Hit:
        known = self.corpus is not None and row < len(self.corpus)
        text = " ".join(self.corpus.text(row)[: 4 * SNIPPET].split())[:SNIPPET] if known else ""
        path = self.corpus.path(row) if known else ()
        return Hit(self.table.ids[row].as_py(), score, self._texts[row].as_py(), text, path)


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


def _open_trie(folder: pathlib.Path, table: IdTable, sizes: tuple[int, ...]) -> tries.Trie:
    """The kept trie; made anew where documents have been added since, or it cannot be read."""
    try:
        return tries.load(folder, table=table)
    except UserError:
        return of_table(table, counters=room(sizes))


def _open_corpus(table: IdTable) -> Corpus | None:
    """The documents of the run, for their texts; None where they cannot be read any more or have changed."""
    settings = table.manifest.config["corpus"]
    try:
        corpus = open_corpus(from_dict(CorpusConfig, settings))
    except UserError:
        return None
    return corpus if corpus.hash == table.manifest.corpus_hash else None
