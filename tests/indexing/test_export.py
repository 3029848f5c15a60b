"""Exports: the JSON of TIGER-style projects, and a T5 whose token ids are rows of its embedding."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors

from lmindexer_jax import export as command
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.tokenizer import Tokenizer, load_tokenizer
from lmindexer_jax.errors import UserError
from lmindexer_jax.finished import open_finished
from lmindexer_jax.indexing.export import to_json, to_t5, token, vocabulary, with_tokens
from lmindexer_jax.indexing.id_table import Manifest, build
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.models import pretrained
from lmindexer_jax.models.t5 import T5, T5Config
from lmindexer_jax.run import execute

WIDTH = 8
CODES = np.array([[12, 7, 2], [0, 1, 1], [12, 7, 2]])


@pytest.fixture
def table():
    return build(["B00 1", 'quoted "é"', "last"], CODES, Manifest({}, "corpus", "model", (13, 8, 3)))


@pytest.fixture
def tokenizer():
    words = ["<pad>", "</s>", "<unk>", "a", "cat", "sat"]
    backend = tokenizers.Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return Tokenizer(backend)


@pytest.fixture
def codebooks():
    return [np.random.default_rng(size).normal(size=(size, WIDTH)).astype(np.float32) for size in (13, 8, 3)]


def model(vocab_size: int, tied: bool):
    config = T5Config(
        vocab_size=vocab_size, d_model=WIDTH, d_kv=4, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2,
        tie_word_embeddings=tied,
    )
    ids = jnp.ones((1, 2), jnp.int32)
    return config, T5(config).init(jax.random.key(0), ids, ids > 0, ids)["params"]


def test_tokens_name_position_and_code():
    assert [token(position, 5) for position in (0, 1, 25, 26, 27, 702)] == [
        "<a_5>", "<b_5>", "<z_5>", "<aa_5>", "<ab_5>", "<aaa_5>",
    ]  # fmt: skip


def test_json_is_an_index_file(table, tmp_path):
    to_json(table, tmp_path / "index.json")
    assert json.loads((tmp_path / "index.json").read_text(encoding="utf-8")) == {
        "B00 1": ["<a_12>", "<b_7>", "<c_2>", "<d_0>"],
        'quoted "é"': ["<a_0>", "<b_1>", "<c_1>", "<d_0>"],
        "last": ["<a_12>", "<b_7>", "<c_2>", "<d_1>"],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]


def test_json_of_nothing(tmp_path):
    to_json(build([], np.empty((0, 2)), Manifest({}, "corpus", "model", (4, 4))), tmp_path / "index.json")
    assert json.loads((tmp_path / "index.json").read_text()) == {}


def test_vocabulary_holds_every_token_once(table):
    tokens = vocabulary(table)
    assert len(set(tokens)) == len(tokens) == 13 + 8 + 3 + 2
    assert tokens[0] == "<a_0>" and tokens[13] == "<b_0>" and tokens[-1] == "<d_1>"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding", [0, 3, 100])
def test_token_ids_are_embedding_rows(table, tokenizer, codebooks, tied, padding, tmp_path):
    config, params = model(tokenizer.vocab_size + padding, tied)
    to_t5(tmp_path, table, config=config, params=params, codebooks=codebooks, tokenizer=tokenizer)

    written, found = pretrained.load(tmp_path)
    assert written.vocab_size == 6 + 26
    tables = [found["shared"]["embedding"]] + ([] if tied else [found["lm_head"]["embedding"]])
    for reader in (load_tokenizer(tmp_path).backend, transformers.AutoTokenizer.from_pretrained(tmp_path)):
        encoded = reader.encode("a Cat<a_12><b_7> <c_2>sat")
        ids = getattr(encoded, "ids", encoded)
        assert ids == [3, 4, 6 + 12, 6 + 13 + 7, 6 + 13 + 8 + 2, 5, 1]
        for embedding in tables:
            assert embedding.shape == (6 + 26, WIDTH)
            rows = [codebooks[0][12], codebooks[1][7], codebooks[2][2]]
            np.testing.assert_array_equal(embedding[ids[2:5]], rows)
    for position, name in enumerate(vocabulary(table)):
        assert load_tokenizer(tmp_path).backend.token_to_id(name) == 6 + position
    np.testing.assert_array_equal(found["shared"]["embedding"][:6], params["shared"]["embedding"][:6])
    # counters: distinct, and of the size of codes
    counters = found["shared"]["embedding"][-2:]
    assert not np.array_equal(*counters) and 0.2 < counters.std() < 5.0
    # the model runs on the new ids, and what is no vocabulary is untouched
    logits = T5(written).apply({"params": found}, jnp.array([ids]), jnp.ones((1, len(ids)), bool), jnp.array([[0, 18]]))
    assert logits.shape == (1, 2, 32) and np.isfinite(logits).all()
    assert jax.tree.all(jax.tree.map(np.array_equal, found["encoder"], jax.device_get(params["encoder"])))


def test_the_source_stays_as_it_was(table, tokenizer, codebooks, tmp_path):
    config, params = model(tokenizer.vocab_size, True)
    before, hash_before = jax.tree.map(np.array, params), tokenizer.hash
    to_t5(tmp_path / "1", table, config=config, params=params, codebooks=codebooks, tokenizer=tokenizer)
    to_t5(tmp_path / "2", table, config=config, params=params, codebooks=codebooks, tokenizer=tokenizer)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, params))
    assert Tokenizer(tokenizer.backend).hash == hash_before
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_refusals(table, tokenizer, codebooks, tmp_path):
    config, params = model(tokenizer.vocab_size, True)
    with pytest.raises(UserError, match="codebooks of shapes"):
        to_t5(tmp_path, table, config=config, params=params, codebooks=codebooks[:2], tokenizer=tokenizer)
    small, cut = model(5, True)
    with pytest.raises(UserError, match="a tokenizer of 6 ids, but the T5 embeds 5"):
        to_t5(tmp_path, table, config=small, params=cut, codebooks=codebooks, tokenizer=tokenizer)
    with pytest.raises(UserError, match="already has the token <a_0>"):
        with_tokens(with_tokens(tokenizer, ["<a_0>"]), ["<a_0>", "<a_1>"])


def test_the_command_writes_a_t5_that_transformers_reads(tmp_path, monkeypatch):
    runs.write_corpus(tmp_path / "corpus.jsonl", documents=60)
    execute(runs.ours(tmp_path / "corpus.jsonl", tmp_path / "cache"), tmp_path / "run", console=Console(Mode.QUIET))
    monkeypatch.setattr(sys, "argv", ["lmindexer-export", "--workdir", str(tmp_path / "run"), "-o", str(tmp_path / "t5"), "--console", "quiet"])
    command.main()
    config, found = pretrained.load(tmp_path / "t5")
    tokenizer, learned = transformers.AutoTokenizer.from_pretrained(tmp_path / "t5"), open_finished(tmp_path / "run").learned()
    for document, tokens in json.loads((tmp_path / "run" / "ids.json").read_text()).items():
        ids = tokenizer.convert_tokens_to_ids(tokens)
        codes = [int(token[3:-1]) for token in tokens[:-1]]
        wanted = [learned[f"codebook_{position}"][code] for position, code in enumerate(codes)]
        np.testing.assert_array_equal(found["shared"]["embedding"][ids[:-1]], wanted, err_msg=document)
    assert jax.tree.all(jax.tree.map(np.array_equal, found["decoder"], jax.device_get(learned["decoder"])))

    residual = runs.ours(tmp_path / "corpus.jsonl", tmp_path / "cache")
    residual.indexer_kind = IndexerKind.RESIDUAL
    execute(residual, tmp_path / "residual", console=Console(Mode.QUIET))
    with pytest.raises(UserError, match="not learned by a T5"):
        command.export(tmp_path / "residual", tmp_path / "none")
