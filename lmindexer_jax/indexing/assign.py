"""Vectors and codes for every document: streamed, each document exactly once, batch-invariant (see `sweep`)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.console import Console
from lmindexer_jax.indexing.encode import make_encode
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.indexing.sweep import sweep
from lmindexer_jax.indexing.terms import with_states
from lmindexer_jax.models.indexer import IndexerFunctions, Params, codebook
from lmindexer_jax.models.quantiser import Similarity, nearest
from lmindexer_jax.training.sharding import here

BATCH = 128
ENCODING_BATCH = 32
MODEL_INPUTS = ("tokens", "mask", "codes", "encoded", "centres")


@functools.cache
def make_vectors(functions: IndexerFunctions, frozen: bool) -> Callable:
    """Compiled `(params, rows) -> (B, P+1, D)` without dropout; of a frozen encoder from states as they are kept."""

    @jax.jit
    def vectors(params: Params, rows: dict) -> Float[jax.Array, "B P+1 D"]:
        rows = with_states(functions, params, rows) if frozen else rows
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
    """Run `compute` on the model's inputs of every document and put the rows of its results in corpus order."""

    def fetch(indices: Int[np.ndarray, " B"], length: int) -> dict[str, np.ndarray]:
        rows = inputs.rows(indices, position=position, length=length)
        return {name: rows[name] for name in MODEL_INPUTS if name in rows}

    rows = BATCH if inputs.encoded is not None else ENCODING_BATCH
    return sweep(compute, fetch, inputs.store, rows=rows, console=console, label=label)


def corpus_vectors(
    functions: IndexerFunctions,
    params: Params,
    inputs: Inputs,
    *,
    position: int,
    console: Console,
    frozen: bool = False,
    label: str = "document vectors",
) -> Float[np.ndarray, "N D"]:
    """h of slot `position` for every document, the codes before it teacher-forced; see `Stage` for `frozen`."""
    vectors, params = make_vectors(functions, frozen), here(params)
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
    encode, params = make_encode(functions), here(params)

    def start(batch: tuple[jax.Array, jax.Array]) -> Float[jax.Array, "B D"]:
        _, pooled, lexical = encode(params, *batch)
        return pooled + weight * lexical

    def fetch(indices: Int[np.ndarray, " B"], length: int) -> tuple[np.ndarray, np.ndarray]:
        return inputs.store.batch(indices, length=length)

    return sweep(start, fetch, inputs.store, rows=ENCODING_BATCH, console=console, label="pooled vectors")


@functools.cache
def make_codes(
    functions: IndexerFunctions, position: int, similarity: Similarity | tuple[Similarity, ...], frozen: bool = False
) -> Callable:
    """Compiled `(params, rows) -> (B, position+1)`: the nearest row at every slot up to `position`."""
    vectors = make_vectors(functions, frozen)
    by = similarity if isinstance(similarity, tuple) else (similarity,) * (position + 1)

    @jax.jit
    def codes(params: Params, rows: dict) -> Int[jax.Array, "B P+1"]:
        out = vectors(params, rows)
        found = [nearest(out[:, p], codebook(params, p), similarity=by[p]) for p in range(position + 1)]
        return jnp.stack(found, axis=1)

    return codes


def corpus_codes(
    functions: IndexerFunctions,
    params: Params,
    inputs: Inputs,
    *,
    position: int,
    similarity: Similarity | tuple[Similarity, ...],
    console: Console,
    frozen: bool = False,
    label: str = "codes",
) -> Int[np.ndarray, "N P+1"]:
    """The nearest codebook row at every slot up to `position` for every document, codes before each slot as assigned.

    The last column is the new position's code; the others tell what earlier positions would be given now, where `similarity`
    says how vectors are compared at each slot.
    """
    codes, params = make_codes(functions, position, similarity, frozen), here(params)
    return over_corpus(lambda rows: codes(params, rows), inputs, position=position, console=console, label=label)
