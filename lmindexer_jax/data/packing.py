"""Users' items as training rows: windows, many of them to a row.

Most histories are short, so that one to a row would be mostly padding: they are laid end to end instead, each with a
number of its own within the row, by which attention keeps them apart.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

OPEN_ROWS = 16

Items = Int[np.ndarray, " M"]  # of all users, end to end


class Spans(NamedTuple):
    """Stretches `items[begin:end]` of items that lie end to end."""

    begin: Int[np.ndarray, " S"]
    end: Int[np.ndarray, " S"]

    @property
    def lengths(self) -> Int[np.ndarray, " S"]:
        """Items of each stretch."""
        return self.end - self.begin


class Windows(NamedTuple):
    """Inputs `items[begin:end]`, each with the item after it as its target; targets before `fresh` do not count."""

    begin: Int[np.ndarray, " W"]
    end: Int[np.ndarray, " W"]
    fresh: Int[np.ndarray, " W"]


def windows(spans: Spans, *, length: int) -> Windows:
    """Windows of at most `length` inputs in which every item but a span's first is a counted target exactly once.

    A longer span gives several, each half a length after the one before: its targets have at least that much history.
    """
    begin, end = spans.begin, np.maximum(spans.end - 1, spans.begin)
    stride = max(1, length // 2)
    counts = np.where(end > begin, 1 + np.maximum(0, -(-(end - begin - length) // stride)), 0)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first, last = np.repeat(begin, counts), np.repeat(end, counts)
    starts = first + number * stride
    fresh = np.where(number == 0, first, starts - stride + length)
    return Windows(starts, np.minimum(starts + length, last), fresh + 1)


class Rows(NamedTuple):
    """Where stretches lie: the row and the first column of each, and how many rows there are."""

    row: Int[np.ndarray, " S"]
    column: Int[np.ndarray, " S"]
    count: int


def pack(lengths: Int[np.ndarray, " S"], *, length: int) -> Rows:
    """Lay stretches of at most `length` items into rows of that length: each into the first open row that holds it.

    A few rows are open at a time, the oldest of which makes way for a new one, so that neighbours in the order stay
    near each other and the work is linear.
    """
    row, column = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    open_rows: list[list[int]] = []  # number and used places of each
    count = 0
    for number, size in enumerate(lengths.tolist()):
        fitting = next((place for place in open_rows if place[1] + size <= length), None)
        if fitting is None:
            fitting = [count, 0]
            count += 1
            open_rows.append(fitting)
            if len(open_rows) > OPEN_ROWS:
                open_rows.pop(0)
        row[number], column[number] = fitting
        fitting[1] += size
    return Rows(row, column, count)


def lay(items: Items, spans: Spans, rows: Rows, *, length: int, count: int | None = None) -> dict[str, np.ndarray]:
    """The packed stretches as arrays of `count` rows (all that are needed by default).

    Returns:
      items (R, L), 0 in padding; segment (R, L), from 1 within a row, 0 in padding; source (R, L), the place of
      each in `items`.
    """
    shape = (rows.count if count is None else count, length)
    lengths = spans.lengths
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source = np.repeat(spans.begin, lengths) + within
    at = np.repeat(rows.row * length + rows.column, lengths) + within
    order = np.argsort(rows.row * length + rows.column, kind="stable")
    by_row = rows.row[order]
    segment = np.empty(len(order), np.int64)
    segment[order] = np.arange(len(order)) - np.searchsorted(by_row, by_row) + 1
    out = {"items": items[source], "segment": np.repeat(segment, lengths), "source": source}
    arrays = {name: np.zeros(math.prod(shape), np.int32) for name in out}
    for name, values in out.items():
        arrays[name][at] = values
    return {name: values.reshape(shape) for name, values in arrays.items()}


class TrainingRows:
    """Batches of packed rows: a new order every epoch, a function of (seed, epoch) alone."""

    def __init__(
        self, items: Items, spans: Spans, *, length: int, batch_size: int, epochs: int, seed: int, read_targets: bool = False
    ):
        """Args:
        length: inputs of a window at most, and places of a row.
        batch_size: rows; the last batch of an epoch is filled with empty ones.
        read_targets: let a window's last target lie in the row behind its inputs, so that its codes can be read one
          after the other; a row then has one place more.
        """
        self.items, self.windows, self.behind = items, windows(spans, length=length), int(read_targets)
        self.length, self.batch_size, self.seed = length + self.behind, batch_size, seed
        self.steps_of = [-(-self._packed(epoch)[1].count // batch_size) for epoch in range(epochs)]

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return sum(self.steps_of)

    @property
    def targets(self) -> int:
        """Counted targets of one epoch."""
        return int(np.maximum(self.windows.end - self.windows.fresh + 1, 0).sum())

    def epoch_ends(self) -> list[int]:
        """The number of steps after which each epoch ends."""
        return np.cumsum(self.steps_of).tolist()

    def _packed(self, epoch: int) -> tuple[Int[np.ndarray, " W"], Rows]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.windows.begin))
        return order, pack((self.windows.end - self.windows.begin)[order] + self.behind, length=self.length)

    def batches(self, *, start: int = 0, rows: Int[np.ndarray, " b"] | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Some rows, by default all, of the batches of items, segment, targets and weight, each (b, length), from step
        `start` on."""
        done, rows = 0, np.arange(self.batch_size) if rows is None else rows
        for epoch, steps in enumerate(self.steps_of):
            if done + steps > start:
                arrays = self._epoch(epoch, steps * self.batch_size)
                for step in range(max(0, start - done), steps):
                    part = step * self.batch_size + rows
                    yield {name: values[part] for name, values in arrays.items()}
            done += steps

    def _epoch(self, epoch: int, count: int) -> dict[str, np.ndarray]:
        order, rows = self._packed(epoch)
        begin, end, fresh = (values[order] for values in self.windows)
        spans = Spans(begin, end + self.behind)
        laid = lay(self.items, spans, rows, length=self.length, count=count)
        number = np.repeat(np.arange(len(order)), spans.lengths)
        window = lay(number, _ends(spans), rows, length=self.length, count=count)["items"]
        target = laid["source"] + 1
        real = (laid["segment"] > 0) & (target <= end[window])
        weight: Float[np.ndarray, "R L"] = (real & (target >= fresh[window])).astype(np.float32)
        targets = np.where(real, self.items[np.where(real, target, 0)], 0).astype(np.int32)
        return {"items": laid["items"], "segment": laid["segment"], "targets": targets, "weight": weight}


def _ends(spans: Spans) -> Spans:
    """Stretches of the same lengths, end to end."""
    end = np.cumsum(spans.lengths)
    return Spans(end - spans.lengths, end)
