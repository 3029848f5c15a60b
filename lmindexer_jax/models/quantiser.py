"""From a continuous document vector to one row of a codebook, with a gradient.

Four estimators behind one function (METHOD of the paper: section 3.2; van den Oord 2017 for the straight-through
estimator; Jang 2017 for Gumbel-softmax) and two ways of choosing codes while training (the best row, or a row from a
balanced Sinkhorn plan; Asano 2020, Caron 2020).
"""

import dataclasses
import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

EPSILON = 1e-6


class Similarity(enum.StrEnum):
    """How a vector is compared with codebook rows; higher is nearer."""

    INNER = "inner"  # raw inner product (published)
    COSINE = "cosine"
    L2 = "l2"  # minus half the squared distance


class Estimator(enum.StrEnum):
    """How the gradient passes the choice of a code."""

    SOFT = "soft"  # forward: the row; backward: the softmax mixture of all rows (published)
    IDENTITY = "identity"  # forward: the row; backward: the vector itself (VQ-VAE)
    GUMBEL = "gumbel"  # forward: a row drawn by Gumbel noise; backward: its relaxed mixture
    MARGINAL = "marginal"  # no row is chosen: the loss is its expectation over the rows


class Choice(enum.StrEnum):
    """Which code a document trains on. Assignment after training is always the best row."""

    NEAREST = "nearest"
    BALANCED = "balanced"  # Sinkhorn over the batch and a queue of recent vectors


class CodebookUpdate(enum.StrEnum):
    """What moves the rows."""

    GRADIENT = "gradient"
    EMA = "ema"  # running mean of the vectors assigned to a row


@dataclasses.dataclass
class QuantiserConfig:
    """Settings of one codebook position's bottleneck."""

    estimator: Estimator = Estimator.IDENTITY
    similarity: Similarity = Similarity.COSINE
    temperature: float = 1.0  # of the softmax over rows
    choice: Choice = Choice.NEAREST
    balance_temperature: float = 0.05
    balance_iterations: int = 4
    queue_batches: int = 15  # recent batches that the balanced choice looks at besides its own
    update: CodebookUpdate = CodebookUpdate.GRADIENT
    ema_decay: float = 0.99
    commitment: float = 0.25  # pulls the vector to its row (VQ-VAE); the published method has none
    codebook: float = 1.0  # pulls the row to its vectors (VQ-VAE); the published method has none


class Quantised(NamedTuple):
    """What the bottleneck lets through."""

    vector: Float[Array, "B D"]  # a codebook row forward; see Estimator for the backward pass
    code: Int[Array, " B"]
    scores: Float[Array, "B K"]  # similarities divided by the temperature, without noise
    commitment: Float[Array, " B"]  # weighted commitment plus codebook loss of each document


def unit(x: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
    """Scale the last axis to length one; a zero vector stays zero and has a finite gradient."""
    return x * lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + EPSILON**2)


def similarities(
    vectors: Float[Array, "B D"], rows: Float[Array, "K D"], *, similarity: Similarity
) -> Float[Array, "B K"]:
    """Compare every vector with every row; higher is nearer."""
    if similarity == Similarity.COSINE:
        vectors, rows = unit(vectors), unit(rows)
    products = vectors @ rows.T
    if similarity == Similarity.L2:
        squares = jnp.sum(jnp.square(vectors), -1)[:, None] + jnp.sum(jnp.square(rows), -1)[None]
        return products - 0.5 * squares
    return products


def best(scores: Float[Array, "B K"]) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """The index of the highest score of each row, the lowest among equals (0 where a score is NaN), and that score.

    jnp.argmax by two reductions: XLA's own, of pairs, goes one number at a time on a CPU and outweighs a product of small width.
    """
    scores = lax.optimization_barrier(scores)  # computed twice, the last bit could differ, and the highest equal none
    highest = jnp.max(scores, axis=-1)
    index = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    return jnp.min(jnp.where(scores < highest[:, None], scores.shape[1], index), axis=-1), highest


def nearest(vectors: Float[Array, "B D"], rows: Float[Array, "K D"], *, similarity: Similarity) -> Int[Array, " B"]:
    """The code of each vector: its best row, the lowest index among equals."""
    return best(similarities(vectors, rows, similarity=similarity))[0]


def sinkhorn(
    scores: Float[Array, "B K"], *, temperature: float, iterations: int, mask: Float[Array, " B"] | None = None
) -> Float[Array, "B K"]:
    """Log of a transport plan from documents (equal mass) to codes (equal mass), by Sinkhorn-Knopp in the log domain.

    Rows with mask 0 carry no mass. The plan's best code per document is the balanced choice (Asano 2020).
    """
    weight = jnp.zeros(scores.shape[0]) if mask is None else jnp.where(mask > 0, 0.0, -1e9)
    plan = scores / temperature
    for _ in range(iterations):
        plan = plan - jax.nn.logsumexp(plan + weight[:, None], axis=0, keepdims=True)
        plan = plan - jax.nn.logsumexp(plan, axis=1, keepdims=True)
    return plan


def balanced(
    vectors: Float[Array, "B D"],
    rows: Float[Array, "K D"],
    queue: Float[Array, "Q D"],
    *,
    config: QuantiserConfig,
) -> Int[Array, " B"]:
    """Codes that use all rows evenly over the batch and the queue; all-zero queue rows are empty places."""
    everything = jnp.concatenate([vectors, queue])
    filled = jnp.concatenate([jnp.ones(vectors.shape[0]), jnp.any(queue != 0, axis=-1).astype(jnp.float32)])
    plan = sinkhorn(
        similarities(everything, rows, similarity=config.similarity),
        temperature=config.balance_temperature,
        iterations=config.balance_iterations,
        mask=filled,
    )
    return best(plan[: vectors.shape[0]])[0]


def quantise(
    vectors: Float[Array, "B D"],
    rows: Float[Array, "K D"],
    *,
    config: QuantiserConfig,
    key: PRNGKeyArray | None = None,
    queue: Float[Array, "Q D"] | None = None,
) -> Quantised:
    """Replace each vector by a codebook row.

    Args:
      vectors: continuous document vectors.
      rows: the codebook.
      config: estimator, similarity, choice and loss weights.
      key: for GUMBEL alone; without it no noise is added (evaluation).
      queue: recent vectors for the balanced choice; None chooses the nearest row (evaluation).

    Returns:
      The chosen rows with the estimator's gradient, codes, scaled scores, and the VQ losses per document.
    """
    scores = similarities(vectors, rows, similarity=config.similarity) / config.temperature
    drawn = scores
    if config.estimator == Estimator.GUMBEL and key is not None:
        drawn = scores + jax.random.gumbel(key, scores.shape)
    if config.choice == Choice.BALANCED and queue is not None:
        code = balanced(lax.stop_gradient(vectors), lax.stop_gradient(rows), queue, config=config)
    else:
        code = best(lax.stop_gradient(drawn))[0]
    hard = rows[code]
    if config.estimator == Estimator.IDENTITY:
        vector = vectors + lax.stop_gradient(hard - vectors)
    else:
        soft = jax.nn.softmax(drawn, axis=-1) @ rows
        vector = soft + lax.stop_gradient(hard - soft)
    commit = jnp.sum(jnp.square(vectors - lax.stop_gradient(hard)), axis=-1)
    follow = jnp.sum(jnp.square(lax.stop_gradient(vectors) - hard), axis=-1)
    if config.update == CodebookUpdate.EMA:
        follow = jnp.zeros_like(follow)  # the running mean moves the rows
    return Quantised(vector, code, scores, config.commitment * commit + config.codebook * follow)


def push(queue: Float[Array, "Q D"], vectors: Float[Array, "B D"]) -> Float[Array, "Q D"]:
    """The newest vectors enter the queue at the front, the oldest leave at the back."""
    return jnp.concatenate([lax.stop_gradient(vectors), queue])[: queue.shape[0]]


class RunningMean(NamedTuple):
    """Exponential moving averages behind an EMA codebook."""

    count: Float[Array, " K"]
    total: Float[Array, "K D"]


def start_running_mean(rows: Float[Array, "K D"]) -> RunningMean:
    """Begin as if each row had been the mean of one vector."""
    return RunningMean(jnp.ones(rows.shape[0]), rows)


def update_running_mean(
    mean: RunningMean, vectors: Float[Array, "B D"], code: Int[Array, " B"], *, decay: float
) -> tuple[RunningMean, Float[Array, "K D"]]:
    """Move the averages by one batch (van den Oord 2017, appendix A.1); returns them and the new rows.

    A row that nothing is assigned to keeps its place: count and total decay together, until there is almost nothing of them.
    """
    chosen = jax.nn.one_hot(code, mean.count.shape[0])
    count = decay * mean.count + (1 - decay) * chosen.sum(0)
    total = decay * mean.total + (1 - decay) * (chosen.T @ lax.stop_gradient(vectors))
    faded = count < EPSILON  # on their way to zero they would run out of digits
    count = jnp.where(faded, mean.count, count)
    total = jnp.where(faded[:, None], mean.total, total)
    return RunningMean(count, total), total / count[:, None]
