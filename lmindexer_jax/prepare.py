"""From settings to a run that can be walked: corpus, tokens, model, caches, stages."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from lmindexer_jax import __version__
from lmindexer_jax.config import Config, Precision, defaults, fingerprint, flatten, refuse_change
from lmindexer_jax.console import Console
from lmindexer_jax.data.corpus import Corpus, open_corpus
from lmindexer_jax.data.embeddings import content_hash
from lmindexer_jax.data.interactions import read_interactions
from lmindexer_jax.data.pipeline import length_buckets
from lmindexer_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from lmindexer_jax.data.cache import cache_root, locked
from lmindexer_jax.data.tokens import TokenStore, open_tokens
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing, sealed, unsealed
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.indexing.assign import start_vectors
from lmindexer_jax.indexing.centres import whole_corpus
from lmindexer_jax.indexing.encode import encode_corpus
from lmindexer_jax.indexing.estimate import gain_of_bfloat16
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.indexing.recipe import Order, Stage, plan, refuse_few
from lmindexer_jax.indexing.two_stage import ENCODER, IndexerKind, TwoStage, code_sizes
from lmindexer_jax.indexing.vectors import VectorSource, check as check_vectors, from_file, from_language_model
from lmindexer_jax.models import presets
from lmindexer_jax.models.bert import BertConfig, check_positions
from lmindexer_jax.models.indexer import Indexer, IndexerFunctions, Params
from lmindexer_jax.models.reconstructor import Head
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.training import hosts
from lmindexer_jax.training.checkpoint import save_tree
from lmindexer_jax.training.sharding import make_mesh

RUN = "run.json"  # what a workdir is bound to
WORTH_BFLOAT16 = 1.4  # times the speed of float32


@dataclasses.dataclass
class Texts:
    """The documents and how they are read: what runs of every kind stand on."""

    corpus: Corpus
    preset: presets.Preset
    tokenizer: Tokenizer
    store: TokenStore
    precision: str
    settings: dict[str, object]  # all that determines the result


@dataclasses.dataclass
class Prepared:
    """What a run stands on before its first step."""

    corpus: Corpus
    tokenizer: Tokenizer
    store: TokenStore
    functions: IndexerFunctions
    params: Params
    stages: list[Stage]
    inputs: Inputs
    fingerprint: str


def open_texts(config: Config, workdir: pathlib.Path, *, console: Console) -> Texts:
    """Open or make corpus, tokenizer and tokens; quick when they have been made before.

    Raises:
      UserError: bad settings, bad corpus, unknown language model, or a workdir that holds another run.
    """
    check(config)
    preset = presets.resolve(config.language_model.name, pretrained=config.language_model.pretrained)
    longest = config.language_model.max_length
    check_positions(preset.config, length_buckets(longest)[-1], setting=f"language_model.max_length={longest}")
    cache = cache_root(config.corpus.cache_dir)
    with hosts.first_goes_ahead():
        workdir.mkdir(parents=True, exist_ok=True)
        corpus = open_corpus(config.corpus)
        console.note(f"corpus: {len(corpus):,} documents" + dropped_text(corpus))
        if config.interactions:  # read here for its faults, which should not wait for the end
            read_interactions(pathlib.Path(config.interactions), corpus.ids().to_pylist())
        tokenizer = open_tokenizer(config, preset, corpus, workdir)
        store = open_tokens(corpus, tokenizer, max_length=config.language_model.max_length, cache_dir=cache)
        old = read_run(workdir)
    precision = hosts.said_by_first(str(Precision(old["precision"]) if old else resolve_precision(config.precision)))
    settings = flatten(config) | {"corpus content": corpus.hash, "tokens": store.hash}
    if config.indexer_kind != IndexerKind.LEARNED and config.two_stage.vectors.path:
        settings["vectors content"] = content_hash(pathlib.Path(config.two_stage.vectors.path).expanduser())
    hosts.agree(fingerprint(settings), what="settings or documents")
    if old:
        refuse_change(old["settings"], settings, defaults=defaults(config.indexer_kind), workdir=str(workdir))
        settings = old["settings"]
    return Texts(corpus, preset, tokenizer, store, precision, settings)


def prepare(config: Config, workdir: pathlib.Path, *, console: Console) -> Prepared:
    """Open or make everything that a learned run needs; quick when it has been made before.

    Raises:
      UserError: see `open_texts`, stages that cannot work together, or fewer documents than codes.
    """
    texts = open_texts(config, workdir, console=console)
    corpus, tokenizer, store = texts.corpus, texts.tokenizer, texts.store
    cache = cache_root(config.corpus.cache_dir)
    functions, params, words = open_model(config, texts.preset, tokenizer, store, dtype=jnp.dtype(texts.precision))
    positions = len(config.indexer.codebook_sizes)
    stages = plan(
        config.recipe, positions=positions, documents=len(corpus), reconstructor=config.indexer.reconstructor.kind
    )
    refuse_few(stages, sizes=config.indexer.codebook_sizes, documents=len(corpus))
    bind(workdir, settings=texts.settings, precision=texts.precision, config=config)
    unlabelled = tokenizer.special_ids
    inputs = Inputs(store, unlabelled, np.zeros((len(corpus), positions), np.int32), words)
    if stages[0].frozen and config.language_model.cache_states:
        encoded = encode_corpus(functions, params, store, directory=encoded_home(cache, workdir), console=console)
        inputs.encoded, inputs.pooled, inputs.lexical = encoded
    if config.indexer.pooled_weight > 0:
        assigners = Assigners(workdir / "assigners")
        # Each process would see the file at a moment of its own, and some go without the others into saving it.
        if not hosts.said_by_first("there" if assigners.has_centres(0) else ""):
            assigners.save_centres(0, whole_corpus(start_vectors(functions, params, inputs, console=console)))
        inputs.centres = [assigners.load_centres(0)]
    return Prepared(corpus, tokenizer, store, functions, params, stages, inputs, fingerprint(texts.settings))


def prepare_two_stage(config: Config, workdir: pathlib.Path, *, console: Console) -> tuple[Corpus, Inputs, TwoStage]:
    """Open or make everything that a two-stage run needs: the documents, and a vector for each where the kind has vectors.

    Raises:
      UserError: see `open_texts`, or vectors of the user's own that do not fit the documents.
    """
    texts = open_texts(config, workdir, console=console)
    ids, kind, settings = texts.corpus.ids().to_pylist(), config.indexer_kind, config.two_stage.vectors
    vectors, dtype = None, jnp.dtype(texts.precision)
    from_model = kind.has_vectors and settings.source != VectorSource.FILE
    if kind.has_vectors and not from_model:
        vectors = from_file(settings, ids)
    if from_model:
        functions, params, _ = open_model(config, texts.preset, texts.tokenizer, texts.store, dtype=dtype)
    bind(workdir, settings=texts.settings, precision=texts.precision, config=config)
    if from_model:
        save_tree(workdir / "assigners" / ENCODER, {name: params[name] for name in params if name not in ("decoder", "reconstructor")})
        cache = cache_root(config.corpus.cache_dir)
        cache = encoded_home(cache, workdir) if config.language_model.cache_states else None
        vectors = from_language_model(
            settings.source,
            functions,
            params,
            texts.store,
            unlabelled=texts.tokenizer.special_ids,
            cache=cache,
            console=console,
        )
    sizes = code_sizes(kind, config.indexer.codebook_sizes, documents=len(ids))
    inputs = Inputs(texts.store, texts.tokenizer.special_ids, np.zeros((len(ids), len(sizes)), np.int32))
    run = TwoStage(
        workdir=workdir,
        kind=kind,
        config=config.two_stage,
        sizes=sizes,
        ids=ids,
        vectors=vectors,
        dtype=dtype,
        mesh=make_mesh(config.mesh),
        seed=config.seed,
        console=console,
        checkpoint_seconds=config.checkpoint_seconds,
        fingerprint=fingerprint(texts.settings),
    )
    return texts.corpus, inputs, run


def check(config: Config) -> None:
    """Refuse settings without a meaning, in one line each."""
    sizes = config.indexer.codebook_sizes
    if not sizes or any(not isinstance(size, int) or size < 2 for size in sizes):
        raise UserError(f"indexer.codebook_sizes={sizes}: give one size of at least 2 per position, as (256, 256, 256)")
    if config.seed < 0:
        raise UserError(f"seed={config.seed}: give a whole number of at least 0")
    if config.language_model.max_length < 4:
        raise UserError(f"language_model.max_length={config.language_model.max_length}: give at least 4 tokens")
    if config.indexer_kind != IndexerKind.LEARNED:
        check_vectors(config.two_stage.vectors)
    elif config.recipe.order == Order.TOGETHER and config.indexer.pooled_weight > 0:
        raise UserError("recipe.order='together' needs indexer.pooled_weight=0: what a prefix explains is known once it is assigned")


def encoded_home(cache: pathlib.Path, workdir: pathlib.Path) -> pathlib.Path:
    """Where encoder states are kept: for other runs too, but in the workdir where several hosts must see them."""
    shared = workdir / "encoded"
    return shared if hosts.several() or shared.exists() else cache / "encoded"


def dropped_text(corpus: Corpus) -> str:
    """What validation left out, as words."""
    reasons = [f"{count:,}, the first {corpus.examples[reason]}" for reason, count in corpus.dropped.items()]
    return "; left out " + "; ".join(reasons) if reasons else ""


def open_tokenizer(config: Config, preset: presets.Preset, corpus: Corpus | None, workdir: pathlib.Path) -> Tokenizer:
    """The preset's own tokenizer, or one trained on the corpus and kept in the workdir (then no corpus is needed)."""
    if preset.tokenizer_dir is not None:
        return load_tokenizer(preset.tokenizer_dir)
    home = workdir / "tokenizer"
    # One that stands there before the workdir is bound to its settings may be of a call that was given others.
    doubtful = hosts.first() and corpus is not None and not (workdir / RUN).exists()
    if doubtful or not (home / "tokenizer.json").exists():
        train_tokenizer(corpus, vocab_size=config.language_model.vocabulary).save(home)
    return load_tokenizer(home)


def open_model(
    config: Config, preset: presets.Preset, tokenizer: Tokenizer, store: TokenStore, *, dtype: jnp.dtype
) -> tuple[IndexerFunctions, Params, np.ndarray]:
    """The indexer with pretrained parts where the preset has them, random ones elsewhere.

    Returns:
      functions, parameters, and the reconstructor's number of each token id.
    """
    language_model = language_model_config(preset, tokenizer)
    counts = np.zeros(language_model.vocab_size, np.int64)
    seen = store.counts()
    counts[: len(seen)] = seen
    counts[list(tokenizer.special_ids)] = 0
    own_head = config.indexer.reconstructor.head == Head.OWN
    used = np.flatnonzero(counts) if own_head else np.arange(len(counts))
    if not len(used):
        raise UserError(f"{preset.tokenizer_dir}: this tokenizer knows no word of the documents; name a language model of their language")
    functions = IndexerFunctions(Indexer(config.indexer, language_model, words=len(used), dtype=dtype, stack=config.language_model.stack))
    params = functions.init(jax.random.key(config.seed))
    params |= pretrained_parts(preset)
    if own_head:
        # A head that starts at the corpus' word frequencies has only differences between documents left to learn.
        params["reconstructor"]["bias"] = jnp.log(jnp.asarray(counts[used] / counts.sum(), jnp.float32))
    words = np.zeros(len(counts), np.int32)
    words[used] = np.arange(len(used))
    return functions, params, words


def pretrained_parts(preset: presets.Preset) -> Params:
    """Embeddings, encoder and decoder, as far as the preset has weights of them."""
    if preset.weights_dir is None:
        return {}
    loaded = presets.load(preset)
    if isinstance(preset.config, BertConfig):
        loaded = {"encoder": loaded}
    return {part: loaded[part] for part in ("shared", "encoder", "decoder") if part in loaded}


def language_model_config(preset: presets.Preset, tokenizer: Tokenizer) -> T5Config | BertConfig:
    """A preset's size, with the vocabulary of the tokenizer that was trained for it."""
    if preset.tokenizer_dir is not None:
        return preset.config
    # Multiples of 128 suit matrix units; the surplus words never occur.
    return dataclasses.replace(preset.config, vocab_size=-(-tokenizer.vocab_size // 128) * 128)


def resolve_precision(asked: Precision) -> Precision:
    """Settle AUTO by measuring matmuls of both types on this machine."""
    if asked != Precision.AUTO:
        return asked
    return Precision.BFLOAT16 if gain_of_bfloat16() > WORTH_BFLOAT16 else Precision.FLOAT32


@contextlib.contextmanager
def held(workdir: pathlib.Path, *, console: Console) -> Iterator[None]:
    """No other command changes what is in a workdir meanwhile: it waits, and says so. Of several processes of one run the
    first holds it for all."""
    if not hosts.first():
        yield
        return
    note = f"another process works in {workdir}; waiting until it has ended"
    with locked(workdir / "workdir", waiting=lambda: console.warn(note)):
        yield


def read_run(workdir: pathlib.Path) -> dict | None:
    """What `bind` left in a workdir."""
    path = workdir / RUN
    if not path.exists():
        return None
    try:
        return unsealed(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a run's description ({error}); restore it or use another --workdir") from None


def bind(workdir: pathlib.Path, *, settings: dict, precision: str, config: object) -> None:
    """Bind a workdir to its settings, by a run.json that is written once, when the run starts; `config` is a dataclass."""
    hosts.barrier()
    if not hosts.first() or (workdir / RUN).exists():
        return
    content = {
        "version": __version__,
        "precision": precision,
        "settings": settings,
        "config": dataclasses.asdict(config),
        "jax": jax.__version__,
    }
    with replacing(workdir / RUN) as path:
        path.write_text(json.dumps(sealed(content), indent=1))
