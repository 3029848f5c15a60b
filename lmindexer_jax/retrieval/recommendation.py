"""What all recommenders have in common: named histories in, named items out, and ranking in batches of like histories."""

import abc
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.retrieval.topk import Ranked, nothing
from lmindexer_jax.training import hosts
from lmindexer_jax.training.checkpoint import save_tree
from lmindexer_jax.training.steps import Params

FEWEST_PLACES = 16  # for histories, however short: each size is compiled
Rank = Callable[..., Ranked]  # (items, offsets, *, count, exclude_seen)


class Recommendation(NamedTuple):
    """One item: its document id, its semantic ID as text, and its log-probability in nats (of a dense model, among the
    items that its IDs lead to)."""

    document: str
    semantic_id: str
    log_prob: float


class NextItem(abc.ABC):
    """What every recommender of a table's items does by name, once it can `rank` them by row and write itself down.

    Attributes:
      params: its parameters, on the device.
      table: document ids and semantic IDs of the items.
    """

    params: Params
    table: IdTable

    def __len__(self) -> int:
        """Items."""
        return len(self.table)

    def recommend(
        self, histories: Sequence[str] | Sequence[Sequence[str]], k: int = 10, *, exclude_seen: bool = True
    ) -> list[Recommendation] | list[list[Recommendation]]:
        """The k items that most probably come next, best first.

        Args:
          histories: document ids of one user in time order, the latest last; or a list of such lists, to be ranked as
            a batch.
          k: items wanted; fewer come where the catalogue has no more.
          exclude_seen: leave out what is in the history.

        Returns:
          a list for one history, a list of lists for several.

        Raises:
          UserError: a document that is not in the catalogue, or an empty history.
        """
        single = bool(histories) and isinstance(histories[0], str)
        rows = [self._rows(history) for history in ([histories] if single else histories)]
        if not rows:
            return []
        offsets = np.r_[0, np.cumsum([len(row) for row in rows])]
        ranked = self.rank(np.concatenate(rows), offsets, count=k, exclude_seen=exclude_seen)
        ids, texts = self.table.ids, self._texts
        out = [
            [
                Recommendation(ids[int(item)].as_py(), texts[int(item)].as_py(), float(score))
                for item, score in zip(items, scores, strict=True)
                if item >= 0
            ]
            for items, scores in zip(ranked.rows, ranked.scores, strict=True)
        ]
        return out[0] if single else out

    @abc.abstractmethod
    def rank(
        self,
        items: Int[np.ndarray, " M"],
        offsets: Int[np.ndarray, " U+1"],
        *,
        count: int,
        exclude_seen: bool,
        every_id: bool = False,
    ) -> Ranked:
        """The best items after many histories, as rows of the table.

        Args:
          items: of all histories end to end, each in time order.
          offsets: where each history begins; none is empty.
          count: items wanted for each.
          exclude_seen: leave out what is in the history.
          every_id: score all IDs in place of a beam; where IDs are generated.

        Returns:
          host arrays (U, count).
        """

    def save(self, folder: pathlib.Path) -> None:
        """Write everything that `load` needs; the manifest last. Of several processes all call."""
        save_tree(folder / "params", self.params)
        if hosts.first():
            self.table.save(folder / "ids")
            self._save_rest(folder)
        hosts.barrier()

    @abc.abstractmethod
    def _save_rest(self, folder: pathlib.Path) -> None:
        """Write all but parameters and table."""

    @functools.cached_property
    def _row_of(self) -> dict[str, int]:
        return {document: row for row, document in enumerate(self.table.ids.to_pylist())}

    @functools.cached_property
    def _texts(self) -> pa.Array:
        return self.table.texts

    def _rows(self, history: Sequence[str]) -> Int[np.ndarray, " n"]:
        if not len(history):
            raise UserError("an empty history; give at least one item, or recommend what is popular")
        missing = next((document for document in history if document not in self._row_of), None)
        if missing is not None:
            raise UserError(f"item {missing!r} is not in the catalogue of {len(self):,} items")
        return np.asarray([self._row_of[document] for document in history])


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
