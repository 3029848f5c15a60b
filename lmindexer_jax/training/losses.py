"""The three losses of LMIndexer (sections 3.2-3.3 of the paper), each as values and weights.

Every function returns `(values, weights)`; `mean` turns a pair into the scalar that is minimised, so that padding,
documents without neighbours and unlabelled slots weigh nothing, and a batch of any sharding gives the same number.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Terms = tuple[Float[Array, "..."], Float[Array, "..."]]


def mean(terms: Terms) -> Float[Array, ""]:
    """Weighted mean; zero where nothing has weight."""
    values, weights = terms
    return jnp.sum(values * shares(weights))


def shares(weights: Float[Array, "..."]) -> Float[Array, "..."]:
    """Weights that sum to one, or all zero where nothing has weight."""
    return weights / jnp.maximum(jnp.sum(weights), 1e-9)


def cross_entropy(logits: Float[Array, "*S V"], labels: Int[Array, "*S"]) -> Float[Array, "*S"]:
    """Negative log-likelihood of each label, in nats, computed in fp32."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def bag_reconstruction(logits: Float[Array, "B V"], tokens: Int[Array, "B L"], labelled: Bool[Array, "B L"]) -> Terms:
    """Cross-entropy of every labelled token given one distribution over words per document."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, tokens, axis=-1)
    return jax.nn.logsumexp(logits, axis=-1)[:, None] - picked, labelled.astype(jnp.float32)


def marginal_reconstruction(
    logits: Float[Array, "K V"],
    choice: Float[Array, "B K"],
    tokens: Int[Array, "B L"],
    labelled: Bool[Array, "B L"],
) -> Terms:
    """Expectation of `bag_reconstruction` over codes with log-weights `choice`; one value per document.

    `logits` holds one distribution over words per code, so every code learns from every document in proportion to
    its probability and nothing needs a straight-through estimate. A document weighs as many labels as it has.
    """
    logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    weights = labelled.astype(jnp.float32)
    per_code = jnp.einsum("kbl,bl->bk", -logs[:, tokens], weights)
    count = weights.sum(-1)
    expected = jnp.sum(jnp.exp(choice) * per_code, axis=-1)
    return expected / jnp.maximum(count, 1.0), count


def in_batch_contrast(
    first: Float[Array, "B D"], second: Float[Array, "B D"], mask: Float[Array, " B"], *, temperature: float
) -> Terms:
    """Two dropout views of one batch: each document finds its other view among all documents (SimCSE, Gao 2021).

    Masked documents neither ask nor serve as negatives. The published form is temperature 1 on raw products.
    """
    products = first @ second.T / temperature
    products = jnp.where(mask[None, :] > 0, products, -1e9)
    return cross_entropy(products, jnp.arange(first.shape[0])), mask


def prefix_contrast(
    query: Float[Array, "B D"],
    positive: Float[Array, "B D"],
    negatives: Float[Array, "B C D"],
    present: Bool[Array, "B C"],
    *,
    temperature: float,
) -> Terms:
    """Each document finds its other view among documents that share its prefix.

    `present` marks real negatives; a document without any has weight 0 (the published code gives NaN or log 5).
    """
    candidates = jnp.concatenate([positive[:, None], negatives], axis=1)
    products = jnp.einsum("bd,bcd->bc", query, candidates) / temperature
    products = products.at[:, 1:].set(jnp.where(present, products[:, 1:], -1e9))
    target = jnp.zeros(query.shape[0], jnp.int32)
    return cross_entropy(products, target), present.any(axis=1).astype(jnp.float32)


def commitment(scores: list[Float[Array, "B K"]], codes: Int[Array, "B P"], mask: Float[Array, " B"]) -> Terms:
    """Teacher-forced cross-entropy that keeps the decoder producing the codes of earlier positions.

    `scores[p]` are the scaled similarities of position p; the sizes K may differ. Values are (B, P).
    """
    values = jnp.stack([cross_entropy(score, codes[:, p]) for p, score in enumerate(scores)], axis=1)
    return values, jnp.broadcast_to(mask[:, None], values.shape)
