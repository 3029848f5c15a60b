"""Tokenizers: trained, read from files, and cut as the models expect."""

import json
import os
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from lmindexer_jax.errors import UserError

WORDS = "red blue nail polish cream for dry skin and hair 12 ounce pack natural oil brush".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lines = [{"id": n, "text": " ".join(rng.choice(WORDS, rng.integers(2, 20)))} for n in range(300)]
    (folder / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return open_corpus(CorpusConfig(path=str(folder / "x.jsonl"), cache_dir=str(folder / "cache")))


@pytest.fixture(scope="module")
def trained(corpus):
    return train_tokenizer(corpus, vocab_size=300)


def bert():
    """A small tokenizer of the BERT kind, which pads and cuts by its own file as MiniLM's does."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    backend = tokenizers.Tokenizer(models.WordPiece({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(names[:5])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.enable_padding(length=128)
    backend.enable_truncation(4)
    return backend


def test_trained_ids_are_those_of_t5(trained):
    assert (trained.pad_id, trained.eos_id, trained.special_ids) == (0, 1, (0, 1, 2))
    assert trained.vocab_size == 300
    (row,) = trained.encode(["red nail polish"], 32)
    assert row.dtype == np.int32 and row[-1] == 1 and not {0, 2} & set(row.tolist())


def test_training_joins_frequent_words(corpus):
    tokenizer = train_tokenizer(corpus, vocab_size=400)
    assert tokenizer.vocab_size < 400  # every word is one piece before the vocabulary is full
    assert len(tokenizer.encode(["Red nail POLISH"], 32)[0]) == 4


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
@example("</s>")
@example("nail <pad> polish</s>red <unk>")
def test_no_text_is_unknown_to_a_trained_tokenizer(trained, text):
    (row,) = trained.encode([text], 10_000)
    normalised = trained.backend.normalizer.normalize_str(text)
    assert not {0, 1, 2} & set(row[:-1].tolist())
    assert trained.decode(row).removeprefix(" ") == normalised.removeprefix(" ")


_TRAIN = """
import sys
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.tokenizer import train_tokenizer
print(train_tokenizer(open_corpus(CorpusConfig(path=sys.argv[1], cache_dir=sys.argv[2])), vocab_size=300).hash)
"""


def test_training_is_deterministic_across_processes_and_threads(corpus, trained, tmp_path):
    (tmp_path / "x.jsonl").write_text(
        "\n".join(json.dumps({"id": n, "text": corpus.text(n)}) for n in range(len(corpus)))
    )
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", _TRAIN, tmp_path / "x.jsonl", tmp_path]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == trained.hash


def test_a_vocabulary_must_hold_the_bytes(corpus):
    with pytest.raises(UserError, match="259"):
        train_tokenizer(corpus, vocab_size=258)


def test_saved_and_loaded_is_the_same(trained, tmp_path):
    trained.save(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert loaded.hash == trained.hash and loaded.special_ids == trained.special_ids


def test_saved_tokenizer_opens_in_transformers(trained, tmp_path):
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    text = "Blue cream, 12 ounce"
    assert other(text)["input_ids"] == trained.encode([text], 99)[0].tolist()
    assert (other.pad_token_id, other.eos_token_id) == (0, 1)


def test_bert_kind(tmp_path):
    bert().save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.special_ids) == (0, 3, (0, 1, 2, 3, 4))
    rows = tokenizer.encode(["red blue nail polish cream for dry skin", "red"], 6)
    red, polish = 5, 8
    assert rows[0].tolist() == [2, red, red + 1, red + 2, polish, 3]  # the file's own padding and cut are off
    assert rows[1].tolist() == [2, red, 3]


@pytest.mark.parametrize("make", [bert, lambda: None])
def test_cut_rows_keep_their_length_and_end(make, trained):
    tokenizer = Tokenizer(make()) if make() else trained
    whole = tokenizer.encode([" ".join(WORDS)], 999)[0]
    for length in range(3, len(whole) + 3):
        (row,) = tokenizer.encode([" ".join(WORDS)], length)
        assert len(row) == min(length, len(whole)) and row[-1] == tokenizer.eos_id
        np.testing.assert_array_equal(row[:-1], whole[: len(row) - 1])


def test_an_end_is_added_where_the_tokenizer_has_none():
    backend = tokenizers.Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    tokenizer = Tokenizer(backend)
    assert [row.tolist() for row in tokenizer.encode(["a", ""], 9)] == [[3, 1], [1]]


def test_a_length_without_room_for_text_is_refused(trained):
    with pytest.raises(UserError, match="no text"):
        trained.encode(["a"], 1)
    with pytest.raises(UserError, match="no text"):
        Tokenizer(bert()).encode(["a"], 2)


def test_sentencepiece_model_is_read_without_its_library(tmp_path):
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf()
    model = proto.ModelProto()
    model.trainer_spec.unk_id = 2
    pieces = [("<pad>", 0, 3), ("</s>", 0, 3), ("<unk>", 0, 2), ("▁", -2, 1), ("▁red", -3, 1), ("▁re", -4, 1), ("d", -4, 1)]
    for name, score, kind in pieces:
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = name, score, kind
    (tmp_path / "spiece.model").write_bytes(model.SerializeToString())
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 107)
    assert len(tokenizer.special_ids) == 103
    assert tokenizer.backend.token_to_id("<extra_id_0>") == 106  # the first sentinel is the last id, as in T5
    assert tokenizer.encode(["red  d red <extra_id_0>"], 99)[0].tolist() == [4, 3, 6, 4, 106, 1]
    assert tokenizer.decode([4, 3, 6, 1]) == "red d"
    (tmp_path / "spiece.model").write_bytes(b"\xff\xff nothing")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 1}', "\udcff"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match="tokenizer.json: not a tokenizer file"):
        load_tokenizer(tmp_path)


def test_a_foreign_family_is_refused():
    with pytest.raises(UserError, match="T5 or BERT"):
        Tokenizer(tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))


def test_nothing_there_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no tokenizer there"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="not a name"):
        load_tokenizer("no/such/folder")

    def offline(name, **_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot connect\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="google/t5: .*cannot connect") as error:
        load_tokenizer("google/t5")
    assert "\n" not in str(error.value)


def test_a_hub_name_is_fetched(trained, tmp_path, monkeypatch):
    trained.save(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path))
    assert load_tokenizer("some/model").hash == trained.hash
