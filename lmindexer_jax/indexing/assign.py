"""Vectors and codes for every document: streamed, each document exactly once, batch-invariant.

A document's bits depend on its own tokens alone: its padded length follows from its own length and every batch has
the same number of rows, so it always meets the same compiled function.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.console import Console
from lmindexer_jax.data.pipeline import inference_batches, length_buckets
from lmindexer_jax.indexing.encode import make_encode
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.models.indexer import IndexerFunctions, Params, codebook
from lmindexer_jax.models.quantiser import Similarity, nearest

BATCH = 128
ENCODING_BATCH = 32


def make_vectors(functions: IndexerFunctions) -> Callable:
    """Compiled `(params, rows) -> (B, P+1, D)` without dropout."""

    @jax.jit
    def vectors(params: Params, rows: dict) -> Float[jax.Array, "B P+1 D"]:
        encoded = rows.get("encoded")
        if encoded is None:
            encoded = functions.encode(params, rows["tokens"], rows["mask"])
        return functions.vectors(params, encoded, rows["mask"], codes=rows["codes"], centres=rows.get("centres"))

    return vectors


def corpus_vectors(
    functions: IndexerFunctions,
    params: Params,
    inputs: Inputs,
    *,
    position: int,
    console: Console,
    indices: Int[np.ndarray, " M"] | None = None,
    label: str = "document vectors",
) -> Float[np.ndarray, "M P+1 D"]:
    """h_1..h_{position+1} of every document (or of those in `indices`), codes before `position` teacher-forced."""
    vectors = make_vectors(functions)
    lengths = inputs.store.lengths if indices is None else inputs.store.lengths[indices]
    size = BATCH if inputs.encoded is not None else ENCODING_BATCH
    buckets = length_buckets(inputs.store.lengths, longest=inputs.store.max_length)
    batches = list(inference_batches(lengths, batch_size=size, buckets=buckets))
    out = None
    written = 0
    with console.progress(label, total=len(batches), unit="batches") as progress:
        for places, real, length in batches:
            documents = places if indices is None else indices[places]
            rows = inputs.rows(documents, position=position, length=length)
            rows.pop("labelled")
            result = np.asarray(vectors(params, rows))
            if out is None:
                out = np.empty((len(lengths), *result.shape[1:]), np.float32)
            out[places[real]] = result[real]
            written += int(real.sum())
            progress.advance(1)
    assert written == len(lengths), "every document is written once"
    return out


def pooled_vectors(
    functions: IndexerFunctions, params: Params, inputs: Inputs, *, console: Console
) -> Float[np.ndarray, "N D"]:
    """Unit mean of the encoder's states of every document, by the encoder as it is now."""
    encode = make_encode(functions)
    store = inputs.store
    buckets = length_buckets(store.lengths, longest=store.max_length)
    batches = list(inference_batches(store.lengths, batch_size=ENCODING_BATCH, buckets=buckets))
    out = None
    with console.progress("pooled vectors", total=len(batches), unit="batches") as progress:
        for indices, real, length in batches:
            _, pooled = encode(params, *store.batch(indices, length=length))
            out = np.empty((len(store), pooled.shape[-1]), np.float32) if out is None else out
            out[indices[real]] = np.asarray(pooled)[real]
            progress.advance(1)
    return out


def codes_of(
    vectors: Float[np.ndarray, "N D"], params: Params, *, position: int, similarity: Similarity
) -> Int[np.ndarray, " N"]:
    """The nearest codebook row of each vector, in chunks of fixed shape."""
    rows = codebook(params, position)
    find = jax.jit(nearest, static_argnames="similarity")
    chunk = min(4096, max(1024, 2**24 // rows.shape[0]))
    out = np.empty(len(vectors), np.int32)
    for first in range(0, len(vectors), chunk):
        part = vectors[first : first + chunk]
        padded = np.resize(part, (chunk, part.shape[1])) if len(part) < chunk else part
        out[first : first + chunk] = np.asarray(find(padded, rows, similarity=similarity))[: len(part)]
    return out
