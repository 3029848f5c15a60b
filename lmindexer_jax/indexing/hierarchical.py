"""Hierarchical k-means (DSI, Tay et al. 2022; NCI, Wang et al. 2022): every cluster is clustered again, down to leaves.

A cluster with more documents than its position has codes is split into that many by k-means. One with no more is a
leaf: its documents are numbered, and the positions below it are 0. So the sizes of all but the last book are the
branching and the size of the last one is DSI's leaf size: `codebook_sizes=(10, 10, 100)` is its published setting for
three positions. Equal vectors share a number. A code means something below its own prefix alone.

A document that comes later goes down the same tree, to the nearest centre at each cluster; in a leaf it takes the
number of the nearest document.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lmindexer_jax.data.groups import group_by_prefix
from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.indexing.nearest import assign_nearest
from lmindexer_jax.models.quantiser import Similarity


class Level(NamedTuple):
    """One position's choices: cluster g of the level above has the centres `centres[offsets[g]:offsets[g + 1]]`.

    Every centre is a cluster of the next level, in this order.
    """

    offsets: Int[np.ndarray, " G+1"]
    centres: Float[np.ndarray, "M D"]


def fit(vectors: Float[np.ndarray, "N D"], levels: list[Level], *, size: int, key: Array) -> Level:
    """The next level below the levels so far, with at most `size` centres in a cluster."""
    _, cluster = code(vectors, levels)
    groups = group_by_prefix(cluster[:, None])
    members = dict(zip(groups.prefixes[:, 0].tolist(), np.split(groups.members, groups.offsets[1:-1]), strict=True))
    clusters = len(levels[-1].centres) if levels else 1
    centres = []
    for number in range(clusters):
        if number not in members:  # a centre that no document is nearest to: one way on
            centres.append(levels[-1].centres[number : number + 1])
        elif len(members[number]) <= size:
            centres.append(distinct(vectors[members[number]]))
        else:
            centres.append(split(vectors[members[number]], size, key=jax.random.fold_in(key, number)))
    offsets = np.r_[0, np.cumsum([len(part) for part in centres], dtype=np.int64)]
    return Level(offsets, np.concatenate(centres).astype(np.float32))


def code(vectors: Float[np.ndarray, "N D"], levels: list[Level]) -> tuple[Int[np.ndarray, "N T"], Int[np.ndarray, " N"]]:
    """Codes, and the number of the cluster of the last level that each vector ends in.

    A vector gets the same codes alone as in any company.
    """
    codes = np.zeros((len(vectors), len(levels)), np.int32)
    cluster = np.zeros(len(vectors), np.int64)
    for position, (offsets, centres) in enumerate(levels):
        if len(vectors):
            groups = group_by_prefix(cluster[:, None])
            for (number,), rows in zip(groups.prefixes, np.split(groups.members, groups.offsets[1:-1]), strict=True):
                choices = centres[offsets[number] : offsets[number + 1]]
                codes[rows, position] = nearest_choice(vectors[rows], choices)
        cluster = offsets[cluster] + codes[:, position]
    return codes, cluster


def nearest_choice(vectors: Float[np.ndarray, "M D"], choices: Float[np.ndarray, "C D"]) -> Int[np.ndarray, " M"]:
    """`assign_nearest`, compiled for powers of two alone: the first centre, stood in again, never wins over itself."""
    if len(choices) == 1:
        return np.zeros(len(vectors), np.int32)
    surplus = power_of_two(len(choices)) - len(choices)
    padded = np.concatenate([choices, np.repeat(choices[:1], surplus, axis=0)])
    return assign_nearest(vectors, jnp.asarray(padded), Similarity.L2)


def distinct(vectors: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "C D"]:
    """The different vectors, in the order of their first appearance."""
    first = np.unique(vectors, axis=0, return_index=True)[1]
    return vectors[np.sort(first)]


def split(vectors: Float[np.ndarray, "M D"], size: int, *, key: Array) -> Float[np.ndarray, "K D"]:
    """k-means centres of a cluster of any size, compiled for powers of two alone: documents that stand in it twice
    weigh half."""
    rows = np.resize(np.arange(len(vectors)), power_of_two(len(vectors)))
    weights = 1.0 / np.bincount(rows)[rows]
    return np.asarray(kmeans(vectors[rows], size, key=key, similarity=Similarity.L2, weights=weights).centres)


def power_of_two(count: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (count - 1).bit_length()
