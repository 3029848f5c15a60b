"""A retriever starts from what its run has learned, whatever the size of that."""

import json
import pathlib

import jax
import numpy as np
import pytest
import runs
from finished import finish

from lmindexer_jax import finetune
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.models import presets
from lmindexer_jax.models.indexer import Indexer, IndexerFunctions
from lmindexer_jax.models.retriever import adopt
from lmindexer_jax.prepare import language_model_config, open_tokenizer
from lmindexer_jax.retrieval.query_pairs import Held
from lmindexer_jax.text_history import ReaderConfig, open_reader

BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
SIZES = (4, 3, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """The workdir of a run with a small BERT, whose decoder has a layer more than usual."""
    home = tmp_path_factory.mktemp("start")
    (home / "bert").mkdir()
    (home / "bert" / "config.json").write_text(json.dumps(BERT | {"model_type": "bert", "max_position_embeddings": 36}))
    path = runs.write_corpus(home / "corpus.jsonl", documents=30)
    config = runs.ours(path, home / "cache")
    config.language_model.name, config.language_model.pretrained = str(home / "bert"), False
    config.indexer.decoder_layers, config.indexer.codebook_sizes = 3, SIZES
    corpus = finish(home / "run", path, home / "cache", sizes=SIZES, config=config)
    preset = presets.resolve(config.language_model.name, pretrained=False)
    language_model = language_model_config(preset, open_tokenizer(config, preset, corpus, home / "run"))
    shapes = jax.eval_shape(IndexerFunctions(Indexer(config.indexer, language_model, words=1)).init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    for position in range(len(SIZES)):
        Assigners(home / "run" / "assigners").save(position, params, codes=np.zeros(30, np.int32))
    return home / "run"


def test_a_reader_adopts_a_decoder_of_more_layers(run, tmp_path):
    table, learned = id_table.load(run / "ids"), Assigners(run / "assigners").load(len(SIZES) - 1)
    reader = open_reader(ReaderConfig(language_model="", tokens=32), run, table, tmp_path, beams=5, seed=0)
    assert "layer_2" in reader.params["decoder"]
    jax.tree.map(np.testing.assert_array_equal, reader.params["decoder"], learned["decoder"])


def test_tokens_beyond_the_models_positions_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="reader.tokens=33: this language model has 36 positions; give at most 32"):
        open_reader(ReaderConfig(language_model="", tokens=33), run, id_table.load(run / "ids"), tmp_path, beams=5, seed=0)


def test_a_retriever_adopts_a_decoder_of_more_layers(run, monkeypatch):
    def stop(*given):
        raise runs.Killed(adopt(*given))

    monkeypatch.setattr(finetune, "adopt", stop)
    with pytest.raises(runs.Killed) as found:
        finetune.execute(run, console=Console(Mode.QUIET))
    learned = Assigners(run / "assigners").load(len(SIZES) - 1)
    jax.tree.map(np.testing.assert_array_equal, found.value.args[0]["decoder"], learned["decoder"])


def test_ids_that_no_run_file_can_hold_are_refused_before_training(run, tmp_path, monkeypatch):
    held = [Held(["a query"], ["t0w1"], None, "queries")]
    monkeypatch.setattr(finetune, "open_pairs", lambda *_, **__: (None, None, held))
    with pytest.raises(UserError, match="'a query' cannot stand in a TREC file"):
        finetune.execute(run, runs=tmp_path / "runs", console=Console(Mode.QUIET))
