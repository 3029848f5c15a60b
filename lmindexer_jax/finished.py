"""A finished run, opened for reading: its ID table and the corpus that it belongs to."""

import dataclasses
import json
import pathlib

import numpy as np
from jaxtyping import Int

from lmindexer_jax.config import Config
from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.assigners import LANGUAGE_MODEL, Assigners
from lmindexer_jax.indexing.two_stage import ENCODER, IndexerKind
from lmindexer_jax.training.checkpoint import load_tree
from lmindexer_jax.typed import from_dict


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a workdir holds once its run is through; row i of the table is document i of the corpus.

    The table may have more rows: documents that were added later, which have an ID but no place in the corpus.
    """

    workdir: pathlib.Path
    table: id_table.IdTable
    config: Config

    def corpus(self) -> Corpus:
        """The documents that the codes were learned from.

        Raises:
          UserError: they cannot be read any more, or have changed.
        """
        corpus = open_corpus(self.config.corpus)
        if corpus.hash != self.table.manifest.corpus_hash:
            source = self.config.corpus.path or self.config.corpus.name
            raise UserError(f"{self.workdir}: {source} has changed since the run; restore it, or run again in another --workdir")
        return corpus

    def summary(self) -> dict:
        """Every number of the closing table: `rows` by position, `prefixes`, `ami`, `collisions`, the rivals', and more."""
        return json.loads((self.workdir / "summary.json").read_text())

    def learned(self) -> dict:
        """Parameters of what was learned: the whole model of the last position, or a two-stage run's encoder.

        Raises:
          UserError: a run without a language model.
        """
        if self.config.indexer_kind == IndexerKind.LEARNED:
            return Assigners(self.workdir / "assigners").load(len(self.config.indexer.codebook_sizes) - 1)
        encoder = self.workdir / "assigners" / ENCODER
        if not encoder.is_dir():
            raise UserError(f"{self.workdir}: made without a language model, and there is none to start from; use a learned run")
        return load_tree(encoder)

    def adoptable(self, learned: dict) -> dict:
        """Of what was learned, where a retriever may start: all of it, or of a two-stage run the language model alone."""
        if self.config.indexer_kind == IndexerKind.LEARNED:
            return learned
        return {name: learned[name] for name in LANGUAGE_MODEL if name in learned}

    def learned_codes(self, documents: int) -> Int[np.ndarray, "N T"]:
        """Codes of the corpus' documents as learned, before last ones were spread to make IDs distinct.

        Codes of two-stage indexers are never spread: theirs are those of the table.
        """
        codes = self.table.codes[:documents].copy()
        if self.config.indexer_kind == IndexerKind.LEARNED:
            codes[:, -1] = Assigners(self.workdir / "assigners").learned_codes(codes.shape[1] - 1)
        return codes


def is_finished(workdir: pathlib.Path) -> bool:
    """Whether a run has come to its end: the report is the last that it writes."""
    return (workdir / "report.html").exists()


def open_finished(workdir: pathlib.Path) -> Finished:
    """Open a workdir.

    Raises:
      UserError: no finished run, or a damaged table.
    """
    table = id_table.load(workdir / "ids")
    return Finished(workdir, table, from_dict(Config, table.manifest.config))
