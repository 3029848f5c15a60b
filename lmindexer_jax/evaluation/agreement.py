"""Do the codes agree with labels that a person gave? Measures that chance cannot raise.

AMI also depends on the number and evenness of the codes, and it *rises* under partial collapse: compare at equal K, and
state the perplexity beside it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from lmindexer_jax.evaluation.contingency import contingency_measures
from lmindexer_jax.evaluation.id_quality import prefix_ids

DEALS = 8  # times that labels are dealt anew for the purity of chance


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of a partition with labels, over the documents that have a label."""

    ami: float  # mutual information, adjusted for chance (Vinh 2010): 0 for random codes, 1 for the labels renamed
    nmi: float  # normalised by the geometric mean (Strehl and Ghosh 2002), not adjusted: grows with the number of codes
    v_measure: float  # normalised by the arithmetic mean (Rosenberg and Hirschberg 2007): likewise
    homogeneity: float  # 1 where every code has documents of one label alone
    completeness: float  # 1 where every label has documents of one code alone
    purity: float  # share of documents whose label is the most frequent one of their code
    random_purity: float  # the same with labels dealt at random: what small codes reach without meaning
    documents: int  # that have a label


def agreement(partition: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> Agreement:
    """Compare a partition with labels; documents labelled -1 are left out.

    All measures are 0 where no document has a label.
    """
    known = labels >= 0
    if not known.any():
        return Agreement(*[0.0] * 7, 0)
    given, found = labels[known], partition[known]
    values = contingency_measures(found, given, np.arange(len(given))[None, :])
    point = {name: float(value[0]) for name, value in values.items()}
    return Agreement(**point, random_purity=random_purity(found, given), documents=len(given))


def random_purity(partition: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], *, seed: int = 0) -> float:
    """Purity that codes of the same sizes reach by chance: the mean over labels dealt at random a few times."""
    rng, most = np.random.default_rng(seed), 0
    for _ in range(DEALS):
        keys = partition.astype(np.int64) * (int(labels.max()) + 1) + rng.permutation(labels)
        cells, counts = np.unique(keys, return_counts=True)
        starts = np.flatnonzero(np.diff(cells // (int(labels.max()) + 1), prepend=-1))
        most += np.maximum.reduceat(counts, starts).sum()
    return float(most / (DEALS * len(labels)))


def full_path(labels: list[Int[np.ndarray, " N"]]) -> Int[np.ndarray, " N"]:
    """One label per document from labels per depth: its deepest one; -1 where it has none at all."""
    whole, start = np.full(len(labels[0]), -1, np.int64), 0
    for depth in labels:
        whole = np.where(depth >= 0, depth + start, whole)
        start += int(depth.max(initial=-1)) + 1
    return whole


def informative_depths(labels: list[Int[np.ndarray, " N"]]) -> list[int]:
    """Numbers, from 1, of the depths that tell documents apart: one with a single label (a shared root) says nothing."""
    return [number for number, depth in enumerate(labels, start=1) if len(np.unique(depth[depth >= 0])) > 1]


def informative(labels: list[Int[np.ndarray, " N"]]) -> list[Int[np.ndarray, " N"]]:
    """The labels of these depths alone."""
    return [labels[number - 1] for number in informative_depths(labels)]


def compared(
    codes: Int[np.ndarray, "N T"], labels: list[Int[np.ndarray, " N"]]
) -> Iterator[tuple[str, str, Int[np.ndarray, " N"], Int[np.ndarray, " N"]]]:
    """What is set against what: (name of the codes, name of the labels, partition, labels).

    The first code against the whole path (the paper's definition), the first code against each informative depth, and
    the first t codes against the t-th of these. A depth is named by its own number: where all paths share their root, the
    first one is "depth 2".

    Args:
      codes: of the documents.
      labels: for depth 1, 2, ... the label of each document's path down to there, -1 where its path is shorter.
    """
    depths = informative_depths(labels)
    if not depths:
        return
    ids = prefix_ids(codes)
    yield "c1", "path", ids[:, 0], full_path(labels)
    for depth in depths:
        yield "c1", f"depth {depth}", ids[:, 0], labels[depth - 1]
    for t, depth in list(enumerate(depths, start=1))[1 : codes.shape[1]]:
        yield prefix_name(t), f"depth {depth}", ids[:, t - 1], labels[depth - 1]


def prefix_name(length: int) -> str:
    """"c1", "c1..c2", ..."""
    return "c1" if length == 1 else f"c1..c{length}"


def repetition(codes: Int[np.ndarray, "N T"]) -> list[float]:
    """For positions 2, 3, ...: AMI of the position's codes with the prefix before it.

    1 where the prefix determines the code, so that the position adds nothing; 0 where the two are independent.
    """
    ids = prefix_ids(codes)
    return [agreement(codes[:, t], ids[:, t - 1]).ami for t in range(1, codes.shape[1])]
