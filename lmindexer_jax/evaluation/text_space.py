"""A space of texts that no indexer had a hand in: words and their tf-idf vectors.

Each word of a document counts once (short texts repeat little, long ones too much), weighed by its rarity, log(N / n(w))
(Sparck Jones 1972); English function words and what occurs in one document only are left out. Vectors have unit length,
so products are cosines.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

WORD = re.compile(r"[^\W\d_][\w'’-]+")
LONGEST_TEXT = 4000  # characters of a document that are read


@dataclasses.dataclass(frozen=True, eq=False)
class TextSpace:
    """Words of N documents; make one with `text_space`.

    Attributes:
      documents: N.
      vocabulary: the words.
      document, word: every (document, word) pair once.
    """

    documents: int
    vocabulary: list[str]
    document: Int[np.ndarray, " M"]
    word: Int[np.ndarray, " M"]

    @functools.cached_property
    def vectors(self) -> sparse.csr_array:
        """(N, V) float32 tf-idf rows of unit length; zero where a document shares no word with any other."""
        holders = np.bincount(self.word, minlength=len(self.vocabulary))
        weight = np.where(holders > 1, np.log(self.documents / np.maximum(1, holders)), 0.0)[self.word]
        length = np.sqrt(np.bincount(self.document, weight**2, minlength=self.documents))[self.document]
        values = np.divide(weight, length, out=np.zeros_like(weight), where=length > 0).astype(np.float32)
        shape = (self.documents, len(self.vocabulary))
        vectors = sparse.csr_array((values, (self.document, self.word)), shape=shape)
        vectors.eliminate_zeros()
        return vectors


def text_space(texts: Iterable[str]) -> TextSpace:
    """Read texts, word by word, in lower case."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    numbers: dict[str, int] = {}
    counts, found = [], []
    for text in texts:
        words = sorted(set(WORD.findall(text[:LONGEST_TEXT].lower())) - ENGLISH_STOP_WORDS)
        counts.append(len(words))
        found.extend(numbers.setdefault(word, len(numbers)) for word in words)
    return TextSpace(len(counts), list(numbers), np.repeat(np.arange(len(counts)), counts), np.array(found, np.int64))


def condensed(space: TextSpace, *, width: int = 64, seed: int = 0) -> Float[np.ndarray, "N W"]:
    """Dense unit vectors of at most `width` numbers: the leading singular directions (Deerwester et al. 1990)."""
    vectors = space.vectors
    if min(vectors.shape) > width:
        from sklearn.decomposition import TruncatedSVD
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):  # matrices are narrow: on a busy machine threads wait for each other a hundred times as long
            dense = TruncatedSVD(width, n_iter=2, random_state=seed).fit_transform(vectors)
    else:
        dense = vectors.toarray()
    return dense / np.maximum(1e-12, np.linalg.norm(dense, axis=1, keepdims=True))
