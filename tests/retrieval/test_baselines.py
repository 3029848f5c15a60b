"""Retrievers that need no IDs: exact, deterministic, and each finds what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.models import presets
from lmindexer_jax.models.bert import BertConfig
from lmindexer_jax.models.indexer import Indexer, IndexerConfig, IndexerFunctions
from lmindexer_jax.retrieval import topk
from lmindexer_jax.retrieval.dense import Dense, DenseConfig, embed, frozen_encoder
from lmindexer_jax.retrieval.lexical import Bm25
from lmindexer_jax.retrieval.popularity import Popularity

TEXTS = ["The cat sat on the mat", "A dog and a cat, a cat!", "Vitamin C 500 mg", "", "the the the"]


def lucene_bm25(query, texts, k1, b):
    """The formula, word by word (Robertson et al., 1994, with Lucene's idf and without its constant k1 + 1)."""
    import re

    documents = [re.findall(r"\w+", text.lower()) for text in texts]
    mean = np.mean([len(document) for document in documents])
    scores = np.zeros(len(texts))
    for word in re.findall(r"\w+", query.lower()):
        holding = sum(word in document for document in documents)
        idf = np.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        for row, document in enumerate(documents):
            count = document.count(word)
            scores[row] += idf * count / (count + k1 * (1 - b + b * len(document) / mean)) if count else 0.0
    return scores


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75)])
def test_bm25_is_the_formula(k1, b):
    queries = ["cat", "the cat", "C", "THE dog dog", "nowhere", ""]
    found = Bm25(TEXTS, k1=k1, b=b).search(queries, k=4)
    for query, rows, scores in zip(queries, *found, strict=True):
        wanted = lucene_bm25(query, TEXTS, k1, b)
        order = [row for row in np.argsort(-wanted, kind="stable") if wanted[row] > 0][:4]
        assert rows[rows >= 0].tolist() == order, query
        np.testing.assert_allclose(scores[: len(order)], wanted[order], rtol=1e-5)
        assert np.isneginf(scores[len(order) :]).all()


def test_bm25_without_words_finds_nothing():
    for texts in ([], ["", "!"]):
        assert (Bm25(texts).search(["cat", ""], k=2).rows == -1).all()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_top_k_is_a_stable_sort(data):
    queries, documents, k = (data.draw(st.integers(low, 7)) for low in (1, 0, 1))
    values = st.sampled_from([0.0, 1.0, 2.0, -np.inf])
    scores = np.asarray(
        data.draw(st.lists(values, min_size=queries * documents, max_size=queries * documents)), np.float32
    ).reshape(queries, documents)
    found = topk.top_k(scores, k)
    assert found.rows.shape == found.scores.shape == (queries, k)
    for row, rows, best in zip(scores, *found, strict=True):
        wanted = [place for place in np.argsort(-row, kind="stable") if row[place] > -np.inf][:k]
        assert rows.tolist() == wanted + [-1] * (k - len(wanted))
        assert best.tolist() == [*row[wanted], *[-np.inf] * (k - len(wanted))]


def test_inner_products_are_exact_in_any_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    queries, documents = rng.integers(-2, 3, (9, 5)).astype(np.float32), rng.integers(-2, 3, (70, 5)).astype(np.float32)
    wanted = topk.top_k(queries @ documents.T, 12)
    for size in (64, 640, 1 << 24):
        monkeypatch.setattr(topk, "SCORES_PER_BLOCK", size)
        found = topk.inner_products(queries, documents, k=12)
        np.testing.assert_array_equal(found.rows, wanted.rows)
        np.testing.assert_array_equal(found.scores, wanted.scores)
    assert topk.inner_products(queries[:0], documents, k=3).rows.shape == (0, 3)
    assert topk.inner_products(queries, documents[:2], k=3).rows[:, 2].tolist() == [-1] * 9


def test_histories_are_left_out():
    ranked = topk.Ranked(np.array([[4, 2, 0], [4, 2, -1]]), np.array([[3.0, 2.0, 1.0], [3.0, 2.0, -np.inf]]))
    found = topk.without(ranked, np.array([4, 7, 2, 4]), np.array([0, 2, 4]), k=2)
    assert found.rows.tolist() == [[2, 0], [-1, -1]] and found.scores.tolist() == [[2, 1], [-np.inf, -np.inf]]


def test_popularity_counts():
    found = Popularity(np.array([1, 0, 5, 1])).search(range(3), k=4)
    assert found.rows.tolist() == [[2, 0, 3, -1]] * 3 and found.scores[0].tolist() == [5, 1, 1, -np.inf]


class Letters:
    """A tokenizer of one id per letter."""

    pad_id = 0

    def encode(self, texts, max_length):
        return [np.asarray([1, *(ord(letter) % 29 + 3 for letter in text[: max_length - 2]), 2], np.int32) for text in texts]


def test_dense_finds_every_document_by_its_own_text():
    config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    functions = IndexerFunctions(Indexer(IndexerConfig(codebook_sizes=(2,)), config, words=1, dtype=jnp.float32))
    params = jax.jit(functions.init)(jax.random.key(0))
    texts = [chr(97 + number % 26) * (1 + number % 13) for number in range(26)]

    def encode(batch):
        return embed(functions, params, Letters(), batch, max_length=16, console=Console(Mode.QUIET))

    vectors = encode(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(encode([texts[20]])[0], vectors[20])  # alone as in company
    found = Dense(vectors, encode).search(texts[:25], k=1)
    assert found.rows[:, 0].tolist() == list(range(25))
    assert Dense(vectors, encode).search([], k=2).rows.shape == (0, 2)


def test_more_tokens_than_the_encoder_has_positions_are_refused(tmp_path, monkeypatch):
    preset = presets.Preset(BertConfig(), weights_dir=tmp_path, tokenizer_dir=tmp_path)
    monkeypatch.setattr(presets, "resolve", lambda name: preset)
    with pytest.raises(UserError, match="minilm: max_length=513: this language model has 512 positions; give at most 512"):
        frozen_encoder(DenseConfig(max_length=513), console=Console(Mode.QUIET))


def test_a_model_without_weights_is_refused():
    with pytest.raises(UserError, match="tiny: dense retrieval needs pretrained weights"):
        frozen_encoder(DenseConfig("tiny"), console=Console(Mode.QUIET))


def test_the_default_encoder_knows_what_is_alike():
    encode = frozen_encoder(DenseConfig(), console=Console(Mode.QUIET))
    cat, kitten, tax = encode(["a cat on the mat", "kittens on a carpet", "how to file a tax return"])
    np.testing.assert_allclose(np.linalg.norm([cat, kitten, tax], axis=1), 1.0, rtol=1e-5)
    assert cat @ kitten > cat @ tax + 0.2
