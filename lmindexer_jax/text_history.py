"""The recommender that reads histories as text: its language model, the tokens of its items, its training."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from lmindexer_jax.config import LanguageModelConfig
from lmindexer_jax.console import Console
from lmindexer_jax.data.cache import cache_root
from lmindexer_jax.data.history_tokens import HistoryTokens, ItemTokens
from lmindexer_jax.data.interactions import Sequences
from lmindexer_jax.data.packing import Spans
from lmindexer_jax.data.pipeline import length_buckets
from lmindexer_jax.data.tokens import open_tokens
from lmindexer_jax.errors import UserError
from lmindexer_jax.finished import open_finished
from lmindexer_jax.indexing.assigners import content_hash
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models import presets
from lmindexer_jax.models.bert import check_positions
from lmindexer_jax.models.retriever import Retriever, RetrieverConfig, RetrieverFunctions, adopt
from lmindexer_jax.prepare import language_model_config, open_tokenizer, pretrained_parts
from lmindexer_jax.retrieval.catalogue import full_codes
from lmindexer_jax.retrieval.finetune import Examples, FinetuneConfig, finetune
from lmindexer_jax.retrieval.objective import TrainingConfig
from lmindexer_jax.retrieval.text_recommender import TextRecommender, make
from lmindexer_jax.training import hosts


@dataclasses.dataclass
class ReaderConfig:
    """What reads a history as text."""

    language_model: str = "mini"  # a preset, a Hugging Face directory, or a hub name; "" = the indexer's own, as trained
    pretrained: bool = True  # False: random weights of the same size
    vocabulary: int = 8192  # of the tokenizer that is trained on the corpus where the preset brings none
    item_tokens: int = 32  # that are read of an item's text
    tokens: int = 128  # that are read of a history, newest items first


def open_reader(
    config: ReaderConfig, ids: pathlib.Path, table: IdTable, workdir: pathlib.Path, *, beams: int, seed: int
) -> TextRecommender:
    """A recommender that is still to be trained.

    Args:
      ids: the workdir of the indexer's finished run, whose corpus has the items' texts.
      table: its ID table.
      workdir: where a tokenizer is kept that is trained for it.

    Raises:
      UserError: no such run, its corpus has changed or lacks items of the table, an unknown language model, or one of fewer
        positions than tokens are to be read.
    """
    if not (ids / "ids").is_dir():
        raise UserError(f"{ids}: no indexer's run, so no texts of the items; give the workdir of one as --config.ids")
    run, own = open_finished(ids), not config.language_model
    named = LanguageModelConfig(config.language_model, config.pretrained, vocabulary=config.vocabulary)
    settings = run.config if own else dataclasses.replace(run.config, language_model=named)
    preset = presets.resolve(settings.language_model.name, pretrained=settings.language_model.pretrained)
    check_positions(preset.config, length_buckets(config.tokens)[-1], setting=f"reader.tokens={config.tokens}")
    with hosts.first_goes_ahead():
        corpus = run.corpus()
        if corpus.ids().to_pylist() != table.ids.to_pylist():
            raise UserError(f"{ids}: its ID table has documents that its corpus lacks, and their texts cannot be read")
        tokenizer = open_tokenizer(settings, preset, corpus, ids if own else workdir)
        cache = cache_root(run.config.corpus.cache_dir)
        store = open_tokens(corpus, tokenizer, max_length=config.item_tokens, cache_dir=cache)
    language_model, sizes = language_model_config(preset, tokenizer), full_codes(table)[1]
    shape = RetrieverConfig(decoder_layers=run.config.indexer.decoder_layers) if own else RetrieverConfig()
    functions = RetrieverFunctions(Retriever(shape, language_model, sizes, stack=settings.language_model.stack))
    start = run.adoptable(run.learned()) if own else pretrained_parts(preset)
    params = adopt(jax.jit(functions.init)(jax.random.key(seed)), start)
    return make(functions, params, table, ItemTokens.of(store), length=config.tokens, beams=beams)


def trained(
    reader: TextRecommender,
    users: Sequences,
    *,
    config: TrainingConfig,
    workdir: pathlib.Path,
    mesh: Any,
    seed: int,
    console: Console,
    checkpoint_seconds: float,
    profile: int,
) -> TextRecommender:
    """The recommender after all epochs over all items that follow on others; all parameters move.

    Raises:
      UserError: no user has two items, or checkpoints of other settings.
    """
    sizes = np.diff(users.offsets)
    begin = np.repeat(users.offsets[:-1], sizes - 1)
    targets = np.delete(np.arange(len(users.items)), users.offsets[:-1])
    if not len(targets):
        raise UserError("no user has two items to train on")
    store = HistoryTokens(reader.tokens, users.items, Spans(begin, targets), length=reader.length)
    params = finetune(
        reader.functions,
        reader.params,
        reader.trie,
        Examples(store, users.items[targets], full_codes(reader.table)[0], by_length=True),
        config=FinetuneConfig(config.epochs, config.batch_size, reader.length, language_model=1.0, optim=config.optim),
        directory=workdir,
        mesh=mesh,
        seed=seed,
        console=console,
        checkpoint_seconds=checkpoint_seconds,
        profile=profile,
        identity=f"{reader.table.digest} {content_hash(reader.params)}",
    )
    return dataclasses.replace(reader, params=params)
