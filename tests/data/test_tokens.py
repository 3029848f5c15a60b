"""The token store gives back what the tokenizer makes, in padded batches, from disk."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.data import tokens as tokens_module
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.tokenizer import train_tokenizer
from lmindexer_jax.data.tokens import TokenStore, open_tokens
from lmindexer_jax.errors import UserError

LONGEST = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(1)
    lines = [{"id": n, "text": "ab " * rng.integers(1, 30) + f"number {n}"} for n in range(500)]
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus = open_corpus(CorpusConfig(path=str(folder / "x.jsonl"), cache_dir=str(folder)))
    return corpus, train_tokenizer(corpus, vocab_size=300), folder


@pytest.fixture(scope="module")
def store(world):
    corpus, tokenizer, folder = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens_module, "_ROWS", 64)  # several rounds of the building loop
        return open_tokens(corpus, tokenizer, max_length=LONGEST, cache_dir=folder)


def test_rows_are_the_tokenizer_s(world, store):
    corpus, tokenizer, _ = world
    expected = tokenizer.encode(corpus.texts(range(len(corpus))), LONGEST)
    assert len(store) == len(corpus) == 500
    np.testing.assert_array_equal(store.lengths, [len(row) for row in expected])
    assert store.lengths.dtype == np.int32 and store.lengths.max() == LONGEST
    for index, row in enumerate(expected):
        np.testing.assert_array_equal(store.row(index), row)
    assert (store.pad_id, store.eos_id, store.vocab_size) == (0, 1, tokenizer.vocab_size)


def test_counts_are_over_the_whole_corpus(store):
    rows = np.concatenate([store.row(index) for index in range(len(store))])
    np.testing.assert_array_equal(store.counts(), np.bincount(rows, minlength=store.vocab_size))
    assert store.counts().dtype == np.int64


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 499), min_size=1, max_size=20), st.integers(3, LONGEST + 8))
def test_a_batch_is_what_tokenizing_to_its_length_gives(world, store, indices, length):
    corpus, tokenizer, _ = world
    tokens, mask = store.batch(np.array(indices), length=length)
    assert tokens.shape == mask.shape == (len(indices), length)
    assert tokens.dtype == np.int32 and mask.dtype == bool
    for row, real, text in zip(tokens, mask, corpus.texts(indices), strict=True):
        (expected,) = tokenizer.encode([text], min(length, LONGEST))
        np.testing.assert_array_equal(row[real], expected)
        np.testing.assert_array_equal(real, np.arange(length) < len(expected))
        assert (row[~real] == store.pad_id).all()


def test_built_once_and_keyed_by_corpus_tokenizer_and_length(world, store, monkeypatch, tmp_path):
    corpus, tokenizer, folder = world
    monkeypatch.setattr(tokens_module, "_chunks", lambda corpus: pytest.fail("tokenized again"))
    assert open_tokens(corpus, tokenizer, max_length=LONGEST, cache_dir=folder).hash == store.hash
    monkeypatch.undo()
    shorter = open_tokens(corpus, tokenizer, max_length=8, cache_dir=folder)
    other = open_tokens(corpus, train_tokenizer(corpus, vocab_size=280), max_length=LONGEST, cache_dir=folder)
    (tmp_path / "y.jsonl").write_text('{"id": 1, "text": "ab"}')
    small = open_corpus(CorpusConfig(path=str(tmp_path / "y.jsonl"), cache_dir=str(folder)))
    another = open_tokens(small, tokenizer, max_length=LONGEST, cache_dir=folder)
    assert len({store.hash, shorter.hash, other.hash, another.hash}) == 4


def test_large_vocabularies_are_stored_in_32_bits(world, tmp_path):
    corpus, tokenizer, _ = world
    assert next(world[2].glob("tokens/*/tokens.bin")).stat().st_size > 0
    wide = type(tokenizer)(type(tokenizer.backend).from_str(tokenizer.backend.to_str()))
    wide.vocab_size = 70_000
    encode = wide.encode
    wide.encode = lambda texts, length: [np.where(row == 1, 1, row + 69_000) for row in encode(texts, length)]
    store = open_tokens(corpus, wide, max_length=8, cache_dir=tmp_path)
    assert store.row(3).max() > 69_000


def test_progress_counts_every_document(world, tmp_path):
    corpus, tokenizer, _ = world
    done = []
    open_tokens(corpus, tokenizer, max_length=9, cache_dir=tmp_path, progress=done.append)
    assert sum(done) == len(corpus)


def test_a_store_travels_as_its_place(store):
    kind, arguments = store.__reduce__()
    np.testing.assert_array_equal(kind(*arguments).row(3), store.row(3))


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.npy", "tokens.json", "counts.npy"])
def test_a_truncated_store_is_named(world, tmp_path, name):
    corpus, tokenizer, _ = world
    open_tokens(corpus, tokenizer, max_length=9, cache_dir=tmp_path)
    (file,) = tmp_path.glob(f"tokens/*/{name}")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged token store.*delete the folder"):
        TokenStore(file.parent)
