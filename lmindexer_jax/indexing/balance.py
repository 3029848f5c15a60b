"""Distinct last codes: minimum-cost assignment (Kuhn 1955) of the documents that share a prefix.

What balances codes while training is Sinkhorn in models/quantiser.py.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

ROWS_AT_A_TIME = 8192
"""Documents whose scores are held at once."""


def distinct_within_groups(
    scores: Float[np.ndarray, "N K"] | Callable[[Int[np.ndarray, " M"]], Float[np.ndarray, "M K"]],
    codes: Int[np.ndarray, " N"],
    groups: Int[np.ndarray, " N"],
) -> tuple[Int[np.ndarray, " N"], float]:
    """Make the last codes distinct within each group of documents that share the codes before them.

    Within a group where two documents share a code, all its documents are assigned anew so that the sum of scores is the
    largest possible; groups without a conflict are left alone. A group of n > K documents puts ceil(n / K) of them on a
    code at most.

    Args:
      scores: similarity to every code, larger is nearer; or a function from row indices to their scores, called for at
        most about ROWS_AT_A_TIME rows, so that N x K scores need not exist.
      codes: the last codes as they are.
      groups: a number per document; equal numbers share the prefix.

    Returns:
      The new codes (int32), and the share of all documents whose code changed.
    """
    if not len(codes):
        return np.empty(0, np.int32), 0.0
    look_up = scores if callable(scores) else scores.__getitem__
    codes = np.asarray(codes, np.int32)
    order = np.lexsort((codes, groups))
    same_group = np.diff(groups[order]) == 0
    first = np.flatnonzero(np.append(True, ~same_group))
    clash = np.append(same_group & (np.diff(codes[order]) == 0), False)
    clashes = np.add.reduceat(clash, first)
    members = [group for group, count in zip(np.split(order, first[1:]), clashes, strict=True) if count]
    moved = codes.copy()
    for block in _blocks(members):
        rows = np.concatenate(block)
        values = np.asarray(look_up(rows), np.float64)
        ends = np.cumsum([len(group) for group in block])
        moved[rows] = np.concatenate([_assign(part) for part in np.split(values, ends[:-1])])
    return moved, float(np.mean(moved != codes))


def _blocks(members: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Whole groups packed into blocks of about ROWS_AT_A_TIME rows."""
    if not members:
        return []
    block = np.cumsum([len(group) for group in members]) // ROWS_AT_A_TIME
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    return [members[start:stop] for start, stop in zip(starts, [*starts[1:], len(members)], strict=True)]


def _assign(scores: Float[np.ndarray, "n K"]) -> Int[np.ndarray, " n"]:
    from scipy.optimize import linear_sum_assignment

    count, k = scores.shape
    columns = np.tile(np.arange(k, dtype=np.int32), -(-count // k))
    return columns[linear_sum_assignment(scores[:, columns], maximize=True)[1]]
