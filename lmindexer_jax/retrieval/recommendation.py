"""What all recommenders have in common: named histories in, named items out, and ranking in batches of like histories."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.retrieval.topk import Ranked, nothing

FEWEST_PLACES = 16  # for histories, however short: each size is compiled
Rank = Callable[..., Ranked]  # (items, offsets, *, count, exclude_seen)


class Recommendation(NamedTuple):
    """One item: its document id, its semantic ID as text, and its log-probability in nats (of a dense model, among the
    items that its IDs lead to)."""

    document: str
    semantic_id: str
    log_prob: float


class Names:
    """The items of a table by name."""

    def __init__(self, table: IdTable):
        """Reads the names once."""
        self.ids, self.texts = table.ids, table.texts
        self.row_of = {document: row for row, document in enumerate(table.ids.to_pylist())}

    def recommend(
        self, rank: Rank, histories: Sequence[str] | Sequence[Sequence[str]], k: int, *, exclude_seen: bool
    ) -> list[Recommendation] | list[list[Recommendation]]:
        """The k best items after one history of document ids, or after each of several.

        Raises:
          UserError: a document that is not in the table, or an empty history.
        """
        single = bool(histories) and isinstance(histories[0], str)
        lists = [histories] if single else list(histories)
        rows = [self._rows(history) for history in lists]
        if not rows:
            return []
        offsets = np.r_[0, np.cumsum([len(row) for row in rows])]
        ranked = rank(np.concatenate(rows), offsets, count=k, exclude_seen=exclude_seen)
        out = [
            [
                Recommendation(self.ids[int(item)].as_py(), self.texts[int(item)].as_py(), float(score))
                for item, score in zip(items, scores, strict=True)
                if item >= 0
            ]
            for items, scores in zip(ranked.rows, ranked.scores, strict=True)
        ]
        return out[0] if single else out

    def _rows(self, history: Sequence[str]) -> Int[np.ndarray, " n"]:
        if not len(history):
            raise UserError("an empty history; give at least one item, or recommend what is popular")
        missing = next((document for document in history if document not in self.row_of), None)
        if missing is not None:
            raise UserError(f"item {missing!r} is not in the catalogue of {len(self.row_of):,} items")
        return np.asarray([self.row_of[document] for document in history])


def in_batches(
    rank: Callable[[Int[np.ndarray, " B"]], Ranked], lengths: Int[np.ndarray, " U"], *, count: int, size: int
) -> Ranked:
    """Rank for many histories, batch by batch; short ones do not pay for long ones.

    Args:
      rank: of the numbers of B histories, the last batch filled up by repetition.
      lengths: of the histories, by which they are put together.
      count: items wanted for each.
      size: B at most; few histories make a smaller batch.

    Returns:
      host arrays (U, count).
    """
    out = nothing(len(lengths), count)
    order, size = np.argsort(lengths, kind="stable"), min(size, _room(len(lengths)))
    for first in range(0, len(order), size):
        users = order[first : first + size]
        for array, values in zip(out, rank(np.resize(users, size)), strict=True):
            values = np.asarray(values)[: len(users), :count]
            array[users, : values.shape[1]] = values
    return out


def histories_of(
    items: Int[np.ndarray, " M"], offsets: Int[np.ndarray, " U+1"], users: Int[np.ndarray, " B"]
) -> Int[np.ndarray, "B S"]:
    """The whole histories of some users, ending in the last column, -1 before their beginnings; S is one of a few sizes."""
    lengths = np.diff(offsets)[users]
    room = max(FEWEST_PLACES, _room(int(lengths.max())))
    back = np.arange(-room, 0)[None, :]
    places = np.maximum(offsets[users + 1][:, None] + back, 0)
    return np.where(back >= -lengths[:, None], items[places], -1).astype(np.int32)


def _room(count: int) -> int:
    """The next power of four, so that a few sizes alone are compiled."""
    return 4 ** max(1, -(-(count - 1).bit_length() // 2))
