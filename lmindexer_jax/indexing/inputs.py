"""Everything known about the documents of a run, served as batches of plain arrays."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.data.groups import PrefixGroups, draw_neighbours, group_by_prefix
from lmindexer_jax.data.tokens import TokenStore
from lmindexer_jax.indexing.centres import Centres, look_up
from lmindexer_jax.indexing.encode import Joined, padded

Rows = dict[str, np.ndarray]


@dataclasses.dataclass
class Inputs:
    """Tokens, cached encoder states, codes so far and prefix centres of N documents.

    Attributes:
      store: tokens of the documents.
      unlabelled: token ids that carry no text (padding, end of text, ...).
      words: (V,) the reconstructor's number for each token id, where its head has only the words that the corpus uses.
      codes: (N, T); positions not yet assigned are 0.
      encoded: encoder states of all tokens end to end, where the encoder is frozen; else None.
      pooled, lexical: (N, D) unit means of the encoder's states and of the word vectors, where the encoder is frozen;
        else None.
      centres: centres of the prefixes of length 0, 1, ... as far as they are known.
    """

    store: TokenStore
    unlabelled: tuple[int, ...]
    codes: Int[np.ndarray, "N T"]
    words: Int[np.ndarray, " V"] | None = None
    encoded: Joined | None = None
    pooled: Float[np.ndarray, "N D"] | None = None
    lexical: Float[np.ndarray, "N D"] | None = None
    centres: list[Centres] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.offsets = np.r_[0, np.cumsum(self.store.lengths, dtype=np.int64)]

    def __len__(self) -> int:
        return len(self.store)

    def rows(self, indices: Int[np.ndarray, " B"], *, position: int, length: int) -> Rows:
        """Arrays that a model needs for position `position` (from 0), padded to `length` tokens."""
        tokens, mask = self.store.batch(indices, length=length)
        labelled = mask & ~np.isin(tokens, self.unlabelled)
        rows = {"tokens": tokens, "mask": mask, "labelled": labelled, "codes": self.codes[indices, :position]}
        rows["words"] = tokens if self.words is None else self.words[tokens]
        if self.encoded is not None:
            rows["encoded"] = padded(self.encoded, self.offsets, indices, mask)
        if self.centres:
            rows["centres"] = self.centre_rows(rows["codes"])
        return rows

    def centre_rows(self, codes: Int[np.ndarray, "B P"]) -> Float[np.ndarray, "B P+1 D"]:
        """Centre of every prefix of each document, from the empty one, which is the corpus' mean."""
        return np.stack([look_up(self.centres, codes[:, :p]) for p in range(codes.shape[1] + 1)], axis=1)

    def training_fetch(self, *, position: int, neighbours: int = 0):
        """The fetch function of `data.pipeline.training_batches` for one position.

        With `neighbours` > 0, each document comes with that many others of its prefix.
        """
        longest = int(-(-self.store.lengths.max() // 8) * 8)
        groups: PrefixGroups | None = group_by_prefix(self.codes[:, :position]) if neighbours else None

        def fetch(indices: Int[np.ndarray, " B"], rows: Int[np.ndarray, " b"], rng: np.random.Generator) -> Rows:
            batch = self.rows(indices[rows], position=position, length=longest)
            batch["present"] = np.ones(len(rows), np.float32)
            if groups is not None:
                drawn, present = draw_neighbours(groups, indices, count=neighbours, rng=rng)
                batch["neighbours"] = self.rows(drawn[rows].reshape(-1), position=position, length=longest)
                batch["neighbour_present"] = present[rows]
            return batch

        return fetch
