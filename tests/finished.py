"""A finished run without the training: corpus and ID table of a workdir, with codes that a test chooses."""

import dataclasses
import json
import pathlib

import numpy as np
import runs

from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.indexing import id_table


def finish(
    workdir: pathlib.Path, corpus: pathlib.Path, cache: pathlib.Path, *, codes=None, sizes=(4, 3, 8), config=None
) -> Corpus:
    """Write `workdir/ids` for a corpus; by default the codes are topic, subtopic and a running number."""
    config = config or runs.ours(corpus, cache)
    config.indexer.codebook_sizes = sizes
    documents = open_corpus(config.corpus)
    if codes is None:
        codes = np.column_stack([places(documents), np.arange(len(documents)) % 8])
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    manifest = id_table.Manifest(config=settings, corpus_hash=documents.hash, model_hash="made", codebook_sizes=sizes)
    id_table.build(documents.ids().to_pylist(), codes, manifest).save(workdir / "ids")
    return documents


def places(corpus: Corpus) -> np.ndarray:
    """(N, 2) topic and subtopic of every document of `runs.write_corpus`."""
    return np.array([corpus.path(row)[1].removeprefix("sub ").split(".") for row in range(len(corpus))], np.int32)
