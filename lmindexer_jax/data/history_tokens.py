"""Histories as text: the tokens of their items' texts, newest first, as far as there is room (LMIndexer, section on recommendation).

The texts are tokenized once per item, not once per history; each ends with the token that ends a text, which keeps the
items apart.
"""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Bool, Int

from lmindexer_jax.data.packing import Items, Spans
from lmindexer_jax.data.tokens import TokenStore


@dataclasses.dataclass(frozen=True)
class ItemTokens:
    """The tokens of N items' texts end to end; item i has `flat[offsets[i]:offsets[i + 1]]`, at least one token."""

    flat: Int[np.ndarray, " M"]
    offsets: Int[np.ndarray, " N+1"]
    pad_id: int

    @classmethod
    def of(cls, store: TokenStore) -> "ItemTokens":
        """Those of a corpus, whose rows are the items."""
        return cls(store.flat, np.r_[0, np.cumsum(store.lengths, dtype=np.int64)], store.pad_id)


class HistoryTokens:
    """U histories, batch by batch.

    Attributes:
      lengths: tokens of each.
      hash: of all their tokens.
    """

    def __init__(self, tokens: ItemTokens, items: Items, spans: Spans, *, length: int):
        """Args:
        tokens: of the items.
        items: rows of the items, of all histories, each in time order.
        spans: where each history lies among them; none is empty.
        length: tokens that are read of a history at most.
        """
        self.tokens, self.items, self.spans, self.length = tokens, np.asarray(items), spans, length
        until = np.r_[0, np.cumsum(np.diff(tokens.offsets)[self.items])]
        self.lengths: Int[np.ndarray, " U"] = np.minimum(until[spans.end] - until[spans.begin], length).astype(np.int32)

    def __len__(self) -> int:
        """U."""
        return len(self.lengths)

    @property
    def hash(self) -> str:
        """Of all that determines the batches."""
        digest = hashlib.sha256(f"{self.tokens.pad_id} {self.length}".encode())
        for array in (self.tokens.flat, self.tokens.offsets, self.items, *self.spans):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def batch(self, indices: Int[np.ndarray, " B"], *, length: int) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        """Tokens (int32) of some histories, padded or cut to `length`, and which are real."""
        rows = np.full((len(indices), length), self.tokens.pad_id, np.int32)
        flat, offsets, limit = self.tokens.flat, self.tokens.offsets, min(length, self.length)
        for row, index in zip(rows, indices, strict=True):
            filled = 0
            for place in range(self.spans.end[index] - 1, self.spans.begin[index] - 1, -1):
                item = self.items[place]
                part = flat[offsets[item] : offsets[item + 1]][: limit - filled]
                row[filled : filled + len(part)] = part
                filled += len(part)
                if filled == limit:
                    break
        return rows, np.arange(length)[None, :] < np.minimum(self.lengths[indices], limit)[:, None]
