"""Means of words: by hand, and in memory that does not grow with the corpus."""

import tracemalloc

import numpy as np

from lmindexer_jax.indexing.vectors import mean_of_words


class Words:
    """Tokens of documents, as a store has them."""

    def __init__(self, rows):
        self.rows = rows
        self.lengths = np.array([len(row) for row in rows], np.int32)

    def __len__(self):
        return len(self.rows)

    @property
    def flat(self):
        return np.concatenate(self.rows)

    def part(self, first, last):
        return Words(self.rows[first:last])


def test_the_mean_of_words_is_that_of_each_document_alone():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 32)).astype(np.float32)
    store = Words([rng.integers(2, 50, rng.integers(48, 65)) for _ in range(4000)] + [np.array([0, 1])])
    tracemalloc.start()
    means = mean_of_words(table, store, unlabelled=(0, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6, "all words at once would take 30 MB"
    wanted = np.stack([table[row].mean(0) for row in store.rows[:-1]])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(means[:-1], wanted, atol=1e-6)
    assert not means[-1].any(), "no word, no direction"
