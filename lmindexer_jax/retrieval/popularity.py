"""Popularity: the same documents for everybody, those met most often in training."""

from collections.abc import Sized

import numpy as np
from jaxtyping import Int

from lmindexer_jax.retrieval.topk import Ranked, top_k


class Popularity:
    """Ranks by counts; a document never met cannot be had."""

    def __init__(self, counts: Int[np.ndarray, " N"]):
        """Takes how often each document was met in training, as `Sequences.counts` gives it."""
        self.scores = np.where(counts > 0, counts, -np.inf).astype(np.float32)

    def search(self, queries: Sized, *, k: int) -> Ranked:
        """The k most popular documents, once for each query, whatever it is."""
        best = top_k(self.scores[None], k)
        return Ranked(*(np.repeat(array, len(queries), axis=0) for array in best))
