"""Which documents stand for a prefix, and which might as well have another code?

Nearness is the cosine of a document's tf-idf vector with the centroid of a prefix' documents, in a space that no
indexer had a hand in. A document is left out of its own prefix' centroid, or it would be near for its own sake.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from lmindexer_jax.evaluation.text_space import TextSpace

_CELLS = 1 << 22  # cosines that are held at a time


class Fit(NamedTuple):
    """How near documents are to their own prefix and to the nearest of its siblings (-1: there is none)."""

    own: Float[np.ndarray, " M"]
    other: Float[np.ndarray, " M"]
    sibling: Int[np.ndarray, " M"]


def fit(space: TextSpace, members: Int[np.ndarray, " M"], child: Int[np.ndarray, " M"]) -> Fit:
    """Fit of the documents of one parent prefix to its children.

    Args:
      space: of all documents.
      members: the documents of the parent.
      child: of each of them, as a number; `sibling` is in the same numbers.
    """
    names, place = np.unique(child, return_inverse=True)
    place = place.reshape(-1)
    vectors = space.vectors[members]
    ones = np.ones(len(members), np.float32)
    sums = (sparse.csr_array((ones, (place, np.arange(len(members)))), shape=(len(names), len(members))) @ vectors).tocsr()
    squares = np.asarray(sums.multiply(sums).sum(1)).reshape(-1)
    lengths = np.asarray(vectors.multiply(vectors).sum(1)).reshape(-1)
    own, other = np.zeros(len(members)), np.full(len(members), -1.0)
    sibling = np.full(len(members), -1, np.int64)
    step = max(1, _CELLS // len(names))
    for first in range(0, len(members), step):
        part = slice(first, first + step)
        mine = place[part]
        row = np.arange(len(mine))
        dots = (vectors[part] @ sums.T).toarray()
        with_self = dots[row, mine]
        rest = np.sqrt(np.maximum(0.0, squares[mine] - 2 * with_self + lengths[part]))
        own[part] = np.where(rest > 1e-3, (with_self - lengths[part]) / np.maximum(1e-3, rest), 0.0)
        if len(names) > 1:
            cosines = dots / np.sqrt(np.maximum(1e-12, squares))
            cosines[row, mine] = -1.0
            best = cosines.argmax(1)
            other[part], sibling[part] = cosines[row, best], names[best]
    return Fit(own, other, sibling)


def typical(found: Fit, *, most: int) -> Int[np.ndarray, " E"]:
    """Places (among the fitted documents) of those nearest to their prefix, the nearest first."""
    return np.argsort(-found.own, kind="stable")[:most]


def borderline(found: Fit, *, most: int, within: float = 0.1) -> Int[np.ndarray, " E"]:
    """Places of those that are nearer to a sibling than to their own prefix, or less than `within` farther; worst first."""
    margin = np.where((found.sibling >= 0) & (found.other > 0), found.own - found.other, np.inf)
    order = np.argsort(margin, kind="stable")[:most]
    return order[margin[order] < within]
