"""Popularity: the same documents for everybody, those met most often in training."""

from collections.abc import Sized

import numpy as np
from jaxtyping import Int

from lmindexer_jax.retrieval.topk import Ranked, top_k, without


class Popularity:
    """Ranks by counts; a document never met cannot be had."""

    def __init__(self, counts: Int[np.ndarray, " N"]):
        """Takes how often each document was met in training, as `Sequences.counts` gives it."""
        self.scores = np.where(counts > 0, counts, -np.inf).astype(np.float32)

    def search(self, queries: Sized, *, k: int) -> Ranked:
        """The k most popular documents, once for each query, whatever it is."""
        best = top_k(self.scores[None], k)
        return Ranked(*(np.repeat(array, len(queries), axis=0) for array in best))

    def rank(
        self, items: Int[np.ndarray, " M"], offsets: Int[np.ndarray, " U+1"], *, count: int, exclude_seen: bool
    ) -> Ranked:
        """The same after histories, as `Recommender.rank` gives it."""
        longest = int(np.diff(offsets).max()) if exclude_seen else 0
        best = self.search(range(len(offsets) - 1), k=count + longest)
        return without(best, items, offsets, k=count) if exclude_seen else best
