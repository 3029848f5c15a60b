"""Batches of document indices: shuffled without end for training, in order and padded for inference.

The order is a function of (seed, step) alone, so a training run resumes at any step, and every process draws the
same global batch and reads its own rows of it: the result does not depend on how many processes share the work.
"""

import functools
import math
from collections.abc import Callable, Iterator

import grain
import numpy as np
from jaxtyping import Bool, Int

WINDOW = 32  # batches, at most, among which documents are put together by length

Fetch = Callable[[Int[np.ndarray, " B"], Int[np.ndarray, " b"], np.random.Generator], dict[str, np.ndarray]]


def steps_per_epoch(documents: int, batch_size: int) -> int:
    """Steps after which every document has been drawn once (the last batch of an epoch may reach into the next)."""
    return max(1, math.ceil(documents / batch_size))


def training_batches(
    fetch: Fetch,
    *,
    documents: int,
    batch_size: int,
    seed: int,
    steps: int,
    rows: Int[np.ndarray, " b"] | None = None,
    lengths: Int[np.ndarray, " N"] | None = None,
) -> grain.MapDataset:
    """Shuffled batches: element `step` is `fetch(indices, rows, rng)` of that step.

    Args:
      fetch: makes the arrays of some rows of a batch from the document indices of all (B,); its generator is seeded by
        (seed, step), so what it draws for all rows is the same in every process.
      documents: corpus size N; every epoch is a new permutation.
      batch_size: global batch size B.
      seed: of the order; stages pass different seeds.
      steps: length of the data set.
      rows: of each batch that this process reads; all by default.
      lengths: of the documents, where short ones are not to pay for long ones: what up to `WINDOW` batches of an epoch would
        draw is dealt out to them by length, and the batches come in random order.
    """
    rows = np.arange(batch_size) if rows is None else rows
    order = grain.MapDataset.range(documents).shuffle(seed=seed).repeat()

    def draw(first: int, count: int) -> Int[np.ndarray, " n"]:
        return np.fromiter((order[i] for i in range(first, first + count)), np.int64, count)

    def window(step: int) -> tuple[int, int]:
        """First and end of the batches of one epoch that share their documents with that of a step: every epoch sees every
        document. A batch that reaches into the next epoch stands alone."""
        epoch = step * batch_size // documents
        begin, end = -(-epoch * documents // batch_size), (epoch + 1) * documents // batch_size
        if step >= end:
            return step, step + 1
        first = begin + (step - begin) // WINDOW * WINDOW
        return first, min(first + WINDOW, end, steps)

    @functools.lru_cache(maxsize=2)
    def by_length(first: int, end: int) -> Int[np.ndarray, "W B"]:
        drawn = draw(first * batch_size, (end - first) * batch_size)
        drawn = drawn[np.argsort(lengths[drawn], kind="stable")].reshape(end - first, batch_size)
        return np.random.default_rng((seed, first, 1)).permutation(drawn)

    def load(step: int) -> dict[str, np.ndarray]:
        if lengths is None:
            indices = draw(step * batch_size, batch_size)
        else:
            first, end = window(step)
            indices = by_length(first, end)[step - first]
        return fetch(indices, rows, np.random.default_rng((seed, step, 0)))

    return grain.MapDataset.range(steps).map(load)


def inference_batches(
    lengths: Int[np.ndarray, " N"], *, batch_size: int, buckets: tuple[int, ...], start: int = 0
) -> Iterator[tuple[Int[np.ndarray, " B"], Bool[np.ndarray, " B"], int]]:
    """Every document exactly once, grouped by length so that short documents do not pay for long ones.

    A document's padded length depends on its own length alone and every batch has the same number of rows, so a
    document meets the same compiled function, and gets the same bits, alone or in company.

    Args:
      lengths: tokens per document.
      batch_size: rows per batch; the last batch of a bucket repeats a document, marked by the mask.
      buckets: padded lengths, increasing; the last holds the longest document.
      start: number of batches to leave out (a resumed pass).

    Yields:
      indices (B,), mask (B,) of real rows, padded length.
    """
    bucket = np.searchsorted(buckets, lengths)
    number = 0
    for which, length in enumerate(buckets):
        rows = np.flatnonzero(bucket == which)
        for first in range(0, len(rows), batch_size):
            number += 1
            if number <= start:
                continue
            indices = rows[first : first + batch_size]
            mask = np.arange(batch_size) < len(indices)
            yield np.resize(indices, batch_size), mask, length


def length_buckets(longest: int) -> tuple[int, ...]:
    """A few padded lengths (multiples of 8, each about 1.5 times the last) up to `longest`.

    They depend on the model's longest input alone, not on a corpus, so that a document is padded alike in any company.
    """
    buckets = [-(-longest // 8) * 8]
    while buckets[0] > 16:
        buckets.insert(0, -(-int(buckets[0] / 1.5) // 8) * 8)
    return tuple(sorted(set(buckets)))
