"""BM25: documents by the words they share with the query (Robertson et al., 1994; by the package bm25s, Lù, 2024)."""

import logging
from collections.abc import Sequence

import numpy as np

from lmindexer_jax.retrieval.topk import Ranked, top_k

_WORD = r"(?u)\b\w+\b"  # single letters and digits too: they matter in names of products and in formulas


class Bm25:
    """BM25 in Lucene's form over lower-cased words; no stemming, no stop words, so that any language will do.

    k1 = 0.9 and b = 0.4 are what Anserini found best without tuning (Yang et al., 2018).
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 0.9, b: float = 0.4):
        """Indexes N documents.

        Args:
          texts: of the documents.
          k1: how slowly repeated words saturate.
          b: how much long documents are held back, 0 to 1.
        """
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for debug messages on import
        words = _words(texts)
        self.documents = len(words)
        self.vocabulary = {word for document in words for word in document}
        if self.vocabulary:
            self.index = bm25s.BM25(k1=k1, b=b, method="lucene")
            self.index.index(words, show_progress=False)

    def search(self, queries: Sequence[str], *, k: int) -> Ranked:
        """The k best documents of each query; only such as share a word with it."""
        rows, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        for number, words in enumerate(_words(queries)):
            known = [word for word in words if word in self.vocabulary]
            if known:
                found = self.index.get_scores(known)
                rows[[number]], scores[[number]] = top_k(np.where(found > 0, found, -np.inf)[None], k)
        return Ranked(rows, scores)


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(list(texts), stopwords=[], token_pattern=_WORD, return_ids=False, show_progress=False)
