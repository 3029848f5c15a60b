"""From the state after a history to ranked items: down the tree of IDs, by the vectors of all items, or both in turn."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lmindexer_jax.models.recommender import Catalogue, Params, RecommenderFunctions
from lmindexer_jax.retrieval import beam, exact
from lmindexer_jax.retrieval.beam import BeamConfig
from lmindexer_jax.retrieval.topk import Ranked
from lmindexer_jax.retrieval.trie import Trie


def by_codes(
    functions: RecommenderFunctions,
    params: Params,
    memory: tuple,
    trie: Trie,
    *,
    beams: int,
    seen: Int[Array, "U S"] | None,
    every_id: bool = False,
) -> Ranked:
    """Items by generating their IDs; compiled by its caller.

    Args:
      memory: of the histories, as `functions.start_search` gives it.
      beams: prefixes kept at every level, and items returned.
      seen: items that each user must not get, -1 for none.
      every_id: score all IDs in place of a beam; the work grows with users x prefixes.
    """
    search = exact.search if every_id else beam.search
    found = search(
        functools.partial(functions.step, params),
        memory,
        trie,
        config=BeamConfig(beams=beams),
        present=jnp.ones(len(memory[0]), bool),
        seen=seen,
    )
    return Ranked(found.documents, found.log_probs)


def by_both(
    functions: RecommenderFunctions, params: Params, memory: tuple, catalogue: Catalogue, found: Ranked
) -> Ranked:
    """What generated IDs lead to, ordered by log p(ID) + the likeness of state and item; compiled by its caller.

    Returns:
      the same items; their scores are log-probabilities among the found.
    """
    vectors = functions.item_vectors(params, jnp.maximum(found.rows, 0), catalogue)
    queries = functions.queries(params, memory[0][:, 0])
    scores = found.scores + jnp.einsum("ud,uxd->ux", queries, vectors).astype(jnp.float32)
    real = found.rows >= 0
    scores = jnp.where(real, jax.nn.log_softmax(scores, axis=-1, where=real), -jnp.inf)
    order = jnp.argsort(-scores, axis=-1, stable=True)
    return Ranked(*(jnp.take_along_axis(array, order, axis=-1) for array in (found.rows, scores)))


def by_vectors(
    functions: RecommenderFunctions,
    params: Params,
    states: Float[Array, "U D"],
    catalogue: Catalogue,
    *,
    count: int,
    seen: Int[Array, "U S"] | None,
) -> Ranked:
    """Items by the softmax over the vectors of all (SASRec); compiled by its caller."""
    items = functions.module.items
    vectors = functions.item_vectors(params, jnp.arange(items), catalogue)
    scores = jax.nn.log_softmax((functions.queries(params, states) @ vectors.T).astype(jnp.float32), axis=-1)
    if seen is not None:
        places = jnp.where(seen < 0, items, seen)  # beyond the last item: dropped
        scores = scores.at[jnp.arange(len(states))[:, None], places].set(-jnp.inf, mode="drop")
    best, found = jax.lax.top_k(scores, min(count, items))
    return Ranked(jnp.where(best > -jnp.inf, found, -1), best)
