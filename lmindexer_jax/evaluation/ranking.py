"""Ranking metrics at k by their standard definitions, per query, with ties in expectation.

Of a query with R relevant documents (grade above 0), over the first k ranks:

    hit     1 if any of them is relevant
    recall  relevant ones / R
    mrr     1 / rank of the first relevant one
    map     sum over relevant ones of the precision at their rank, / R (trec_eval's map_cut)
    ndcg    sum of gain / log2(rank + 1), over the same sum for the best ranking of *all* relevant documents
            (Järvelin and Kekäläinen, 2002); the gain is the grade, or 2^grade - 1 (Burges et al., 2005)

Documents that share a full ID cannot be told apart by a model that generates IDs: they are a tie, and get the expected
value over a random order of the tie (McSherry and Najork, 2008), computed in closed form. So a collision is no free hit
and no sure loss. `evaluate_ids` gives the laxer figure beside it, which asks for the ID alone.

A query without a relevant document has no score, NaN: it counts in no mean.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from lmindexer_jax.data.qrels import Qrels, make_qrels

METRICS = ("hit", "recall", "mrr", "map", "ndcg")
USUAL = ("recall@1", "recall@10", "mrr@10", "ndcg@10")  # shown of retrievers

Scores = dict[str, Float[np.ndarray, " Q"]]
"""Per-query values by name and cutoff, as "ndcg@10"."""


class Gain(enum.StrEnum):
    """What a grade is worth in NDCG."""

    LINEAR = "linear"  # the grade: trec_eval, BEIR
    EXPONENTIAL = "exponential"  # 2^grade - 1: web search


class _Blocks(NamedTuple):
    """Ties that hold relevant documents, in order of query and rank; a document on its own is a tie of one."""

    query: Int[np.ndarray, " B"]
    start: Int[np.ndarray, " B"]  # documents ranked before the tie
    size: Int[np.ndarray, " B"]
    relevant: Int[np.ndarray, " B"]
    before: Int[np.ndarray, " B"]  # relevant documents of the query in earlier ties


def evaluate(
    ranked: Int[np.ndarray, "Q R"],
    qrels: Qrels,
    *,
    cutoffs: Sequence[int],
    groups: Int[np.ndarray, " N"] | None = None,
    excluded: tuple[Int[np.ndarray, " M"], Int[np.ndarray, " Q+1"]] | None = None,
    gain: Gain = Gain.LINEAR,
) -> Scores:
    """Every metric at every cutoff, for every query.

    Args:
      ranked: rows of documents, best first; -1 takes no rank.
      qrels: judgements of the same queries; documents without one are not relevant.
      cutoffs: values of k. A list shorter than k is one that found no more.
      groups: a number for the full ID of each document of the corpus, as `id_quality.prefix_ids(codes)[:, -1]`. The
        documents of a group are a tie at the rank of the first of them, all of them, whether or not `ranked` names them:
        one for each generated ID is enough.
      excluded: documents that could not be retrieved for a query (its history), end to end, and where each query begins:
        they are left out of their ties, but stay relevant if judged so.
      gain: of a grade in NDCG.

    Raises:
      ValueError: `ranked` has another number of queries, or holds a document twice for a query.
    """
    if len(ranked) != len(qrels):
        raise ValueError(f"ranked documents for {len(ranked)} queries, judgements for {len(qrels)}")
    held = np.flatnonzero(qrels.grades > 0)
    query, rows, grades = qrels.query[held], qrels.rows[held], qrels.grades[held]
    ties, sizes, lost = _ties(ranked, groups, excluded, query=query, rows=rows)
    starts = np.cumsum(sizes, axis=1) - sizes
    place = _find(ties, query, rows if groups is None else groups[rows])
    found = (place >= 0) & ~lost
    start, size = (np.where(found, array.reshape(-1)[place] if array.size else 0, 0) for array in (starts, sizes))
    gains = grades.astype(np.float64) if gain == Gain.LINEAR else np.exp2(grades) - 1.0
    blocks = _blocks(query[found], place[found], starts.reshape(-1), sizes.reshape(-1))
    relevant = np.bincount(query, minlength=len(qrels)).astype(np.float64)
    relevant[relevant == 0] = np.nan
    scores: Scores = {}
    for k in cutoffs:
        discounts = np.r_[0.0, np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))]
        share = (discounts[np.minimum(start + size, k)] - discounts[np.minimum(start, k)]) / np.maximum(size, 1)
        ideal = _ideal(query, gains, discounts, queries=len(qrels))
        none, reciprocal = _first(blocks, k)
        missed = np.ones(len(qrels))
        np.multiply.at(missed, blocks.query, none)
        total = {
            "hit": np.where(np.isnan(relevant), np.nan, 1.0 - missed),
            "recall": _sum(blocks, blocks.relevant * _inside(blocks, k) / blocks.size, len(qrels)) / relevant,
            "mrr": _sum(blocks, reciprocal, len(qrels)) * (relevant / relevant),
            "map": _sum(blocks, _precisions(blocks, k), len(qrels)) / relevant,
            "ndcg": np.bincount(query, gains * share, minlength=len(qrels)) / ideal,
        }
        scores |= {f"{name}@{k}": value for name, value in total.items()}
    return scores


def evaluate_ids(
    ranked: Int[np.ndarray, "Q R"],
    qrels: Qrels,
    *,
    cutoffs: Sequence[int],
    groups: Int[np.ndarray, " N"],
    gain: Gain = Gain.LINEAR,
) -> Scores:
    """The same metrics over IDs: an ID is as relevant as the best of its documents, and takes one rank."""
    keys, inverse = np.unique(np.c_[qrels.query, groups[qrels.rows]], axis=0, return_inverse=True)
    grades = np.zeros(len(keys), np.int64)
    np.maximum.at(grades, inverse.reshape(-1), qrels.grades)
    of_ids = make_qrels(keys[:, 0], keys[:, 1], grades, queries=len(qrels))
    return evaluate(_distinct(ranked, groups), of_ids, cutoffs=cutoffs, gain=gain)


def by_slice(
    ranked: Int[np.ndarray, "Q R"],
    qrels: Qrels,
    slices: Mapping[str, Bool[np.ndarray, " N"]],
    *,
    cutoffs: Sequence[int],
    groups: Int[np.ndarray, " N"] | None = None,
) -> dict[str, Scores]:
    """The metrics with the documents of one slice alone as relevant, ranked among all; NaN for queries without one."""
    return {
        name: evaluate(ranked, qrels.of(documents), cutoffs=cutoffs, groups=groups) for name, documents in slices.items()
    }


def means_by_slice(
    name: str,
    ranked: Int[np.ndarray, "Q R"],
    qrels: Qrels,
    slices: Mapping[str, Bool[np.ndarray, " N"]],
    *,
    cutoffs: Sequence[int],
) -> dict[str, dict[str, float]]:
    """`means` of every metric, under `name` over all queries, and under "name, slice" for each slice; slices that share
    nothing out, since all relevant documents are in one of them, are left out."""
    found = {name: means(evaluate(ranked, qrels, cutoffs=cutoffs))}
    if all(documents[qrels.answers].any() for documents in slices.values()):
        parts = by_slice(ranked, qrels, slices, cutoffs=cutoffs)
        found |= {f"{name}, {part}": means(scores) for part, scores in parts.items()}
    return found


def head_and_tail(counts: Int[np.ndarray, " N"], *, head: float = 0.2) -> dict[str, Bool[np.ndarray, " N"]]:
    """Slices of the items met most often in training, a share `head` of all items, and of the rest."""
    order = np.argsort(-counts, kind="stable")
    popular = np.zeros(len(counts), bool)
    popular[order[: round(head * len(counts))]] = True
    return {"head": popular, "tail": ~popular}


def seen_and_unseen(asked: Int[np.ndarray, " M"], documents: int) -> dict[str, Bool[np.ndarray, " N"]]:
    """Slices of the documents that answer a training query, whose rows are `asked`, and of those that answer none."""
    seen = np.zeros(documents, bool)
    seen[asked] = True
    return {"seen": seen, "unseen": ~seen}


def means(scores: Scores) -> dict[str, float]:
    """The mean of each metric over the queries that have a score; NaN where none has."""
    held = {name: values[~np.isnan(values)] for name, values in scores.items()}
    return {name: float(values.mean()) if len(values) else float("nan") for name, values in held.items()}


def _distinct(ranked: Int[np.ndarray, "Q R"], groups: Int[np.ndarray, " N"] | None) -> Int[np.ndarray, "Q R"]:
    """The group of each ranked document where it comes first in its row, else -1; without groups, the documents."""
    numbers = ranked if groups is None else np.where(ranked >= 0, groups[ranked], -1)
    order = np.argsort(numbers, axis=1, kind="stable")
    ordered = np.take_along_axis(numbers, order, axis=1)
    again = np.zeros(numbers.shape, bool)
    np.put_along_axis(again, order[:, 1:], (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0), axis=1)
    if groups is None and again.any():
        query, place = np.argwhere(again)[0]
        raise ValueError(f"query {query} ranks document {ranked[query, place]} twice")
    return np.where(again, -1, numbers)


def _ties(ranked, groups, excluded, *, query, rows):
    """Numbers of the ranked ties, how many documents each holds (both (Q, R)), and which judged documents are excluded."""
    ties = _distinct(ranked, groups)
    sizes = (ties >= 0).astype(np.int64) if groups is None else np.where(ties >= 0, np.bincount(groups)[ties], 0)
    if excluded is None:
        return ties, sizes, np.zeros(len(query), bool)
    gone_rows, offsets = excluded
    pairs = np.unique(np.c_[np.repeat(np.arange(len(ranked)), np.diff(offsets)), gone_rows], axis=0)
    place = _find(ties, pairs[:, 0], pairs[:, 1] if groups is None else groups[pairs[:, 1]])
    gone = np.bincount(place[place >= 0], minlength=ties.size).reshape(ties.shape)
    width = 1 + max(int(rows.max(initial=0)), int(pairs[:, 1].max(initial=0)))
    return ties, sizes - gone, np.isin(query * width + rows, pairs[:, 0] * width + pairs[:, 1])


def _find(ties: Int[np.ndarray, "Q R"], query: Int[np.ndarray, " M"], number: Int[np.ndarray, " M"]) -> Int[np.ndarray, " M"]:
    """Where (in the flattened ties) each (query, number) stands, or -1."""
    places = np.flatnonzero(ties >= 0)
    if not len(places) or not len(number):
        return np.full(len(number), -1)
    width = 1 + max(int(ties.max()), int(number.max()))
    keys = places // ties.shape[1] * width + ties.reshape(-1)[places]
    order = np.argsort(keys)
    asked = query * width + number
    at = np.minimum(np.searchsorted(keys[order], asked), len(keys) - 1)
    return np.where(keys[order][at] == asked, places[order][at], -1)


def _blocks(query, place, starts, sizes) -> _Blocks:
    places, first, counts = np.unique(place, return_index=True, return_counts=True)
    owner = query[first]
    total = np.cumsum(counts) - counts
    before = total - total[np.searchsorted(owner, owner)] if len(owner) else total
    return _Blocks(owner, starts[places], sizes[places], counts, before)


def _inside(blocks: _Blocks, k: int) -> Int[np.ndarray, " B"]:
    """How many documents of each tie are within the first k."""
    return np.clip(k - blocks.start, 0, blocks.size)


def _first(blocks: _Blocks, k: int) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Probability that no relevant document of a tie is within the first k; expected 1 / rank of the query's first one.

    In a random order of n documents of which r are relevant, the first j hold none with probability
    (n - r)(n - r - 1).../n(n - 1)..., and given that, the next is relevant with probability r / (n - j).
    """
    inside = _inside(blocks, k)
    leads = blocks.before == 0
    none, reciprocal = np.ones(len(inside)), np.zeros(len(inside))
    active = np.flatnonzero(inside > 0)
    drawn = 0
    while len(active):
        left, relevant = blocks.size[active] - drawn, blocks.relevant[active]
        reciprocal[active] += leads[active] * none[active] * relevant / left / (blocks.start[active] + drawn + 1)
        none[active] *= np.maximum(left - relevant, 0) / left
        drawn += 1
        active = active[(inside[active] > drawn) & (none[active] > 0)]
    return none, reciprocal


def _precisions(blocks: _Blocks, k: int) -> Float[np.ndarray, " B"]:
    """Expected sum of the precisions at the relevant ranks of each tie, within the first k.

    Rank s + j of a tie that starts at s is relevant with probability r / n; before it stand the h relevant documents of
    earlier ties and, expected, (j - 1)(r - 1) / (n - 1) of its own.
    """
    start, size, relevant, before = blocks.start, blocks.size, blocks.relevant, blocks.before
    inside = _inside(blocks, k)
    harmonic = np.r_[0.0, np.cumsum(1.0 / np.arange(1, k + 1))]
    reciprocals = harmonic[np.minimum(start + inside, k)] - harmonic[np.minimum(start, k)]  # sum of 1 / (s + j)
    own = (relevant - 1) / np.maximum(size - 1, 1) * (inside - (start + 1) * reciprocals)  # of (j - 1) / (s + j)
    return relevant / size * ((before + 1) * reciprocals + own)


def _sum(blocks: _Blocks, values: Float[np.ndarray, " B"], queries: int) -> Float[np.ndarray, " Q"]:
    return np.bincount(blocks.query, values, minlength=queries)


def _ideal(query, gains, discounts, *, queries: int) -> Float[np.ndarray, " Q"]:
    """DCG of the best ranking of all relevant documents; NaN where there are none."""
    order = np.lexsort((-gains, query))
    rank = np.arange(len(query)) - np.searchsorted(query[order], query[order])
    single = np.diff(discounts)
    worth = np.where(rank < len(single), single[np.minimum(rank, len(single) - 1)], 0.0)
    total = np.bincount(query[order], gains[order] * worth, minlength=queries)
    return np.where(total > 0, total, np.nan)
