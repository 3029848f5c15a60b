"""What a prefix already explains: the mean document vector of every prefix group.

From position 2 on, a document's vector is taken relative to this mean, so that a code cannot repeat the codes before
it. Means of small groups are shrunk towards their parent's, and a prefix that no document had falls back to it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.data.groups import find_prefixes, group_by_prefix


class Centres(NamedTuple):
    """Means of one position: `means[g]` belongs to the prefix `prefixes[g]`; prefixes are sorted."""

    prefixes: Int[np.ndarray, "G P"]
    means: Float[np.ndarray, "G D"]


def whole_corpus(pooled: Float[np.ndarray, "N D"]) -> Centres:
    """The one group of the empty prefix."""
    return Centres(np.zeros((1, 0), np.int32), pooled.mean(0, dtype=np.float64).astype(np.float32)[None])


def prefix_centres(
    pooled: Float[np.ndarray, "N D"], codes: Int[np.ndarray, "N P"], above: list[Centres], *, shrinkage: float
) -> Centres:
    """Mean of every prefix group, shrunk as if `shrinkage` documents at the parent's mean were in it.

    Args:
      pooled: document vectors.
      codes: codes of the first P >= 1 positions.
      above: the centres of all shorter prefixes, shortest first.
      shrinkage: weight of the parent in documents.
    """
    groups = group_by_prefix(codes)
    totals = np.add.reduceat(pooled[groups.members].astype(np.float64), groups.offsets[:-1], axis=0)
    parents = look_up(above, groups.prefixes[:, :-1])
    means = (totals + shrinkage * parents) / (groups.sizes[:, None] + shrinkage)
    return Centres(groups.prefixes, means.astype(np.float32))


def look_up(chain: list[Centres], codes: Int[np.ndarray, "M P"]) -> Float[np.ndarray, "M D"]:
    """Centre of each prefix; where no document had it, of its longest known part.

    `chain[p]` holds the prefixes of length p; P + 1 entries are needed.
    """
    length = codes.shape[1]
    found = find_prefixes(chain[length].prefixes, codes)
    means = chain[length].means[np.maximum(found, 0)]
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        means[unknown] = look_up(chain, codes[unknown, :-1])
    return means

