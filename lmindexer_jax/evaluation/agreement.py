"""Do the codes agree with labels that a person gave? Measures that chance cannot raise.

AMI also depends on the number and evenness of the codes, and it *rises* under partial collapse: compare at equal K, and
state the perplexity beside it.
"""

import dataclasses

import numpy as np
from jaxtyping import Int

from lmindexer_jax.evaluation.id_quality import prefix_ids


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of a partition with labels, over the documents that have a label."""

    ami: float  # mutual information, adjusted for chance (Vinh 2010): 0 for random codes, 1 for the labels renamed
    v_measure: float  # normalised mutual information (arithmetic mean), not adjusted: grows with the number of codes
    homogeneity: float  # 1 where every code has documents of one label alone
    completeness: float  # 1 where every label has documents of one code alone
    documents: int  # that have a label


def agreement(partition: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> Agreement:
    """Compare a partition with labels; documents labelled -1 are left out.

    The AMI is scikit-learn's, with the arithmetic mean as normaliser. All measures are 0 where no document has a label.
    """
    from sklearn.metrics import adjusted_mutual_info_score, homogeneity_completeness_v_measure

    known = labels >= 0
    if not known.any():
        return Agreement(0.0, 0.0, 0.0, 0.0, 0)
    given, found = labels[known], partition[known]
    homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(given, found)
    ami = adjusted_mutual_info_score(given, found)
    return Agreement(float(ami), float(v_measure), float(homogeneity), float(completeness), int(known.sum()))


def full_path(labels: list[Int[np.ndarray, " N"]]) -> Int[np.ndarray, " N"]:
    """One label per document from labels per depth: its deepest one; -1 where it has none at all."""
    whole, start = np.full(len(labels[0]), -1, np.int64), 0
    for depth in labels:
        whole = np.where(depth >= 0, depth + start, whole)
        start += int(depth.max(initial=-1)) + 1
    return whole


def agreement_by_depth(codes: Int[np.ndarray, "N T"], labels: list[Int[np.ndarray, " N"]]) -> list[dict]:
    """Codes against a tree of labels, level by level.

    Args:
      codes: of the documents.
      labels: for depth 1, 2, ... the label of each document's path down to there, -1 where its path is shorter.

    Returns:
      rows {"codes", "labels", "labels_count", "ami", "v_measure", "homogeneity", "completeness", "documents"}: the
      first code against the whole path (the paper's definition), the first code against each depth, and the first t
      codes against depth t. A depth with a single label (a shared root) says nothing and is left out; t counts the
      depths that are left.
    """
    labels = [depth for depth in labels if len(np.unique(depth[depth >= 0])) > 1]
    if not labels:
        return []
    ids = prefix_ids(codes)
    pairs = [("c1", "path", ids[:, 0], full_path(labels))]
    pairs += [("c1", f"depth {number}", ids[:, 0], depth) for number, depth in enumerate(labels, start=1)]
    for t in range(2, min(codes.shape[1], len(labels)) + 1):
        pairs.append((f"c1..c{t}", f"depth {t}", ids[:, t - 1], labels[t - 1]))
    return [
        {
            "codes": of,
            "labels": against,
            "labels_count": len(np.unique(given[given >= 0])),
            **dataclasses.asdict(agreement(found, given)),
        }
        for of, against, found, given in pairs
    ]


def repetition(codes: Int[np.ndarray, "N T"]) -> list[float]:
    """For positions 2, 3, ...: AMI of the position's codes with the prefix before it.

    1 where the prefix determines the code, so that the position adds nothing; 0 where the two are independent.
    """
    ids = prefix_ids(codes)
    return [agreement(codes[:, t], ids[:, t - 1]).ami for t in range(1, codes.shape[1])]
