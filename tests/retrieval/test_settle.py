"""Codebooks that start at the means of their documents' texts: what they hold, and that they find before any training."""

import jax
import numpy as np
import pytest

from lmindexer_jax.models.bert import BertConfig
from lmindexer_jax.models.retriever import Retriever, RetrieverConfig, RetrieverFunctions
from lmindexer_jax.retrieval.settle import settle

MODEL = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, max_position_embeddings=16
)
SIZES, TEXTS = (4, 5, 3), 300


@pytest.fixture(scope="module")
def settled():
    rng = np.random.default_rng(0)
    functions = RetrieverFunctions(Retriever(RetrieverConfig(decoder_layers=1, gist=True), MODEL, SIZES))
    params = jax.jit(functions.init)(jax.random.key(0))
    codes = np.stack([rng.integers(0, 3, TEXTS), rng.integers(0, 4, TEXTS), rng.integers(-1, 2, TEXTS)], axis=1)
    tokens = (2 + 12 * codes[:, :1] + rng.integers(0, 4, (TEXTS, 8)) + 4 * (rng.random((TEXTS, 8)) < 0.5) * (codes[:, 1:2] % 2)).astype(np.int32)
    mask = np.arange(8)[None] < rng.integers(3, 9, (TEXTS, 1))
    return functions, params, tokens, mask, codes, settle(params, gists(functions, params, tokens, mask), codes)


def gists(functions, params, tokens, mask):
    return np.asarray(jax.jit(functions.encode)(params, tokens, mask).gist)


def test_rows_are_the_means_of_what_is_left(settled):
    functions, params, tokens, mask, codes, found = settled
    rest = gists(functions, params, tokens, mask)
    assert rest.shape == (TEXTS, 16)
    np.testing.assert_allclose(found["centre"], rest.mean(0), atol=1e-5)
    rest = rest - rest.mean(0)
    explained = [*found["explained"]]
    for position in range(2):
        for code in range(SIZES[position] - 1):
            of_code = codes[:, position] == code
            row = found[f"codebook_{position}"][code]
            np.testing.assert_allclose(explained[position] * row, rest[of_code].mean(0), atol=1e-5)
            rest[of_code] -= rest[of_code].mean(0)
        lengths = np.linalg.norm(found[f"codebook_{position}"][: SIZES[position] - 1], axis=1)
        np.testing.assert_allclose(lengths.mean(), 4.0, rtol=1e-5)


def test_what_no_text_belongs_to_stays(settled):
    _, params, _, _, _, found = settled
    for position, size in enumerate(SIZES):
        np.testing.assert_array_equal(found[f"codebook_{position}"][size - 1], params[f"codebook_{position}"][size - 1])
    for name in params.keys() - {"centre", "gain", "explained", "codebook_0", "codebook_1", "codebook_2"}:
        assert found[name] is params[name]
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, params)


def test_the_right_code_comes_first_without_training(settled):
    functions, params, tokens, mask, codes, found = settled
    ask = jax.jit(lambda params: functions.logits(params, functions.encode(params, tokens, mask), codes=codes)[0])
    right = {name: np.mean(np.argmax(ask(tree)[:, :3], axis=1) == codes[:, 0]) for name, tree in (("before", params), ("after", found))}
    assert right["after"] > 0.9 > 0.6 > right["before"], right
