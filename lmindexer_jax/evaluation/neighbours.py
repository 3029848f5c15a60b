"""Do documents that are near to each other in an independent text space share a prefix?

No labels are needed: where the words of two documents agree, so should their IDs, and the longer the shared prefix the
nearer they should be.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.evaluation.text_space import TextSpace

NEIGHBOURS = 10
MOST_QUERIES = 2048  # documents that are asked for their neighbours
_BATCH = 256


class Neighbours(NamedTuple):
    """The nearest documents of some; -1 stands where no other document shares a word."""

    queries: Int[np.ndarray, " Q"]
    found: Int[np.ndarray, "Q C"]


class NeighbourAgreement(NamedTuple):
    """Of one partition; `per_query` averages to `share`."""

    share: float  # of neighbours with the same prefix
    chance: float  # the same for any other document in place of the neighbour
    agreement: float  # (share - chance) / (1 - chance): 0 for random codes, 1 where all neighbours share the prefix
    per_query: Float[np.ndarray, " Q"]


def nearest_documents(
    space: TextSpace, *, count: int = NEIGHBOURS, most_queries: int = MOST_QUERIES, seed: int = 0
) -> Neighbours:
    """The `count` nearest documents by the cosine of tf-idf, of all documents or a random sample of them."""
    rng = np.random.default_rng(seed)
    queries = np.sort(rng.permutation(space.documents)[:most_queries])
    order = rng.permutation(space.documents)  # of equally near ones any may come first, not the first in the corpus
    vectors = space.vectors
    shuffled = vectors[order]
    found = np.full((len(queries), count), -1, np.int64)
    for first in range(0, len(queries), _BATCH):
        batch = queries[first : first + _BATCH]
        near = vectors[batch] @ shuffled.T
        for row, (query, low, high) in enumerate(zip(batch, near.indptr[:-1], near.indptr[1:]), start=first):
            there = order[near.indices[low:high]]
            others = there != query
            there, cosine = there[others], near.data[low:high][others]
            if len(there) > count:
                there = there[np.argpartition(cosine, -count)[-count:]]
            found[row, : len(there)] = there
    return Neighbours(queries, found)


def neighbour_agreement(partition: Int[np.ndarray, " N"], neighbours: Neighbours) -> NeighbourAgreement:
    """Compare a partition (a number per prefix) with the neighbourhoods.

    Queries without a neighbour are left out. All measures are 0 where none is left.
    """
    real = neighbours.found >= 0
    asked = real.any(1)
    if not asked.any():
        return NeighbourAgreement(0.0, 0.0, 0.0, np.zeros(0))
    queries, real = neighbours.queries[asked], real[asked]
    same = (partition[neighbours.found[asked]] == partition[queries][:, None]) & real
    per_query = same.sum(1) / real.sum(1)
    sizes = np.bincount(partition)
    share, chance = float(per_query.mean()), float(np.mean((sizes[partition[queries]] - 1) / (len(partition) - 1)))
    agreement = (share - chance) / (1 - chance) if chance < 1 else 0.0
    return NeighbourAgreement(share, chance, agreement, per_query)
