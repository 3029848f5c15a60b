"""Where k-means starts: greedy k-means++ (Arthur and Vassilvitskii 2007), and its rounds in parallel for many centres.

The parallel form draws as k-means|| does (Bahmani et al. 2012), but k points in all, so that no reduction is needed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmindexer_jax.indexing.nearest import chunk_rows, make_targets, prepare, scan_nearest
from lmindexer_jax.models.quantiser import Similarity

GREEDY_LIMIT = 4096
"""More centres than this are started in parallel rounds: greedy k-means++ is one sequential step per centre."""

START_ROUNDS = 16
START_ROWS = 16_384
START_ROWS_PER_CENTRE = 32
START_NUMBERS = 2**28
"""The start looks at a sample: max(START_ROWS, START_ROWS_PER_CENTRE * k) rows, but START_NUMBERS floats (1 GB)."""


def starting_centres(
    vectors: Float[Array | np.ndarray, "N D"],
    weights: Float[np.ndarray, " N"],
    k: int,
    *,
    key: Array,
    similarity: Similarity,
) -> Float[Array, "K D"]:
    """k vectors to start from, drawn from a sample of those that have weight; prepared for the similarity."""
    sample_key, pick_key = jax.random.split(key)
    most = min(max(START_ROWS, START_ROWS_PER_CENTRE * k), max(START_NUMBERS // vectors.shape[1], k))
    picked = np.flatnonzero(weights)
    if len(picked) > most:
        picked = np.sort(picked[np.asarray(jax.random.permutation(sample_key, len(picked))[:most])])
    sample = prepare(np.asarray(vectors[picked]), similarity)
    draw = _greedy_start if k <= GREEDY_LIMIT else _parallel_start
    return draw(sample, jnp.asarray(weights[picked]), k, pick_key)


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
    rows = chunk_rows(-(-k // START_ROUNDS))
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
    return chosen, scan_nearest(vectors, make_targets(chosen), rows=rows)[1]
