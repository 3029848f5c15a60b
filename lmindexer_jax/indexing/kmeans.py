"""K-means on the device, in agreement with how codes are assigned.

Lloyd's algorithm (Lloyd 1982) and its mini-batch form (Sculley 2010), started by greedy k-means++ (Arthur and
Vassilvitskii 2007) or, for many centres, by its rounds in parallel (Bahmani et al. 2012, without the reduction).
Cosine is spherical k-means (Dhillon and Modha 2001): unit vectors, unit centres, so that clustering and assignment
minimise the same number. The returned codes are `assign_nearest` of the returned centres, always.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.models.quantiser import Similarity

GREEDY_LIMIT = 4096
"""More centres than this are started in parallel rounds: greedy k-means++ is one sequential step per centre."""

START_ROUNDS = 16
START_ROWS = 16_384
START_ROWS_PER_CENTRE = 32
START_NUMBERS = 2**28
"""The start looks at a sample: max(START_ROWS, START_ROWS_PER_CENTRE * k) rows, but START_NUMBERS floats (1 GB)."""

SCORES_PER_CHUNK = 2**20
"""Rows x centres scored at a time: 4 MB stays near the cache, and bounds the memory at any K."""


class KMeans(NamedTuple):
    """A clustering. `centres` have unit length under COSINE; `inertia` is the weighted sum of squared distances
    (between unit vectors under COSINE, so 2 - 2 cos); `iterations` counts passes over the data."""

    centres: Float[Array, "K D"]
    codes: Int[np.ndarray, " N"]
    inertia: float
    iterations: int


def kmeans(
    vectors: Float[Array | np.ndarray, "N D"],
    k: int,
    *,
    key: Array,
    similarity: Similarity = Similarity.COSINE,
    weights: Float[Array | np.ndarray, " N"] | None = None,
    iterations: int = 100,
    tolerance: float = 1e-4,
    batch: int = 0,
    restarts: int = 1,
) -> KMeans:
    """Cluster vectors around k centres; the same key gives the same clustering.

    A cluster that runs empty moves to the farthest point of one of the worst clusters. Where the vectors hold fewer
    than k distinct points, the surplus centres stay copies of used ones and own nothing.

    Args:
      vectors: held on the device, or with `batch` left on the host, where a memory map may exceed the memory.
      key: a typed key (`jax.random.key`).
      weights: how much each vector counts; 0 for padding. All rows receive a code, whatever their weight.
      iterations: most passes over the data.
      tolerance: stop when a pass lowers the inertia by less than this share.
      batch: rows per centre update; 0 updates after each full pass (Lloyd).
      restarts: runs from different starts, of which the one with the lowest inertia is returned.

    Raises:
      UserError: more centres than vectors that count, vectors that are not finite, or the similarity INNER.
    """
    counting = len(vectors) if weights is None else int(np.count_nonzero(np.asarray(weights)))
    if similarity == Similarity.INNER:
        raise UserError("k-means: inner products have no nearest centre; choose the similarity cosine or l2")
    if not 1 <= k <= counting:
        raise UserError(f"k-means: {k} centres asked of {counting} vectors; choose a codebook size between 1 and {counting}")
    if weights is None:
        weights = np.ones(len(vectors), np.float32)
    weights = np.asarray(weights, np.float32)
    patience = {"similarity": similarity, "iterations": iterations, "tolerance": tolerance}
    runs = []
    for restart in jax.random.split(key, restarts):
        start_key, batch_key = jax.random.split(restart)
        centres = _start(vectors, weights, k, key=start_key, similarity=similarity)
        if batch:
            centres, done = _fit_batches(vectors, weights, centres, key=batch_key, batch=batch, **patience)
        else:
            centres, done = _fit_whole(vectors, weights, centres, **patience)
        codes, distances = _nearest(vectors, centres, similarity)
        inertia = float(np.dot(weights.astype(np.float64), distances))
        if not np.isfinite(inertia):
            raise UserError("k-means: the vectors hold NaN or infinite values; look at the stage that made them")
        runs.append(KMeans(centres, codes, inertia, done))
    return min(runs, key=lambda run: run.inertia)


def assign_nearest(
    vectors: Float[Array | np.ndarray, "N D"], centres: Float[Array, "K D"], similarity: Similarity = Similarity.COSINE
) -> Int[np.ndarray, " N"]:
    """The index of the nearest centre for each vector, int32; ties go to the lower index.

    Streams over chunks of one fixed shape, so memory is bounded, host memory maps are welcome, and a vector gets the
    same code alone as in any company.
    """
    return _nearest(vectors, centres, similarity)[0]


def _nearest(vectors, centres, similarity: Similarity) -> tuple[np.ndarray, np.ndarray]:
    rows = _chunk_rows(len(centres))
    found = [jax.device_get(_score_chunk(chunk, centres, similarity)) for chunk in _padded_chunks(vectors, rows)]
    codes, distances = (np.concatenate(part)[: len(vectors)] for part in zip(*found, strict=True))
    return codes, distances


def _padded_chunks(vectors, rows: int) -> Iterator[np.ndarray | Array]:
    for first in range(0, len(vectors), rows):
        chunk = vectors[first : first + rows]
        missing = rows - len(chunk)
        yield np.pad(np.asarray(chunk), ((0, missing), (0, 0))) if missing else chunk


def _chunk_rows(k: int) -> int:
    return min(max(SCORES_PER_CHUNK // k // 128, 1), 8) * 128


@functools.partial(jax.jit, static_argnames="similarity")
def _score_chunk(vectors, centres, similarity: Similarity):
    return _score(_prepare(vectors, similarity), _prepare(centres, similarity))


def _prepare(vectors, similarity: Similarity):
    vectors = jnp.asarray(vectors, jnp.float32)
    if similarity == Similarity.COSINE:
        vectors = vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(vectors**2, axis=-1, keepdims=True), 1e-24))
    return vectors


def _score(vectors, centres):
    # Nearness does not change when everything is shifted; shifting by the mean centre keeps the fp32 expansion
    # |x|^2 - 2 x.c + |c|^2 exact enough for data far from the origin.
    middle = jnp.mean(centres, axis=0, keepdims=True)
    vectors, centres = vectors - middle, centres - middle
    products = jnp.matmul(vectors, centres.T, precision=jax.lax.Precision.HIGHEST)
    scores = products - 0.5 * jnp.sum(centres**2, axis=1)[None, :]
    codes = jnp.argmax(scores, axis=1).astype(jnp.int32)
    distances = jnp.sum(vectors**2, axis=1) - 2.0 * jnp.max(scores, axis=1)
    distances = jnp.where(distances < 0.0, 0.0, distances)  # not maximum, which may hide a NaN
    return codes, distances


def _fit_whole(vectors, weights, centres, *, similarity, iterations, tolerance):
    """Lloyd's algorithm as one compiled loop over vectors on the device."""
    rows = _chunk_rows(len(centres))
    missing = -len(vectors) % rows
    vectors = jnp.pad(jnp.asarray(vectors, jnp.float32), ((0, missing), (0, 0)))
    weights = jnp.pad(jnp.asarray(weights), (0, missing))
    centres, done = _lloyd(vectors, weights, centres, similarity, rows, iterations, tolerance)
    return centres, int(done)


@functools.partial(jax.jit, static_argnames=("similarity", "rows"))
def _lloyd(vectors, weights, centres, similarity: Similarity, rows: int, iterations, tolerance):
    vectors = _prepare(vectors, similarity)
    start = (centres, jnp.float32(jnp.inf), jnp.bool_(False), jnp.int32(0))

    def unfinished(state):
        return ~state[2] & (state[3] < iterations)

    def step(state):
        centres, before, _, done = state
        totals = _totals(vectors, weights, centres, rows)
        moved, repaired = _repair(vectors, weights, centres, totals)
        settled = (totals.inertia > (1.0 - tolerance) * before) & ~repaired
        return _prepare(moved, similarity), totals.inertia, settled, done + 1

    centres, _, _, done = jax.lax.while_loop(unfinished, step, start)
    return centres, done


def _fit_batches(vectors, weights, centres, *, key, batch, similarity, iterations, tolerance):
    """Mini-batch k-means over host rows: only `batch` of them are on the device at a time."""
    rows = _chunk_rows(len(centres))
    batch = -(-batch // rows) * rows
    mass = jnp.zeros(len(centres), jnp.float32)
    before = np.inf
    for done in range(1, iterations + 1):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, done), len(vectors)))
        seen = jnp.zeros_like(mass)
        inertia = 0.0
        # A centre's rate is its share in the mass it has seen. Halving the past at every pass forgets where the
        # centre began, and still averages over enough to settle.
        mass = mass / 2
        for first in range(0, len(order), batch):
            picked = np.sort(order[first : first + batch])  # in storage order: kind to memory maps
            missing = batch - len(picked)
            block = np.pad(np.asarray(vectors[picked], np.float32), ((0, missing), (0, 0)))
            block_weights = np.pad(weights[picked], (0, missing))
            centres, mass, seen, part = _batch_step(block, block_weights, centres, mass, seen, similarity, rows)
            inertia += float(part)
        centres, repaired = _repair_unseen(block, block_weights, centres, seen, similarity, rows)
        if inertia > (1.0 - tolerance) * before and not repaired:
            break
        before = inertia
    return centres, done


@functools.partial(jax.jit, static_argnames=("similarity", "rows"))
def _batch_step(vectors, weights, centres, mass, seen, similarity: Similarity, rows: int):
    totals = _totals(_prepare(vectors, similarity), weights, centres, rows)
    mass = mass + totals.mass
    share = (totals.mass / jnp.maximum(mass, 1e-12))[:, None]
    means = totals.sums / jnp.maximum(totals.mass, 1e-12)[:, None]
    centres = _prepare(centres + share * (means - centres), similarity)
    return centres, mass, seen + totals.mass, totals.inertia


@functools.partial(jax.jit, static_argnames=("similarity", "rows"))
def _repair_unseen(vectors, weights, centres, seen, similarity: Similarity, rows: int):
    vectors = _prepare(vectors, similarity)
    totals = _totals(vectors, weights, centres, rows)
    # what the pass has seen decides who is empty; the last batch supplies the points to move to
    totals = totals._replace(sums=centres * seen[:, None], mass=seen)
    centres, repaired = _repair(vectors, weights, centres, totals)
    return _prepare(centres, similarity), repaired


class _Totals(NamedTuple):
    sums: Array
    mass: Array
    inertia: Array
    codes: Array
    distances: Array


def _totals(vectors, weights, centres, rows: int) -> _Totals:
    """What one assignment of all vectors adds up to, never holding more than rows x K scores."""
    k = len(centres)

    def add(carry, chunk):
        sums, mass = carry
        x, w = chunk
        codes, distances = _score(x, centres)
        sums, mass = sums + _sum_by_code(x * w[:, None], codes, k), mass + _sum_by_code(w[:, None], codes, k)[:, 0]
        return (sums, mass), (codes, distances)

    chunks = vectors.reshape(-1, rows, vectors.shape[1]), weights.reshape(-1, rows)
    zero = jnp.zeros_like(centres), jnp.zeros(k, centres.dtype)
    (sums, mass), (codes, distances) = jax.lax.scan(add, zero, chunks)
    codes, distances = codes.reshape(-1), distances.reshape(-1)
    return _Totals(sums, mass, jnp.dot(distances, weights), codes, distances)


def _sum_by_code(values, codes, k: int):
    """Sum rows by code. On a CPU scattering is 30 times as fast as a one-hot matmul; on accelerators the matmul
    is the fast one, and unlike their scatter it adds in the same order every time."""

    def scatter(values, codes):
        return jax.ops.segment_sum(values, codes, k)

    def matmul(values, codes):
        hot = (codes[None, :] == jnp.arange(k, dtype=codes.dtype)[:, None]).astype(values.dtype)
        return jnp.matmul(hot, values, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.platform_dependent(values, codes, cpu=scatter, default=matmul)


def _repair(vectors, weights, centres, totals: _Totals):
    """New centres: means, but the j-th empty cluster takes the farthest point of the j-th worst one, while points
    away from their centre last. Returns them and whether any cluster was refilled."""
    means = jnp.where(totals.mass[:, None] > 0, totals.sums / jnp.maximum(totals.mass, 1e-12)[:, None], centres)
    k = len(centres)

    def refill(means):
        # Every cluster names its farthest point that counts.
        away = jnp.where(weights > 0, totals.distances, -1.0)
        worst = jax.ops.segment_max(away, totals.codes, k)
        is_worst = away == worst[totals.codes]
        farthest = jax.ops.segment_min(jnp.where(is_worst, jnp.arange(len(away)), len(away)), totals.codes, k)
        spread = jax.ops.segment_sum(weights * totals.distances, totals.codes, k)
        scale = jnp.mean(jnp.sum(means**2, axis=1))
        spread = jnp.where(worst > 1e-6 * scale, spread, -1.0)  # points at their centre have nothing to give
        donors = jnp.argsort(-spread)
        empty = jnp.argsort(totals.mass > 0)  # stable: empty clusters first
        taken = (jnp.arange(k) < jnp.sum(totals.mass == 0)) & (spread[donors] > 0)
        points = vectors[jnp.minimum(farthest[donors], len(away) - 1)]
        return means.at[empty].set(jnp.where(taken[:, None], points, means[empty])), jnp.any(taken)

    return jax.lax.cond(jnp.any(totals.mass == 0), refill, lambda means: (means, jnp.bool_(False)), means)


def _start(vectors, weights, k: int, *, key, similarity: Similarity):
    """k starting centres, drawn from a sample of the vectors that count."""
    sample_key, pick_key = jax.random.split(key)
    most = min(max(START_ROWS, START_ROWS_PER_CENTRE * k), max(START_NUMBERS // vectors.shape[1], k))
    picked = np.flatnonzero(weights)
    if len(picked) > most:
        picked = np.sort(picked[np.asarray(jax.random.permutation(sample_key, len(picked))[:most])])
    sample = _prepare(np.asarray(vectors[picked]), similarity)
    start = _greedy_start if k <= GREEDY_LIMIT else _parallel_start
    return start(sample, jnp.asarray(weights[picked]), k, pick_key)


@functools.partial(jax.jit, static_argnames="k")
def _greedy_start(vectors, weights, k: int, key):
    """Greedy k-means++: of a few candidates drawn in proportion to the squared distance, keep the best."""
    candidates = 2 + int(np.log(k))
    middle = jnp.mean(vectors, axis=0, keepdims=True)  # keeps |x|^2 - 2 x.c + |c|^2 exact far from the origin
    vectors = vectors - middle
    squares = jnp.sum(vectors**2, axis=1)

    def add(step, state):
        centres, nearest = state
        odds = jnp.cumsum(nearest * weights)
        darts = jax.random.uniform(jax.random.fold_in(key, step), (candidates,)) * odds[-1]
        points = vectors[jnp.minimum(jnp.searchsorted(odds, darts, side="right"), len(odds) - 1)]
        products = jnp.matmul(vectors, points.T, precision=jax.lax.Precision.HIGHEST)
        distances = jnp.maximum(squares[:, None] - 2.0 * products + jnp.sum(points**2, axis=1)[None, :], 0.0)
        remaining = jnp.minimum(nearest[:, None], distances)
        best = jnp.argmin(weights @ remaining)
        return centres.at[step].set(points[best]), remaining[:, best]

    # No distance can exceed this one, so the first centre is drawn by weight alone.
    nearest = jnp.full(len(vectors), 4.0 * jnp.max(squares) + 1.0)
    centres, _ = jax.lax.fori_loop(0, k, add, (jnp.zeros((k, vectors.shape[1]), jnp.float32), nearest))
    return centres + middle


def _parallel_start(vectors, weights, k: int, key):
    """k-means++ in a few rounds: each draws its share of the centres at once, without replacement."""
    rows = _chunk_rows(-(-k // START_ROUNDS))
    missing = -len(vectors) % rows
    vectors, weights = jnp.pad(vectors, ((0, missing), (0, 0))), jnp.pad(weights, (0, missing))
    nearest = jnp.ones(len(vectors), jnp.float32)
    centres = []
    for turn, share in enumerate(np.array_split(np.arange(k), START_ROUNDS)):
        chosen, distances = _parallel_round(vectors, weights, nearest, len(share), rows, jax.random.fold_in(key, turn))
        nearest = jnp.minimum(nearest, distances) if turn else distances
        centres.append(chosen)
    return jnp.concatenate(centres)


@functools.partial(jax.jit, static_argnames=("count", "rows"))
def _parallel_round(vectors, weights, nearest, count: int, rows: int, key):
    luck = jax.random.gumbel(key, nearest.shape)  # the largest of log odds + Gumbel noise: draws without replacement
    chosen = vectors[jax.lax.top_k(jnp.log(weights * nearest) + luck, count)[1]]
    return chosen, _totals(vectors, weights, chosen, rows).distances
