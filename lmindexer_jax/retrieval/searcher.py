"""Text queries to named documents by a retriever that was kept in a workdir:

    Searcher.load("runs/mine").search(["fit a smoothing spline"], k=10)

`W/retriever/` holds `params/` (a checkpoint), `tokenizer/`, `trie/` and `retriever.json`, which is written last.
"""

import dataclasses
import json
import os
import pathlib
import threading
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.data.documents import CorpusConfig, OnBad
from lmindexer_jax.data.tokenizer import Tokenizer, load_tokenizer
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models.bert import BertConfig
from lmindexer_jax.models.retriever import Params, Retriever, RetrieverConfig, RetrieverFunctions
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.retrieval import trie as tries
from lmindexer_jax.retrieval.beam import BeamConfig
from lmindexer_jax.retrieval.build import of_table
from lmindexer_jax.retrieval.generate import make_generator
from lmindexer_jax.retrieval.topk import Ranked, nothing
from lmindexer_jax.training.checkpoint import load_tree, save_tree

HOME, META, FORMAT = "retriever", "retriever.json", 1
BATCHES = (1, 8, 32)  # queries at a time: a search is compiled for these alone
SNIPPET = 200  # characters of a document's text
FAMILIES = {"t5": T5Config, "bert": BertConfig}


@dataclasses.dataclass(frozen=True)
class Hit:
    """One document that was found: its text is "" where it was added after the run, or the corpus cannot be read."""

    document: str
    log_prob: float
    full_id: str
    text: str


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

    def search(self, queries: Sequence[str], *, k: int = 10) -> list[list[Hit]]:
        """The k most probable documents of every query, best first; fewer where there are not as many.

        The first call for a number of queries or results compiles; later ones take milliseconds.

        Raises:
          UserError: an empty query, or k below 1.
        """
        ranked = self.rank(queries, k=k)
        return [[self._hit(row, score) for row, score in zip(*each) if row >= 0] for each in zip(*ranked)]

    def rank(self, queries: Sequence[str], *, k: int) -> Ranked:
        """The same as rows of the table and log-probabilities."""
        if k < 1 or any(not query.strip() for query in queries):
            raise UserError("search: give queries that are not empty, and k of at least 1")
        beams = max(20, 1 << (k - 1).bit_length())
        rows, scores = nothing(len(queries), k)
        first = 0
        while first < len(queries):
            left = len(queries) - first
            batch = next((size for size in BATCHES if size >= left), BATCHES[-1])
            part = list(queries[first : first + batch])
            tokens, mask = tokenize(self._tokenizer, part + part[:1] * (batch - len(part)), self._max_length)
            present = np.arange(batch) < len(part)
            found = jax.device_get(self._generator(beams)(self._params, self._trie, tokens, mask, present))
            width = min(k, found.documents.shape[1])
            place = slice(first, first + len(part))
            valid = found.valid[: len(part), :width]
            rows[place, :width] = np.where(valid, found.documents[: len(part), :width], -1)
            scores[place, :width] = np.where(valid, found.log_probs[: len(part), :width], -np.inf)
            first += batch
        return Ranked(rows, scores)

    def _generator(self, beams: int):
        with self._lock:
            if beams not in self._generators:
                self._generators[beams] = make_generator(self._functions, config=BeamConfig(beams=beams))
            return self._generators[beams]

    def _hit(self, row: int, score: float) -> Hit:
        known = self.corpus is not None and row < len(self.corpus)
        text = " ".join(self.corpus.text(row)[: 4 * SNIPPET].split())[:SNIPPET] if known else ""
        return Hit(self.table.ids[int(row)].as_py(), float(score), self._texts[int(row)].as_py(), text)


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
        corpus = open_corpus(CorpusConfig(**settings | {"on_bad": OnBad(settings["on_bad"])}))
    except UserError:
        return None
    return corpus if corpus.hash == table.manifest.corpus_hash else None
