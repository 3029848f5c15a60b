"""Ranked documents, and the best k of many scores: what every retriever answers with.

A retriever is anything with `search(queries, k=...) -> Ranked`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

SCORES_PER_BLOCK = 1 << 24
"""Queries x documents scored at a time: 64 MB."""


class Ranked(NamedTuple):
    """The best documents of Q queries, best first; where a query has fewer than k, the rest is row -1, score -inf."""

    rows: Int[np.ndarray, "Q k"]
    scores: Float[np.ndarray, "Q k"]


def top_k(scores: Float[np.ndarray, "Q N"], k: int) -> Ranked:
    """The k highest scores of each query; equal ones in order of row; -inf marks what cannot be had."""
    count = min(k, scores.shape[1])
    if count < 1:
        return nothing(len(scores), k)
    if count < scores.shape[1]:
        # All above the k-th highest score, and as many of those that equal it as there is room for, lowest rows first.
        least = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count]
        above, equal = scores > least, scores == least
        room = count - above.sum(1, keepdims=True)
        rows = np.nonzero(above | (equal & (np.cumsum(equal, axis=1) <= room)))[1].reshape(len(scores), count)
    else:
        rows = np.broadcast_to(np.arange(count), scores.shape)
    found = np.take_along_axis(scores, rows, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    rows, found = np.take_along_axis(rows, order, axis=1), np.take_along_axis(found, order, axis=1)
    return padded(np.where(np.isneginf(found), -1, rows), found, k)


def inner_products(queries: Float[np.ndarray, "Q D"], documents: Float[np.ndarray, "N D"], *, k: int) -> Ranked:
    """The k documents of highest inner product, exactly, in blocks of queries and documents: memory stays bounded."""
    block = max(1, min(len(documents), SCORES_PER_BLOCK // 64))
    step = max(1, SCORES_PER_BLOCK // block)
    parts = []
    for first in range(0, len(queries), step):
        best = nothing(len(queries[first : first + step]), 0)
        for low in range(0, len(documents), block):
            found = top_k(queries[first : first + step] @ np.asarray(documents[low : low + block]).T, k)
            rows = np.where(found.rows >= 0, found.rows + low, -1)
            best = _merged(best, Ranked(rows, found.scores), k)
        parts.append(padded(*best, k))
    return Ranked(*map(np.concatenate, zip(*parts, strict=True))) if parts else nothing(0, k)


def without(ranked: Ranked, rows: Int[np.ndarray, " M"], offsets: Int[np.ndarray, " Q+1"], *, k: int) -> Ranked:
    """The first k of each query that are not excluded for it: a history that is not to be recommended again.

    Ask the retriever for as many more as the longest exclusion has.

    Args:
      ranked: of Q queries.
      rows: excluded documents, queries end to end; query q has `rows[offsets[q]:offsets[q + 1]]`.
    """
    found, scores = ranked
    query = np.repeat(np.arange(len(found)), np.diff(offsets))
    width = 1 + max(int(found.max(initial=0)), int(np.max(rows, initial=0)))
    keys = np.append(np.sort(query * width + rows), np.iinfo(np.int64).max)
    asked = np.arange(len(found))[:, None] * width + found
    gone = (keys[np.searchsorted(keys, asked)] == asked) | (found < 0)
    order = np.argsort(gone, axis=1, kind="stable")[:, :k]
    gone = np.take_along_axis(gone, order, axis=1)
    kept = np.where(gone, -1, np.take_along_axis(found, order, axis=1))
    return padded(kept, np.where(gone, -np.inf, np.take_along_axis(scores, order, axis=1)), k)


def padded(rows: Int[np.ndarray, "Q j"], scores: Float[np.ndarray, "Q j"], k: int) -> Ranked:
    """j <= k columns made k."""
    missing = ((0, 0), (0, k - rows.shape[1]))
    return Ranked(np.pad(rows, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf))


def nothing(queries: int, k: int) -> Ranked:
    """No document for any query."""
    return Ranked(np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32))


def _merged(one: Ranked, other: Ranked, k: int) -> Ranked:
    """The best k of both; the first's come first among equals."""
    rows, scores = (np.concatenate(pair, axis=1) for pair in zip(one, other, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Ranked(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1))
