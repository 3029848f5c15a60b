"""How are the codes used? Pure functions over codes; perplexity is exp of the entropy in nats."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Usage:
    """Of one position's codebook of K codes."""

    usage: float  # share of the codes that some document has
    perplexity: float  # number of codes in effect in use; K where all are used evenly
    entropy: float  # of the code, in nats: log of the perplexity
    dead: int  # codes that no document has
    largest_share: float  # of the documents, with one code
    gini: float  # 0 where all codes have as many documents, near 1 where one has all
    perplexity_within: float  # perplexity inside a prefix group, averaged over documents
    entropy_within: float  # of the code when those before it are known, in nats
    gini_within: float  # unevenness inside a prefix group, averaged over documents; a group of n has n codes to spread on


@dataclasses.dataclass(frozen=True)
class Collisions:
    """Documents that share all their codes, before any counter."""

    distinct: int
    distinct_share: float
    colliding_documents: int
    largest_group: int


def prefix_ids(codes: Int[np.ndarray, "N T"]) -> Int[np.ndarray, "N T"]:
    """For each length t, a number per different prefix c_1..c_t, in lexicographic order."""
    ids = np.empty(codes.shape, np.int64)
    above = np.zeros(len(codes), np.int64)
    for position in range(codes.shape[1]):
        keys = above * (int(codes[:, position].max(initial=0)) + 1) + codes[:, position]
        above = np.unique(keys, return_inverse=True)[1].reshape(-1)
        ids[:, position] = above
    return ids


def perplexity(counts: Int[np.ndarray, " K"]) -> float:
    """exp of the entropy of counts."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def gini(
    counts: Int[np.ndarray, " C"], group: Int[np.ndarray, " C"], *, places: Int[np.ndarray, " G"]
) -> Float[np.ndarray, " G"]:
    """Gini coefficient of every group's counts: 0 where they are equal, near 1 where one has all.

    Args:
      counts: of the cells.
      group: that each cell belongs to.
      places: cells that a group could have; those without a row count as 0.
    """
    order = np.lexsort((-counts, group))  # the largest first, so that missing zeros come last and change no rank
    counts, group = counts[order], group[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)  # from the largest, in the group
    totals = np.bincount(group, counts, minlength=len(places))
    weighed = np.bincount(group, counts * rank, minlength=len(places))
    return (places - 1 - 2 * weighed / np.maximum(1, totals)) / places


def usage(codes: Int[np.ndarray, "N T"], sizes: tuple[int, ...]) -> list[Usage]:
    """How every position uses its codebook.

    Args:
      codes: of all documents.
      sizes: K of every position.
    """
    ids = prefix_ids(codes)
    rows = []
    for position, size in enumerate(sizes):
        counts = np.bincount(codes[:, position], minlength=size)
        above = ids[:, position - 1] if position else np.zeros(len(codes), np.int64)
        joint = np.bincount(ids[:, position])
        parent = np.unique(np.c_[ids[:, position], above], axis=0)[:, 1]
        groups = np.bincount(above)
        within = float(-(joint * np.log(joint / groups[parent])).sum() / len(codes))
        uneven = gini(joint, parent, places=np.minimum(size, groups))
        rows.append(
            Usage(
                usage=float((counts > 0).mean()),
                perplexity=perplexity(counts),
                entropy=float(np.log(perplexity(counts))),
                dead=int((counts == 0).sum()),
                largest_share=float(counts.max() / len(codes)),
                gini=float(gini(counts, np.zeros(size, np.int64), places=np.array([size]))[0]),
                perplexity_within=float(np.exp(within)),
                entropy_within=within,
                gini_within=float(np.average(uneven, weights=groups)),
            )
        )
    return rows


def collisions(codes: Int[np.ndarray, "N T"]) -> Collisions:
    """How many documents share a full ID."""
    sizes = np.bincount(prefix_ids(codes)[:, -1])
    return Collisions(
        distinct=len(sizes),
        distinct_share=float(len(sizes) / len(codes)),
        colliding_documents=int(sizes[sizes > 1].sum()),
        largest_group=int(sizes.max()),
    )
