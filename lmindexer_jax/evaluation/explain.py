"""What a prefix means, in words: those that its documents use more than the documents of its sibling prefixes."""

import numpy as np
from jaxtyping import Int

from lmindexer_jax.evaluation.text_space import TextSpace


def distinguishing_words(
    space: TextSpace, prefixes: Int[np.ndarray, "N T"], *, most: int = 8
) -> list[list[list[int]]]:
    """Words that tell each prefix from its siblings, by class-based tf-idf (Grootendorst 2022).

    A word of prefix c scores n(w, c) / n(c) * log(1 + a / n(w)), where n counts documents that hold the word, n(w) and
    the average a run over the siblings of c (all prefixes with the same parent). A word that all siblings share scores
    low even if it is frequent; English function words are left out.

    Args:
      space: the words of the N documents.
      prefixes: number of each document's prefix of length 1..T, dense from 0 (`id_quality.prefix_ids`).
      most: words per prefix.

    Returns:
      for every length and every prefix the numbers of its words, best first. A prefix with one document has none: its
      text says it better. In larger prefixes a word needs two documents.
    """
    parent = np.zeros(len(prefixes), np.int64)
    by_depth = []
    for prefix in prefixes.T:
        by_depth.append(_best(prefix, parent, space.document, space.word, words=len(space.vocabulary), most=most))
        parent = prefix
    return by_depth


def _best(
    prefix: Int[np.ndarray, " N"],
    parent: Int[np.ndarray, " N"],
    document: Int[np.ndarray, " M"],
    word: Int[np.ndarray, " M"],
    *,
    words: int,
    most: int,
) -> list[list[int]]:
    """The best words of each prefix of one length."""
    size = np.bincount(prefix)
    parent_of = np.zeros(len(size), np.int64)
    parent_of[prefix] = parent
    keys, count = np.unique(prefix[document] * words + word, return_counts=True)
    owner, owned = np.divmod(keys, max(1, words))
    _, sibling = np.unique(parent_of[owner] * words + owned, return_inverse=True)
    among_siblings = np.bincount(sibling, weights=count)[sibling] if len(keys) else count
    total = np.bincount(owner, weights=count, minlength=len(size))
    average = np.bincount(parent_of, weights=total) / np.maximum(1, np.bincount(parent_of))
    score = count / np.maximum(1, total)[owner] * np.log1p(average[parent_of[owner]] / np.maximum(1, among_siblings))
    told = (size[owner] > 1) & ((count > 1) | (size[owner] < 4))
    order = np.lexsort((owned[told], -score[told], owner[told]))
    owner, owned = owner[told][order], owned[told][order]
    starts = np.searchsorted(owner, np.arange(len(size) + 1))
    return [owned[a : min(b, a + most)].tolist() for a, b in zip(starts[:-1], starts[1:])]
