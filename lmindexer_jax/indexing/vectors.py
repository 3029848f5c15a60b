"""A vector for every document, for the two-stage indexers: of a frozen encoder, of averaged words, or the user's own."""

import dataclasses
import enum
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.console import Console
from lmindexer_jax.data.embeddings import read_embeddings
from lmindexer_jax.data.tokens import TokenStore
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.encode import BATCH, encode_corpus, make_encode
from lmindexer_jax.indexing.sweep import sweep
from lmindexer_jax.models.indexer import IndexerFunctions, Params
from lmindexer_jax.models.quantiser import EPSILON
from lmindexer_jax.training.sharding import here

DOCUMENTS = 128  # whose words are averaged together: 200 MB at 512 tokens and D = 768


class VectorSource(enum.StrEnum):
    """What a document's vector is; all but one's own have unit length."""

    POOLED = "pooled"  # mean of the encoder's states, as sentence-transformers models have it
    FIRST = "first"  # the encoder's state of the first token ([CLS] of a BERT)
    WORDS = "words"  # mean of the language model's token embeddings, without any context
    FILE = "file"  # one's own, from two_stage.vectors.path, as they are


@dataclasses.dataclass
class VectorsConfig:
    """Where the vectors come from."""

    source: VectorSource = VectorSource.POOLED
    path: str = ""  # of source "file": .parquet (id, vector), or .npy with one row per document in the corpus' order


def check(config: VectorsConfig) -> None:
    """Refuse settings without a meaning, in one line each."""
    if (config.source == VectorSource.FILE) != bool(config.path):
        raise UserError("two_stage.vectors: a path belongs to source='file', and that source needs a path; give both or neither")


def from_file(config: VectorsConfig, ids: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """The user's own vectors; see `data.embeddings.read_embeddings` for what is refused."""
    return read_embeddings(pathlib.Path(config.path).expanduser(), ids)


def from_language_model(
    source: VectorSource,
    functions: IndexerFunctions,
    params: Params,
    store: TokenStore,
    *,
    unlabelled: tuple[int, ...],
    cache: pathlib.Path | None,
    console: Console,
) -> Float[np.ndarray, "N D"]:
    """Vectors of the documents of a store; each depends on its own tokens alone.

    Args:
      unlabelled: token ids that are no words.
      cache: where the encoder's states are kept for other runs; None keeps none.
    """
    if source == VectorSource.WORDS:
        return mean_of_words(functions.embedding(params), store, unlabelled=unlabelled)
    if cache is None:
        states = encode_documents(source, functions, params, store, console=console)
    else:
        encoded = encode_corpus(functions, params, store, directory=cache, console=console)
        if source == VectorSource.POOLED:
            return np.asarray(encoded.pooled)
        firsts = np.r_[0, np.cumsum(store.lengths, dtype=np.int64)[:-1]]
        states = np.stack([encoded.states[first : first + 1][0] for first in firsts])
    return np.asarray(states) if source == VectorSource.POOLED else unit(states)


def encode_documents(
    source: VectorSource, functions: IndexerFunctions, params: Params, store: TokenStore, *, console: Console
) -> Float[np.ndarray, "N D"]:
    """Pooled or first states of all documents, by the same compiled function that makes the cached ones."""
    encode, params = make_encode(functions), here(params)

    def vectors(batch: tuple[jax.Array, jax.Array]) -> Float[jax.Array, "B D"]:
        states, pooled, _ = encode(params, *batch)
        return pooled if source == VectorSource.POOLED else states[:, 0]

    def fetch(indices: Int[np.ndarray, " B"], length: int) -> tuple[np.ndarray, np.ndarray]:
        return store.batch(indices, length=length)

    return sweep(vectors, fetch, store, rows=BATCH, console=console, label="document vectors")


def mean_of_words(
    embedding: Float[jax.Array, "V D"], store: TokenStore, *, unlabelled: tuple[int, ...]
) -> Float[np.ndarray, "N D"]:
    """Unit mean of the token embeddings of every document; zero where a document has no word."""
    table = np.array(embedding, np.float32)
    table[list(unlabelled)] = 0.0  # they change the mean's length alone, which becomes one
    means = np.empty((len(store), table.shape[1]), np.float32)
    for first in range(0, len(store), DOCUMENTS):
        part = store.part(first, min(first + DOCUMENTS, len(store)))
        starts = np.r_[0, np.cumsum(part.lengths, dtype=np.int64)[:-1]]
        means[first : first + DOCUMENTS] = np.add.reduceat(table[part.flat], starts, axis=0)
    return unit(means)


def unit(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Of length one; zeros stay zeros."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), EPSILON)
