"""Constrained beam search: the most probable IDs among those that exist, as one compiled function.

The search knows the trie and nothing of the model, which it sees as one function:

    logits, cache = step(cache, codes, parents)

      codes    (B, X, t)  what each beam has read so far; t, the position of the next code, is static
      parents  (B, X)     which beam of the call before this one continues (0 at t = 0)
      logits   (B, X, K)  of the next code; K is `trie.sizes[t]`, the end marker among them
      cache               whatever the model keeps, in the order of X; `models.decoding.reorder` lines it up

X is 1 at the first position, where all beams are the same, and from then on as many as are asked for, but never more
than there are nodes: small catalogues are searched exhaustively and cost no more than that. Positions are unrolled, so
that every position has its own K and its own number of children. A beam that is dead (there are fewer IDs than beams,
or the query is padding) reads code 0 and its result is marked invalid.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lmindexer_jax.retrieval.children import descend, node_mask, slots
from lmindexer_jax.retrieval.permits import Closed, Permits, close, closed_slots, first_open_document, open_leaves
from lmindexer_jax.retrieval.trie import END, Trie
from lmindexer_jax.retrieval.turns import in_turn

Cache = Any
Step = Callable[[Cache, Int[Array, "B X t"], Int[Array, "B X"]], tuple[Float[Array, "B X K"], Cache]]

# The score of a valid beam whose logits are -inf or not numbers: last, but still before every invalid one.
FLOOR = -1e30


class Over(enum.StrEnum):
    """What the softmax of each position is over."""

    CHILDREN = "children"  # the codes that may follow: scores are log p(ID) among the IDs of the trie
    CODEBOOK = "codebook"  # all codes: some probability is on IDs that do not exist


@dataclasses.dataclass
class BeamConfig:
    """How to search."""

    beams: int = 20
    over: Over = Over.CHILDREN
    groups: int = 1  # diverse beam search: groups choose in turn
    diversity: float = 0.5  # nats that a code costs for every beam of earlier groups that has just chosen it
    trail: bool = False  # also give what every position kept


class Beams(NamedTuple):
    """Where the search stands."""

    nodes: Int[Array, "B X"]  # -1: dead
    scores: Float[Array, "B X"]
    codes: Int[Array, "B X t"]


class Found(NamedTuple):
    """The best IDs of every query, best first.

    Attributes:
      codes: the ID; -1 behind its end, and everywhere where it is not valid.
      leaves: its number among the IDs of the trie, or -1.
      documents: the first document, by row of the table, that has the ID and may be returned, or -1.
      log_probs: sum over the positions, in nats; -inf where it is not valid.
      valid: false where there were not as many IDs as beams, and for queries that are padding.
      trail: the beams after each position 1..T, if asked for; those of one group side by side, best first,
        what it took over from other groups last.
    """

    codes: Int[Array, "B M T"]
    leaves: Int[Array, "B M"]
    documents: Int[Array, "B M"]
    log_probs: Float[Array, "B M"]
    valid: Bool[Array, "B M"]
    trail: tuple[Beams, ...] = ()


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
    """Search the trie with a model; to be called under `jax.jit`.

    Args:
      step, cache: the model, see above, and its cache for B queries.
      present: false for queries that are padding.
      permits: the subset of the documents that may be returned; all by default.
      seen: rows of the table that each query must not get, -1 for none.

    Raises:
      ValueError: the groups do not divide the beams, or the model's logits are not as wide as the trie's positions.
    """
    if config.beams % config.groups:
        raise ValueError(f"{config.beams} beams do not divide into {config.groups} groups")
    batch = present.shape[0]
    closed = None if seen is None else close(trie, seen, permits=permits)
    nodes = jnp.where(present, 0, -1)[:, None]
    if permits is not None:
        nodes = jnp.where(permits.before[-1] > 0, nodes, -1)
    if closed is not None:
        nodes = jnp.where(jnp.any(closed.nodes[0] == 0, axis=1, keepdims=True), -1, nodes)
    beams = Beams(nodes, jnp.zeros((batch, 1)), jnp.zeros((batch, 1, 0), jnp.int32))
    parents = jnp.zeros((batch, 1), jnp.int32)
    trail = []
    for depth in range(trie.length):
        logits, cache = step(cache, beams.codes, parents)
        beams, parents = advance(trie, depth, logits, beams, config=config, permits=permits, closed=closed)
        trail.append(beams)
    found = conclude(trie, beams, config=config, permits=permits, closed=closed)
    return found._replace(trail=tuple(trail)) if config.trail else found


class Children(NamedTuple):
    """Every child of every beam, in C places per beam: the codes themselves, or only those that are there."""

    totals: Float[Array, "B X C"]  # score of the beam and log p of the child; never less than FLOOR, -inf where not real
    codes: Int[Array, "B X C"]
    nodes: Int[Array, "B X C"] | None  # None where the places are the codes: found for the chosen ones alone


def children_of(
    trie: Trie, depth: int, logits: Float[Array, "B X K"], beams: Beams, *, config: BeamConfig
) -> Children:
    """The children of beams at nodes of the given depth, scored.

    Raises:
      ValueError: the logits are not as wide as the trie's position.
    """
    if logits.shape != (*beams.nodes.shape, trie.sizes[depth]):
        raise ValueError(
            f"position {depth + 1}: logits of shape {logits.shape}, but the trie has {trie.sizes[depth]} codes there "
            f"and there are {beams.nodes.shape} beams"
        )
    logits = logits.astype(jnp.float32)
    if trie.rows[depth] is not None:
        codes = jnp.broadcast_to(jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, None], logits.shape)
        nodes, choices, real = None, logits, node_mask(trie, depth, beams.nodes)
    else:
        nodes, codes, real = slots(trie, depth, beams.nodes)
        choices = jnp.take_along_axis(logits, codes, axis=-1, mode="clip")
    over = logits if config.over is Over.CODEBOOK else jnp.where(real, choices, -jnp.inf)
    gains = choices - jax.nn.logsumexp(over, axis=-1, keepdims=True)
    if config.over is Over.CODEBOOK and depth > trie.shortest:
        ended = beams.codes[..., -1] == trie.end(depth - 1)
        gains = jnp.where(ended[..., None], 0.0, gains)
    totals = beams.scores[..., None] + gains
    totals = jnp.where(real, jnp.where(totals > FLOOR, totals, FLOOR), -jnp.inf)
    return Children(totals, codes, nodes)


def advance(
    trie: Trie,
    depth: int,
    logits: Float[Array, "B X K"],
    beams: Beams,
    *,
    config: BeamConfig,
    permits: Permits | None = None,
    closed: Closed | None = None,
) -> tuple[Beams, Int[Array, "B Y"]]:
    """One position: score every child of every beam and keep the best. Gives the new beams and their parents."""
    totals, codes, children = children_of(trie, depth, logits, beams, config=config)
    dense = children is None
    if permits is not None:
        safe = jnp.maximum(beams.nodes, 0) if dense else jnp.minimum(children, trie.nodes[depth + 1] - 1)
        totals = jnp.where(permits.rows[depth][safe] if dense else permits.nodes[depth][safe], totals, -jnp.inf)
    if closed is not None:
        totals = jnp.where(closed_slots(trie, depth, nodes=beams.nodes, closed=closed, dense=dense), -jnp.inf, totals)

    batch, count, width = totals.shape
    wanted = min(config.beams // config.groups, trie.nodes[depth + 1], count * width)
    if config.groups == 1:
        best, index = jax.lax.top_k(totals.reshape(batch, -1), wanted)
        alive = best > -jnp.inf
    else:
        below = children
        if dense:  # children are numbered in the order of their codes
            low = trie.first[depth][jnp.maximum(beams.nodes, 0)]
            below = low[..., None] + jnp.cumsum(node_mask(trie, depth, beams.nodes), axis=-1) - 1
        room = open_leaves(trie, depth + 1, jnp.clip(below, 0, trie.nodes[depth + 1] - 1), permits=permits, closed=closed)
        shape = {"groups": config.groups, "wanted": wanted, "codebook": trie.sizes[depth]}
        index, alive = in_turn(totals, codes, room, nodes=beams.nodes, diversity=config.diversity, **shape)
    parents, places = index // width, index % width
    scores = jnp.where(alive, _pick(totals.reshape(len(totals), -1), index), -jnp.inf)
    above = _pick(beams.nodes, parents)
    if dense:
        nodes, last = descend(trie, depth, above, places), places
    else:
        nodes = trie.first[depth][jnp.maximum(above, 0)] + places
        last = trie.codes[depth][jnp.minimum(nodes, trie.nodes[depth + 1] - 1)].astype(jnp.int32)
    earlier = jnp.take_along_axis(beams.codes, parents[..., None], axis=1, mode="clip")
    read = jnp.concatenate([earlier, jnp.where(alive, last, 0)[..., None]], axis=-1)
    return Beams(jnp.where(alive, nodes, -1), scores, read), parents


def _pick(values: Array, index: Int[Array, "B Y"]) -> Array:
    return jnp.take_along_axis(values, index, axis=1, mode="clip")


def conclude(
    trie: Trie, beams: Beams, *, config: BeamConfig, permits: Permits | None, closed: Closed | None
) -> Found:
    """Results in order, as many as beams were asked for, ends as -1 and nothing where there is none."""
    missing = config.beams - beams.nodes.shape[1]
    leaves = jnp.pad(beams.nodes, ((0, 0), (0, missing)), constant_values=-1)
    scores = jnp.pad(beams.scores, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    codes = jnp.pad(beams.codes, ((0, 0), (0, missing), (0, 0)))
    if config.groups > 1:
        scores, index = jax.lax.top_k(scores, config.beams)
        leaves, codes = _pick(leaves, index), jnp.take_along_axis(codes, index[..., None], axis=1)
    valid = leaves >= 0
    over = [jnp.zeros((), bool) if trie.end(t) is None else codes[..., t] == trie.end(t) for t in range(trie.length)]
    ended = jnp.stack([jnp.broadcast_to(end, valid.shape) for end in over], axis=-1)
    codes = jnp.where(ended | ~valid[..., None], END, codes)
    documents = first_open_document(trie, leaves, permits=permits, closed=closed)
    return Found(codes, leaves, documents, scores, valid)
