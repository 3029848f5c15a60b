"""The probability of every ID, without a beam: a mode for small catalogues, and what beam search is measured by."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmindexer_jax.retrieval.beam import BeamConfig, Beams, Cache, Found, Step, children_of, conclude
from lmindexer_jax.retrieval.children import node_codes, parents
from lmindexer_jax.retrieval.permits import Permits, close
from lmindexer_jax.retrieval.trie import Trie


def score_ids(step: Step, cache: Cache, trie: Trie, *, config: BeamConfig, batch: int) -> Float[Array, "B n"]:
    """log p of every ID for every query, in the order of the trie's leaves; -inf in a padded trie's surplus.

    Depth by depth over all nodes, so that the work and the model's cache grow with batch x IDs. `scores[:, trie.leaf]`
    are the documents', in the order of the table; those that share an ID have its whole probability each.

    Args:
      step, cache: the model, as `beam` sees it.
      config: of which `over` alone counts.
    """
    beams = Beams(jnp.zeros((batch, 1), jnp.int32), jnp.zeros((batch, 1)), jnp.zeros((batch, 1, 0), jnp.int32))
    above = beams.nodes
    for depth in range(trie.length):
        logits, cache = step(cache, beams.codes, above)
        totals, _, children = children_of(trie, depth, logits, beams, config=config)
        numbers = jnp.arange(trie.nodes[depth + 1], dtype=jnp.int32)
        real = numbers < trie.first[depth][-1]
        up = jnp.where(real, parents(trie, depth + 1, numbers), 0)
        last = jnp.where(real, trie.codes[depth].astype(jnp.int32), 0)
        places = last if children is None else jnp.where(real, numbers - trie.first[depth][up], 0)
        scores = jnp.where(real[None], totals[:, up, places], -jnp.inf)
        nodes, above, last = (jnp.broadcast_to(row[None], scores.shape) for row in (jnp.where(real, numbers, -1), up, last))
        beams = Beams(nodes, scores, jnp.concatenate([beams.codes[:, up], last[..., None]], axis=-1))
    return beams.scores


def search(
    step: Step,
    cache: Cache,
    trie: Trie,
    *,
    config: BeamConfig,
    present: Bool[Array, " B"],
    permits: Permits | None = None,
    seen: Int[Array, "B S"] | None = None,
) -> Found:
    """What `beam.search` gives, without its approximation: the best `config.beams` of all IDs. Groups do not count."""
    batch = len(present)
    scores = score_ids(step, cache, trie, config=config, batch=batch)
    scores = jnp.where(present[:, None], scores, -jnp.inf)
    if permits is not None:
        scores = jnp.where(permits.nodes[-1][None], scores, -jnp.inf)
    closed = None if seen is None else close(trie, seen, permits=permits)
    if closed is not None:
        places = jnp.where(closed.nodes[-1] < 0, trie.nodes[-1], closed.nodes[-1])
        scores = scores.at[jnp.arange(batch)[:, None], places].set(-jnp.inf, mode="drop")
    scores, leaves = jax.lax.top_k(scores, min(config.beams, trie.nodes[-1]))
    codes = node_codes(trie, trie.length, leaves)
    beams = Beams(jnp.where(scores > -jnp.inf, leaves, -1), scores, codes)
    return conclude(trie, beams, config=config, permits=permits, closed=closed)
