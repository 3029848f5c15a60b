"""What would plain words reach at the same perplexity? A reference for tables whose codes are not equally many in use.

Agreement, information and lift all depend on the number and evenness of the codes, and AMI even rises under partial
collapse: tables of unequal perplexity cannot be compared by them. But a reference can stand beside each table at its
own perplexity, and their distances from the reference can be compared. The reference is a tree over the corpus' tf-idf
vectors (64 singular directions) that splits its largest leaf in two, by 2-means of unit vectors, over and over
(bisecting k-means; Steinbach, Karypis and Kumar 2000). It has a partition for every number of leaves, so any perplexity
is met to within one split, with nothing to interpolate; leaves are about as uneven as codes of k-means; it depends on
the corpus alone, so all tables of a corpus have the same one. Its own numbers are no rival's: k-means of a language
model's embeddings is the rival, and is measured like any other table.
"""

import dataclasses
import heapq

import numpy as np
from jaxtyping import Bool, Float, Int

from lmindexer_jax.evaluation.id_quality import perplexity

MOST_LEAVES = 8192
_ITERATIONS = 8  # of 2-means


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceTree:
    """Splits in order: the i-th moves `moved[i]` to a new leaf i + 1; `perplexities[i]` is that before it."""

    documents: int
    moved: list[Int[np.ndarray, " M"]]
    perplexities: Float[np.ndarray, " S+1"]

    def at(self, wanted: float) -> Int[np.ndarray, " N"] | None:
        """The partition whose perplexity is nearest to `wanted`; None where the tree is coarser than that."""
        if wanted > 1.03 * self.perplexities[-1]:
            return None
        nearest = int(np.argmin(np.abs(np.log(self.perplexities / wanted))))
        leaf = np.zeros(self.documents, np.int64)
        for number, moved in enumerate(self.moved[:nearest], start=1):
            leaf[moved] = number
        return leaf

    def like(self, partition: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"] | None:
        """The partition that is as fine as a given one."""
        return self.at(perplexity(np.bincount(partition)))


def reference_tree(
    vectors: Float[np.ndarray, "N D"], *, most_leaves: int = MOST_LEAVES, seed: int = 0
) -> ReferenceTree:
    """Split unit vectors until there are `most_leaves` leaves, or half as many as documents, or all of a leaf are alike."""
    rng = np.random.default_rng(seed)
    documents = len(vectors)
    leaves = [(-documents, 0, np.arange(documents))]
    moved: list[np.ndarray] = []
    entropy = [np.log(documents)]
    while leaves and len(moved) + 1 < min(most_leaves, documents // 2):
        _, number, members = heapq.heappop(leaves)
        right = _halves(vectors[members], rng)
        if not right.any():
            continue  # it stays whole
        sides = members[~right], members[right]
        moved.append(sides[1])
        whole, one, two = len(members), len(sides[0]), len(sides[1])
        entropy.append(entropy[-1] + (whole * np.log(whole) - one * np.log(one) - two * np.log(two)) / documents)
        heapq.heappush(leaves, (-one, number, sides[0]))
        heapq.heappush(leaves, (-two, len(moved), sides[1]))
    return ReferenceTree(documents, moved, np.exp(np.array(entropy) - np.log(documents)))


def _halves(vectors: Float[np.ndarray, "M D"], rng: np.random.Generator) -> Bool[np.ndarray, " M"]:
    """Which vectors belong to the second of two clusters; none where all are alike."""
    far = vectors[np.argmin(vectors @ vectors[rng.integers(len(vectors))])]
    centres = np.stack([far, vectors[np.argmin(vectors @ far)]])
    right = None
    for _ in range(_ITERATIONS):
        before, right = right, (vectors @ (centres[1] - centres[0])) > 0
        size = int(right.sum())
        if size in (0, len(vectors)):
            return np.zeros(len(vectors), bool)
        if before is not None and np.array_equal(before, right):
            break
        sums = np.stack([vectors[~right].sum(0), vectors[right].sum(0)])
        centres = sums / np.maximum(1e-12, np.linalg.norm(sums, axis=1, keepdims=True))
    return right
