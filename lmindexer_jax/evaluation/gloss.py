"""What every prefix of a table means, read once and looked up by its node: for a page that shows many at a time."""

import functools

import numpy as np
from jaxtyping import Int

from lmindexer_jax.data.corpus import Corpus
from lmindexer_jax.evaluation.explain import categories, distinguishing_words, named
from lmindexer_jax.evaluation.id_quality import prefix_ids
from lmindexer_jax.evaluation.text_space import text_space
from lmindexer_jax.indexing.id_table import IdTable

REMEMBERED = 1 << 14  # prefixes whose categories are kept once they were counted


class Gloss:
    """Sizes, words and categories of the prefixes of a table.

    A prefix of t codes is named by its number among all of that length, in the order of their codes from 0: that of its
    node in the table's trie. Threads may share a gloss.
    """

    def __init__(self, table: IdTable, corpus: Corpus | None, *, most: int = 8):
        """Reads the corpus' texts.

        Args:
          table: its first rows are the documents of the corpus; there may be more, of which only the number counts.
          corpus: None where it cannot be read: then there are no words and no categories.
          most: words per prefix, and categories.
        """
        self._ids, self._corpus, self._most = table.ids, corpus, most
        self._numbers = prefix_ids(table.codes)
        order = np.lexsort(table.codes.T[::-1])
        self._order = order  # rows in the order of their codes: those of a prefix are neighbours
        self._starts = [np.r_[0, np.cumsum(np.bincount(numbers))] for numbers in self._numbers.T]
        self._words: list[dict[int, list[str]]] = [{} for _ in self._numbers.T]
        if corpus is not None:
            space = text_space(text for batch in corpus.batches() for text in batch)
            known = prefix_ids(table.codes[: len(corpus)])
            told = distinguishing_words(space, known, most=most)
            for depth, words in enumerate(told):
                _, first = np.unique(known[:, depth], return_index=True)
                numbers = self._numbers[first, depth]
                self._words[depth] = {int(number): named(space, best) for number, best in zip(numbers, words) if best}
        self._remembered = functools.lru_cache(REMEMBERED)(self._look_up)

    def look_up(self, length: int, number: int) -> dict:
        """Of the prefix with that number among those of `length` codes: `documents`, `words` (best first), `categories`; `document`,
        the id, where there is but one."""
        return self._remembered(length, number)

    def _look_up(self, length: int, number: int) -> dict:
        rows = self.rows(length, number)
        found = {"documents": len(rows), "words": self._words[length - 1].get(number, []), "categories": []}
        if len(rows) == 1:
            found["document"] = self._ids[int(rows[0])].as_py()
        if self._corpus is not None:
            found["categories"] = categories(self._corpus, rows[rows < len(self._corpus)], most=self._most)
        return found

    def rows(self, length: int, number: int) -> Int[np.ndarray, " M"]:
        """Rows of the table that have the prefix, in the order of their codes."""
        low, high = self._starts[length - 1][number : number + 2]
        return self._order[low:high]
