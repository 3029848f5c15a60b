"""Distinct last codes: minimum-cost assignment (Kuhn 1955) of the documents that share a prefix.

What balances codes while training is Sinkhorn in models/quantiser.py.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

ROWS_AT_A_TIME = 8192
"""Documents whose scores are held at once."""

ASSIGNED_TOGETHER = 2048
"""Documents of one assignment where a group outnumbers the codes: it takes their square in memory, their cube in time."""


def distinct_within_groups(
    scores: Float[np.ndarray, "N K"] | Callable[[Int[np.ndarray, " M"]], Float[np.ndarray, "M K"]],
    codes: Int[np.ndarray, " N"],
    groups: Int[np.ndarray, " N"],
) -> tuple[Int[np.ndarray, " N"], float]:
    """Make the last codes distinct within each group of documents that share the codes before them.

    Within a group where two documents share a code, all its documents are assigned anew so that the sum of scores is the
    largest possible; groups without a conflict are left alone. A group of n > K documents puts ceil(n / K) of them on a
    code at most; where it also has more than ASSIGNED_TOGETHER, the sum is the largest of each part of about so many.

    Args:
      scores: similarity to every code, larger is nearer; or a function from row indices to their scores, called for at
        most about ROWS_AT_A_TIME rows (or K, if that is more), so that N x K scores need not exist.
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
    for block in _blocks(_cut(members, look_up)):
        rows = np.concatenate(block)
        values = np.asarray(look_up(rows), np.float64)
        ends = np.cumsum([len(group) for group in block])
        moved[rows] = np.concatenate([_assign(part) for part in np.split(values, ends[:-1])])
    return moved, float(np.mean(moved != codes))


def _cut(members: list[np.ndarray], look_up: Callable) -> list[np.ndarray]:
    """The groups, large ones in parts that are multiples of K, so that all together still fill the codes evenly."""
    if not members:
        return []
    k = look_up(members[0][:1]).shape[1]
    size = max(k, ASSIGNED_TOGETHER // k * k)
    rng = np.random.default_rng(0)  # each part is to be like the whole: members come in the order of their codes
    whole = [group if len(group) <= size else rng.permutation(group) for group in members]
    return [part for group in whole for part in np.split(group, range(size, len(group), size))]


def _blocks(members: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Whole groups, or parts of them, packed into blocks of about ROWS_AT_A_TIME rows."""
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
