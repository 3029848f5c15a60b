"""From the state after a history to ranked items: by beams down the tree of IDs, or by the score of every item.

`beam` also says how likely the best item can be that it let go. Where the k-th item it found is likelier, the first k
are exactly those of the whole catalogue: no wider beam would change them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from lmindexer_jax.models.layers import MASKED
from lmindexer_jax.models.recommender import WORD, Catalogue, Params, RecommenderFunctions, among


class Ranked(NamedTuple):
    """Items by falling log-probability; a place without an item holds -1 and a score below -1e8.

    `bound` is an upper bound on the log-probability of every item that is not among them.
    """

    items: Int[Array, "U W"]
    scores: Float[Array, "U W"]
    bound: Float[Array, " U"]


def beam(
    functions: RecommenderFunctions, params: Params, states: Float[Array, "U D"], catalogue: Catalogue, *, beams: int
) -> Ranked:
    """The likeliest items by beam search over the valid prefixes; compiled by its caller.

    Args:
      states: after each history.
      beams: prefixes kept at every level, and items returned; where fewer exist, the rest of the places are empty.
    """
    users, width = states.shape
    scores = jnp.zeros((users, 1))
    nodes = jnp.zeros((users, 1), jnp.int32)
    prefix = jnp.zeros((users, 1, width))
    bound = jnp.full((users,), 2 * MASKED)
    for level, (words, first) in enumerate(zip(catalogue.words, catalogue.first, strict=True)):
        valid = words[nodes]
        logs = among(functions.next_level(params, states[:, None], prefix, level=level), valid)
        size = logs.shape[-1]
        total = (scores[..., None] + jnp.maximum(logs, MASKED)).reshape(users, -1)
        kept, at = jax.lax.top_k(total, min(beams + 1, total.shape[1]))
        if kept.shape[1] > beams:
            bound = jnp.maximum(bound, kept[:, beams])
        scores, at = jnp.maximum(kept[:, :beams], 2 * MASKED), at[:, :beams]
        parent, code = at // size, at % size
        below = rank_of(jnp.take_along_axis(valid, parent[..., None], axis=1), code)
        nodes = first[jnp.take_along_axis(nodes, parent, axis=1)] + below
        exists = scores > MASKED / 2
        nodes = jnp.where(exists, nodes, 0)
        prefix = jnp.take_along_axis(prefix, parent[..., None], axis=1) + functions.rows(params, code, level=level)
    items = jnp.where(exists, catalogue.leaves[nodes], -1)
    missing = beams - items.shape[1]
    items = jnp.pad(items, ((0, 0), (0, missing)), constant_values=-1)
    return Ranked(items, jnp.pad(scores, ((0, 0), (0, missing)), constant_values=MASKED), bound)


def rank_of(words: UInt32[Array, "*B W"], code: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """How many bits are set below bit `code`: the place of that child among its siblings."""
    word = jax.lax.broadcasted_iota(jnp.int32, words.shape, words.ndim - 1)
    here = (code // WORD)[..., None]
    partial = (jnp.uint32(1) << (code % WORD).astype(jnp.uint32)[..., None]) - 1
    counted = jnp.where(word < here, words, jnp.where(word == here, words & partial, 0))
    return jax.lax.population_count(counted).sum(-1).astype(jnp.int32)


def every_item(
    functions: RecommenderFunctions, params: Params, states: Float[Array, "U D"], catalogue: Catalogue, plan: "Plan"
) -> Float[Array, "U N"]:
    """log p of every item of the catalogue; compiled by its caller, for catalogues that fit U x N x K / 4 numbers."""
    scores = jnp.zeros((len(states), 1))
    for level, branches in enumerate(plan.levels):
        prefix = sum(
            (functions.rows(params, branches.codes[:, j], level=j) for j in range(level)),
            jnp.zeros((len(branches.codes), states.shape[1])),
        )
        logits = functions.next_level(params, states[:, None], prefix[None], level=level)
        logs = among(logits, catalogue.words[level][branches.nodes][None])
        flat = jnp.pad(logs.reshape(len(states), -1), ((0, 0), (0, 1)))  # the last place is an only child's log 1
        scores = scores[:, branches.parents] + flat[:, branches.places]
    return jnp.zeros_like(scores).at[:, catalogue.leaves].set(scores)


class Branches(NamedTuple):
    """One level of the tree: the prefixes with more than one child, and where each child finds its log-probability."""

    nodes: Int[np.ndarray, " P"]
    codes: Int[np.ndarray, "P T"]
    parents: Int[np.ndarray, " C"]
    places: Int[np.ndarray, " C"]


class Plan(NamedTuple):
    """What `every_item` computes: only children do not need a model."""

    levels: tuple[Branches, ...]


def plan_every_item(catalogue: Catalogue, sizes: tuple[int, ...]) -> Plan:
    """The levels of a catalogue's tree, read from its arrays."""
    codes, nodes = np.asarray(catalogue.codes), np.asarray(catalogue.nodes)
    leaves = np.asarray(catalogue.leaves)
    place = np.empty(len(leaves), np.int64)
    place[leaves] = np.arange(len(leaves))
    numbers = np.column_stack([nodes, place])
    levels = []
    for level, size in enumerate(sizes):
        _, example = np.unique(numbers[:, level + 1], return_index=True)  # an item below every child, in order
        parents = numbers[example, level]
        children = np.bincount(parents)
        branching = np.flatnonzero(children > 1)
        row = np.full(len(children), -1)
        row[branching] = np.arange(len(branching))
        at = row[parents]
        places = np.where(at >= 0, at * size + codes[example, level], len(branching) * size)
        _, first = np.unique(numbers[:, level], return_index=True)
        levels.append(Branches(branching, codes[first[branching]], parents, places))
    return Plan(tuple(levels))


def by_vectors(
    queries: Float[Array, "U D"], vectors: Float[Array, "N D"], *, count: int
) -> Ranked:
    """SASRec's ranking: log-softmax of the products with all items' vectors."""
    logs = jax.nn.log_softmax((queries @ vectors.T).astype(jnp.float32), axis=-1)
    scores, items = jax.lax.top_k(logs, min(count, logs.shape[1]))
    missing = count - items.shape[1]
    items = jnp.pad(items, ((0, 0), (0, missing)), constant_values=-1)
    return Ranked(items, jnp.pad(scores, ((0, 0), (0, missing)), constant_values=MASKED), scores[:, -1])
