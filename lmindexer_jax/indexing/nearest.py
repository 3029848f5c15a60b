"""The nearest centre of each vector: the one place that says what near means, for clustering and assignment alike."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmindexer_jax.models.quantiser import Similarity, best

SCORES_PER_CHUNK = 2**20
"""Rows x centres scored at a time, where K allows: 4 MB stays near the cache."""


def assign_nearest(
    vectors: Float[Array | np.ndarray, "N D"], centres: Float[Array, "K D"], similarity: Similarity = Similarity.COSINE
) -> Int[np.ndarray, " N"]:
    """The index of the nearest centre for each vector, int32; ties go to the lower index.

    Not for the similarity INNER, which has no distances. Streams over chunks of one fixed shape, so memory is bounded, host memory maps are welcome, and a vector gets the
    same code alone as in any company.
    """
    return nearest(vectors, centres, similarity)[0]


def nearest(
    vectors: Float[Array | np.ndarray, "N D"], centres: Float[Array, "K D"], similarity: Similarity
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """`assign_nearest`, and the squared distances to those centres (between unit vectors under COSINE: 2 - 2 cos)."""
    if not len(vectors):
        return np.empty(0, np.int32), np.empty(0, np.float32)
    targets = _prepared_targets(centres, similarity)
    chunks = _padded_chunks(vectors, chunk_rows(len(centres)))
    found = [jax.device_get(_score_chunk(chunk, targets, similarity)) for chunk in chunks]
    codes, distances = (np.concatenate(part)[: len(vectors)] for part in zip(*found, strict=True))
    return codes, distances


def chunk_rows(k: int) -> int:
    """Vectors compared at a time with k centres; from 256, so that reading the centres does not outweigh the products."""
    return min(max(SCORES_PER_CHUNK // k // 256, 1), 4) * 256


def prepare(vectors: Float[Array | np.ndarray, "N D"], similarity: Similarity) -> Float[Array, "N D"]:
    """fp32, and of unit length under COSINE, after which both similarities are squared distances; zeros stay zeros."""
    vectors = jnp.asarray(vectors, jnp.float32)
    if similarity == Similarity.COSINE:
        vectors = vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(vectors**2, axis=-1, keepdims=True), 1e-24))
    return vectors


class Targets(NamedTuple):
    """Centres made ready to be compared with: less their mean, and half their squared lengths."""

    middle: Array
    centres: Array
    halves: Array


def make_targets(centres: Float[Array, "K D"]) -> Targets:
    """Targets of prepared centres."""
    # Nearness does not change when everything is shifted; shifting by the mean centre keeps the fp32 expansion
    # |x|^2 - 2 x.c + |c|^2 exact enough for data far from the origin.
    middle = jnp.mean(centres, axis=0, keepdims=True)
    return Targets(middle, centres - middle, 0.5 * jnp.sum((centres - middle) ** 2, axis=1))


def compare(vectors: Float[Array, "M D"], targets: Targets) -> tuple[Array, Array]:
    """Codes and squared distances of prepared vectors that are few enough for M x K scores."""
    vectors = vectors - targets.middle
    products = jnp.matmul(vectors, targets.centres.T, precision=jax.lax.Precision.HIGHEST)
    codes, highest = best(products - targets.halves[None, :])
    distances = jnp.sum(vectors**2, axis=1) - 2.0 * highest
    return codes, jnp.where(distances < 0.0, 0.0, distances)  # not maximum, which may hide a NaN


def scan_nearest(vectors: Float[Array, "N D"], targets: Targets, *, rows: int) -> tuple[Array, Array]:
    """Codes and squared distances of prepared vectors, whose number is a multiple of `rows`, inside a compiled function."""
    chunks = vectors.reshape(-1, rows, vectors.shape[1])
    codes, distances = jax.lax.map(lambda chunk: compare(chunk, targets), chunks)
    return codes.reshape(-1), distances.reshape(-1)


@functools.partial(jax.jit, static_argnames="similarity")
def _prepared_targets(centres, similarity: Similarity) -> Targets:
    return make_targets(prepare(centres, similarity))


@functools.partial(jax.jit, static_argnames="similarity")
def _score_chunk(vectors, targets: Targets, similarity: Similarity):
    return compare(prepare(vectors, similarity), targets)


def _padded_chunks(vectors, rows: int) -> Iterator[np.ndarray | Array]:
    for first in range(0, len(vectors), rows):
        chunk = vectors[first : first + rows]
        missing = rows - len(chunk)
        yield np.pad(np.asarray(chunk), ((0, missing), (0, 0))) if missing else chunk
