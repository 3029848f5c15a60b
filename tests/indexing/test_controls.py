"""Controls: even, independent, and a function of the document's id."""

import numpy as np

from lmindexer_jax.indexing.controls import atomic_codes, random_codes


def test_random_codes_are_even_and_independent():
    codes = random_codes([f"d{n}" for n in range(20_000)], (16, 10), seed=0)
    counts = np.zeros((16, 10))
    np.add.at(counts, tuple(codes.T), 1)
    expected = 20_000 / 160
    assert np.square(counts - expected).sum() / expected < 220  # chi-squared of 159 degrees of freedom: p < .001


def test_a_document_keeps_its_random_codes_in_any_company():
    ids = [f"d{n}" for n in range(50)]
    codes = random_codes(ids, (256, 256), seed=0)
    np.testing.assert_array_equal(random_codes(ids[9:10], (256, 256), seed=0)[0], codes[9])
    assert (random_codes(ids, (256, 256), seed=1) != codes).mean() > 0.9


def test_atomic_codes_are_all_different():
    np.testing.assert_array_equal(atomic_codes(3), [[0], [1], [2]])
