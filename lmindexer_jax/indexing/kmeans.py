"""K-means on the device, in agreement with how codes are assigned.

Lloyd's algorithm (Lloyd 1982) and its mini-batch form (Sculley 2010), started as `seeding` says. Cosine is spherical
k-means (Dhillon and Modha 2001): unit vectors, unit centres, so that clustering and assignment minimise the same number. The returned codes are `assign_nearest` of the returned centres, always.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.nearest import chunk_rows, compare, make_targets, nearest, prepare
from lmindexer_jax.indexing.seeding import starting_centres
from lmindexer_jax.models.quantiser import Similarity
from lmindexer_jax.training import hosts
from lmindexer_jax.training.sharding import spread_rows


SPLIT_FROM = 2**22
"""Numbers, from which on the devices share the work of a clustering; fewer are not worth the way."""

HELD = 2**32
"""Bytes of vectors that lie on each device; of more, batches are read from the host one after the other."""

BATCH = 2**14
"""Rows of such a batch."""


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
    batch: int | None = None,
    restarts: int = 1,
) -> KMeans:
    """Cluster vectors around k centres; the same key gives the same clustering.

    A cluster that runs empty moves to the farthest point of one of the worst clusters. Where the vectors hold fewer
    than k distinct points, the surplus centres stay copies of used ones and own nothing.

    Args:
      vectors: held on the device, or with a `batch` left on the host, where a memory map may exceed the memory.
      key: a typed key (`jax.random.key`).
      weights: how much each vector counts; 0 for padding. All rows receive a code, whatever their weight.
      iterations: most passes over the data.
      tolerance: stop when a pass lowers the inertia by less than this share.
      batch: rows per centre update; 0 updates after each full pass (Lloyd). By default 0, or BATCH where the vectors take
        more than HELD bytes of every device.
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
    if batch is None:
        batch = 0 if vectors.size * 4 <= HELD * _devices(vectors) else BATCH
    patience = {"similarity": similarity, "iterations": iterations, "tolerance": tolerance}
    runs = []
    for restart in jax.random.split(key, restarts):
        start_key, batch_key = jax.random.split(restart)
        centres = starting_centres(vectors, weights, k, key=start_key, similarity=similarity)
        if batch:
            centres, done = _fit_batches(vectors, weights, centres, key=batch_key, batch=batch, **patience)
        else:
            centres, done = _fit_whole(vectors, weights, centres, **patience)
        codes, distances = nearest(vectors, centres, similarity)
        inertia = float(np.dot(weights.astype(np.float64), distances))
        if not np.isfinite(inertia):
            raise UserError("k-means: the vectors hold NaN or infinite values; look at the stage that made them")
        runs.append(KMeans(centres, codes, inertia, done))
    return min(runs, key=lambda run: run.inertia)


def _devices(vectors) -> int:
    """How many devices share the work of a clustering."""
    return 1 if vectors.size < SPLIT_FROM else jax.device_count() if hosts.several() else jax.local_device_count()


def _fit_whole(vectors, weights, centres, *, similarity, iterations, tolerance):
    """Lloyd's algorithm as one compiled loop over vectors on the device, or split over all of them where they are many."""
    rows = chunk_rows(len(centres))
    groups = _devices(vectors)
    if groups == 1:
        missing = -len(vectors) % rows
        vectors = jnp.pad(jnp.asarray(vectors, jnp.float32), ((0, missing), (0, 0)))
        weights = jnp.pad(jnp.asarray(weights), (0, missing))
    else:
        vectors, weights = spread_rows((np.asarray(vectors, np.float32), weights), multiple=rows)
        centres = np.asarray(centres)
    centres, done = _lloyd(vectors, weights, centres, similarity, rows, groups, iterations, tolerance)
    return jnp.asarray(hosts.of_first(np.asarray(centres))), int(done)


@functools.partial(jax.jit, static_argnames=("similarity", "rows", "groups"))
def _lloyd(vectors, weights, centres, similarity: Similarity, rows: int, groups: int, iterations, tolerance):
    vectors = prepare(vectors, similarity)
    start = (centres, jnp.float32(jnp.inf), jnp.bool_(False), jnp.int32(0))

    def unfinished(state):
        return ~state[2] & (state[3] < iterations)

    def step(state):
        centres, before, _, done = state
        totals = _totals(vectors, weights, centres, rows, groups)
        moved, repaired = _repair(vectors, weights, centres, totals)
        settled = (totals.inertia > (1.0 - tolerance) * before) & ~repaired
        return prepare(moved, similarity), totals.inertia, settled, done + 1

    centres, _, _, done = jax.lax.while_loop(unfinished, step, start)
    return centres, done


def _fit_batches(vectors, weights, centres, *, key, batch, similarity, iterations, tolerance):
    """Mini-batch k-means over host rows: only `batch` of them are on the device at a time."""
    rows = chunk_rows(len(centres))
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
    return jnp.asarray(hosts.of_first(np.asarray(centres))), done


@functools.partial(jax.jit, static_argnames=("similarity", "rows"))
def _batch_step(vectors, weights, centres, mass, seen, similarity: Similarity, rows: int):
    totals = _totals(prepare(vectors, similarity), weights, centres, rows)
    mass = mass + totals.mass
    share = (totals.mass / jnp.maximum(mass, 1e-12))[:, None]
    means = totals.sums / jnp.maximum(totals.mass, 1e-12)[:, None]
    centres = prepare(centres + share * (means - centres), similarity)
    return centres, mass, seen + totals.mass, totals.inertia


@functools.partial(jax.jit, static_argnames=("similarity", "rows"))
def _repair_unseen(vectors, weights, centres, seen, similarity: Similarity, rows: int):
    vectors = prepare(vectors, similarity)
    totals = _totals(vectors, weights, centres, rows)
    # what the pass has seen decides who is empty; the last batch supplies the points to move to
    totals = totals._replace(sums=centres * seen[:, None], mass=seen)
    centres, repaired = _repair(vectors, weights, centres, totals)
    return prepare(centres, similarity), repaired


class _Totals(NamedTuple):
    sums: Array
    mass: Array
    inertia: Array
    codes: Array
    distances: Array


def _totals(vectors, weights, centres, rows: int, groups: int = 1) -> _Totals:
    """What one assignment of all vectors adds up to, never holding more than rows x K scores on a device.

    Each of the groups, one to a device, is added up by itself.
    """
    if groups > 1:
        parts = vectors.reshape(groups, -1, vectors.shape[1]), weights.reshape(groups, -1)
        each = jax.vmap(lambda x, w: _totals(x, w, centres, rows))(*parts)
        sums, mass, inertia = (jnp.sum(part, axis=0) for part in each[:3])
        return _Totals(sums, mass, inertia, each.codes.reshape(-1), each.distances.reshape(-1))
    targets = make_targets(centres)

    def add(carry, chunk):
        sums, mass = carry
        x, w = chunk
        codes, distances = compare(x, targets)
        carry = _add_by_code(sums, codes, x * w[:, None]), _add_by_code(mass, codes, w[:, None])
        return carry, (codes, distances)

    chunks = vectors.reshape(-1, rows, vectors.shape[1]), weights.reshape(-1, rows)
    zero = jnp.zeros_like(centres), jnp.zeros((len(centres), 1), centres.dtype)
    (sums, mass), (codes, distances) = jax.lax.scan(add, zero, chunks)
    codes, distances = codes.reshape(-1), distances.reshape(-1)
    return _Totals(sums, mass[:, 0], jnp.dot(distances, weights), codes, distances)


def _add_by_code(sums, codes, values):
    """Add each row of values to the row of sums that its code names. On a CPU scattering is 30 times as fast as a
    one-hot matmul; accelerators are fast at the matmul, which unlike their scatter adds in the same order every time."""

    def scatter(sums, codes, values):
        return sums.at[codes].add(values)

    def matmul(sums, codes, values):
        hot = (codes[None, :] == jnp.arange(len(sums), dtype=codes.dtype)[:, None]).astype(values.dtype)
        return sums + jnp.matmul(hot, values, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.platform_dependent(sums, codes, values, cpu=scatter, default=matmul)


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
