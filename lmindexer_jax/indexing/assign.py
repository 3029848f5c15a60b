"""Vectors and codes for every document: streamed, each document exactly once, batch-invariant.

A document's bits depend on its own tokens alone: its padded length follows from its own length and every batch has
the same number of rows, so it always meets the same compiled function.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
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
MODEL_INPUTS = ("tokens", "mask", "codes", "encoded", "centres")


@functools.cache
def make_vectors(functions: IndexerFunctions) -> Callable:
    """Compiled `(params, rows) -> (B, P+1, D)` without dropout."""

    @jax.jit
    def vectors(params: Params, rows: dict) -> Float[jax.Array, "B P+1 D"]:
        encoded = rows.get("encoded")
        if encoded is None:
            encoded = functions.encode(params, rows["tokens"], rows["mask"])
        return functions.vectors(
            params, encoded, rows["tokens"], rows["mask"], codes=rows["codes"], centres=rows.get("centres")
        )

    return vectors


def over_corpus(
    compute: Callable[[dict], jax.Array], inputs: Inputs, *, position: int, console: Console, label: str
) -> np.ndarray:
    """Run `compute` on every document exactly once and put the rows of its results in corpus order."""
    lengths = inputs.store.lengths
    size = BATCH if inputs.encoded is not None else ENCODING_BATCH
    batches = list(inference_batches(lengths, batch_size=size, buckets=length_buckets(inputs.store.max_length)))
    out, written = None, 0
    with console.progress(label, total=len(batches), unit="batches") as progress:
        for indices, real, length in batches:
            rows = inputs.rows(indices, position=position, length=length)
            result = np.asarray(compute({name: rows[name] for name in MODEL_INPUTS if name in rows}))
            out = np.empty((len(lengths), *result.shape[1:]), result.dtype) if out is None else out
            out[indices[real]] = result[real]
            written += int(real.sum())
            progress.advance(1)
    assert written == len(lengths), "every document is written once"
    return out


def corpus_vectors(
    functions: IndexerFunctions,
    params: Params,
    inputs: Inputs,
    *,
    position: int,
    console: Console,
    label: str = "document vectors",
) -> Float[np.ndarray, "N D"]:
    """h of slot `position` for every document, the codes before it teacher-forced."""
    vectors = make_vectors(functions)
    return over_corpus(
        lambda rows: vectors(params, rows)[:, -1], inputs, position=position, console=console, label=label
    )


def start_vectors(
    functions: IndexerFunctions, params: Params, inputs: Inputs, *, console: Console
) -> Float[np.ndarray, "N D"]:
    """What every document's vector starts from: its pooled vector, by the encoder as it is now."""
    weight = functions.module.config.lexical_weight
    if inputs.pooled is not None:
        return inputs.pooled + weight * inputs.lexical if weight > 0 else inputs.pooled
    encode = make_encode(functions)
    store = inputs.store
    buckets = length_buckets(store.max_length)
    batches = list(inference_batches(store.lengths, batch_size=ENCODING_BATCH, buckets=buckets))
    out = None
    with console.progress("pooled vectors", total=len(batches), unit="batches") as progress:
        for indices, real, length in batches:
            _, pooled, lexical = encode(params, *store.batch(indices, length=length))
            out = np.empty((len(store), pooled.shape[-1]), np.float32) if out is None else out
            out[indices[real]] = np.asarray(pooled + weight * lexical)[real]
            progress.advance(1)
    return out


@functools.cache
def make_codes(functions: IndexerFunctions, position: int, similarity: Similarity) -> Callable:
    """Compiled `(params, rows) -> (B, position+1)`: the nearest row at every slot up to `position`."""
    vectors = make_vectors(functions)

    @jax.jit
    def codes(params: Params, rows: dict) -> Int[jax.Array, "B P+1"]:
        out = vectors(params, rows)
        found = [nearest(out[:, p], codebook(params, p), similarity=similarity) for p in range(position + 1)]
        return jnp.stack(found, axis=1)

    return codes


def corpus_codes(
    functions: IndexerFunctions,
    params: Params,
    inputs: Inputs,
    *,
    position: int,
    similarity: Similarity,
    console: Console,
    label: str = "codes",
) -> Int[np.ndarray, "N P+1"]:
    """The nearest codebook row at every slot up to `position` for every document, codes before each slot as assigned.

    The last column is the new position's code; the others tell what earlier positions would be given now.
    """
    codes = make_codes(functions, position, similarity)
    return over_corpus(lambda rows: codes(params, rows), inputs, position=position, console=console, label=label)
