"""One run of the recommender: read, train, evaluate, write.

A user's last item is the test, the last but one is for validation; all items are ranked, with the user's history among
them and without it, and counted as items and as IDs.
"""

import dataclasses
import enum
import hashlib
import json
import pathlib
import time

import jax
import numpy as np
from jaxtyping import Float

from lmindexer_jax import config as settings
from lmindexer_jax import protocol, text_history
from lmindexer_jax.console import Console, Mode, PlannedStage
from lmindexer_jax.data.cache import keep_compiled
from lmindexer_jax.data.embeddings import content_hash
from lmindexer_jax.data.interactions import Sequences, leave_one_out, read_interactions
from lmindexer_jax.data.packing import Spans, TrainingRows
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation.id_quality import prefix_ids
from lmindexer_jax.files import load_array, replacing
from lmindexer_jax.indexing import id_lines, id_table
from lmindexer_jax.indexing.assign import start_vectors
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models.recommender import Head, Params, RecommenderConfig
from lmindexer_jax.prepare import bind, prepare, read_run
from lmindexer_jax.retrieval.objective import TrainingConfig, make_objective
from lmindexer_jax.retrieval.popularity import Popularity
from lmindexer_jax.retrieval.recommendation import Rank
from lmindexer_jax.retrieval.recommender import Recommender, make
from lmindexer_jax.retrieval.text_recommender import TextRecommender
from lmindexer_jax.text_history import ReaderConfig, open_reader
from lmindexer_jax.training import hosts
from lmindexer_jax.training.fit import Fit, fit
from lmindexer_jax.training.hosts import HostsConfig
from lmindexer_jax.training.optim import paths
from lmindexer_jax.training.sharding import MeshConfig, make_mesh, own_rows
from lmindexer_jax.typed import from_dict

# What may change between two calls on one workdir. Where the data lie is free, what they are is not.
FREE = ("ids", "interactions", "embeddings", "exact_users", "mesh", "hosts", "checkpoint_seconds", "profile", "console")
EVERYTHING = ((".*", 1.0),)  # moves at the full rate
UNREAD_OF_TEXT = ("model.", "training.negatives", "training.validate_every")


class Method(enum.StrEnum):
    """How the next item is found."""

    GENERATIVE = "generative"  # items are read, the next one's semantic ID is generated
    FLATTENED = "flattened"  # the same, but their codes are read one after the other (TIGER, Rajput et al., 2023)
    TEXT = "text"  # the texts of items are read by a language model, which emits the ID (LMIndexer, 2024)
    SASREC = "sasrec"  # a softmax over all items (Kang and McAuley, 2018)
    POPULARITY = "popularity"  # what occurs most often in training: no model


HEADS = {Method.GENERATIVE: Head.CODES, Method.FLATTENED: Head.FLATTENED, Method.SASREC: Head.ITEMS}


@dataclasses.dataclass
class RecommendConfig:
    """One run of `lmindexer_jax.recommend`."""

    ids: str = ""  # the workdir of a finished indexer, the folder of an ID table, or a JSONL file of IDs: the catalogue
    interactions: str = ""  # user TAB document ids in time order
    embeddings: str = ""  # .npy with a row of text embedding per document of the table; "" = the indexer's encoder
    method: Method = Method.GENERATIVE
    model: RecommenderConfig = dataclasses.field(default_factory=RecommenderConfig)
    reader: ReaderConfig = dataclasses.field(default_factory=ReaderConfig)  # in place of the model, where text is read
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    beams: int = 30
    exact_users: int = 256  # of the test, for whom all IDs are scored as well, to see what the beam misses
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    seed: int = 0
    checkpoint_seconds: float = 60.0
    profile: int = 0  # steps whose trace is kept in profile/
    console: Mode = Mode.AUTO


def execute(config: RecommendConfig, workdir: pathlib.Path, *, console: Console) -> dict:
    """Train, or go on with it, evaluate and write summary.json, recommender/ and test.run.

    Returns:
      the summary.

    Raises:
      UserError: anything the user can mend.
    """
    keep_compiled("")
    check(config)
    table = open_table(config.ids)
    splits = leave_one_out(*read_interactions(pathlib.Path(config.interactions), table.ids.to_pylist()))
    with hosts.first_goes_ahead():
        workdir.mkdir(parents=True, exist_ok=True)
        old = read_run(workdir)
    train = splits["train"]
    again = f"; {splits['test'].repeats.mean():.1%} of the test items stand in the history before them"
    console.note(f"{len(table):,} items, {len(train):,} users, {len(train.items):,} items to train on{again}")
    text, reader = None, None
    if config.method == Method.TEXT:
        reader = open_reader(config.reader, pathlib.Path(config.ids), table, workdir, beams=config.beams, seed=config.seed)
    elif config.method != Method.POPULARITY and config.model.read_text:
        text = open_embeddings(config, table, console=console)
    known = describe(config, table, splits["test"], text, reader)
    hosts.agree(settings.fingerprint(known), what="settings, IDs or interactions")
    if old:
        defaults = flatten(RecommendConfig(method=config.method))
        settings.refuse_change(old["settings"], known, defaults=defaults, workdir=str(workdir))
        known = old["settings"]
    else:
        bind(workdir, settings=known, precision="float32", config=config)
    if not hosts.said_by_first("done" if (workdir / "summary.json").exists() else ""):
        started = time.monotonic()
        rank = learn(config, table, splits, text, reader, workdir, settings.fingerprint(known), console=console)
        if hosts.first():
            with hosts.alone():
                conclude(config, rank, table, splits, workdir, started=started)
        hosts.barrier()
    summary = json.loads((workdir / "summary.json").read_text())
    protocol.show(summary, console=console)
    console.success(f"summary in {workdir / 'summary.json'}")
    return summary


def learn(
    config: RecommendConfig,
    table: IdTable,
    splits: dict[str, Sequences],
    text: Float[np.ndarray, "N E"] | None,
    reader: TextRecommender | None,
    workdir: pathlib.Path,
    fingerprint: str,
    *,
    console: Console,
) -> Rank:
    """What ranks items after a history: trained, and kept in `recommender/`, where it has parameters."""
    if config.method == Method.POPULARITY:
        return Popularity(splits["train"].counts(len(table))).rank
    if reader is None:
        recommender = make(config.model, HEADS[config.method], table, text, beams=config.beams)
        recommender = trained(config, recommender, splits, workdir, fingerprint, console=console)
    else:
        recommender = text_history.trained(
            reader,
            splits["train"],
            config=config.training,
            workdir=workdir,
            mesh=make_mesh(config.mesh),
            seed=config.seed,
            console=console,
            checkpoint_seconds=config.checkpoint_seconds,
            profile=config.profile,
        )
    recommender.save(workdir / "recommender")
    return recommender.rank


def conclude(
    config: RecommendConfig, rank: Rank, table: IdTable, splits: dict[str, Sequences], workdir: pathlib.Path, *, started: float
) -> None:
    """Evaluate, and write the ranked items of the test and summary.json."""
    exact: dict[str, float] = {}
    if config.method not in (Method.SASREC, Method.POPULARITY) and config.exact_users:
        exact = protocol.agreement(rank, splits["test"], count=config.exact_users)
    groups, counts = prefix_ids(table.codes)[:, -1], splits["train"].counts(len(table))
    summary = {"method": config.method, "items": len(table), "users": len(splits["test"]), "seed": config.seed}
    for name in ("validation", "test"):
        summary[name], ranked = protocol.evaluate(rank, splits[name], groups, counts)
    protocol.write_files(workdir, ranked, splits["test"], table, tag=config.method)
    summary |= {"beam": exact, "minutes": (time.monotonic() - started) / 60, "device": jax.devices()[0].device_kind}
    with replacing(workdir / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=1))


def check(config: RecommendConfig) -> None:
    """Refuse settings without a meaning, in one line each."""
    for name in ("ids", "interactions"):
        if not getattr(config, name):
            raise UserError(f"{name} is not set; give it as --config.{name}=...")
    for name in ("item_tokens", "tokens"):
        if getattr(config.reader, name) < 4:
            raise UserError(f"reader.{name}={getattr(config.reader, name)}: give at least 4")
    model = config.model
    if not (model.read_id or model.read_text or model.read_codes):
        raise UserError("the model reads nothing of an item; set model.read_id, model.read_text or model.read_codes")
    if config.method == Method.FLATTENED and not model.read_codes:
        raise UserError("a flattened history is one of codes; set model.read_codes")
    if config.method == Method.SASREC and model.dense:
        raise UserError("SASRec compares vectors alone; model.dense is for methods that generate IDs")
    if model.width % model.heads:
        raise UserError(f"model.width={model.width} does not divide by model.heads={model.heads}")
    training = config.training
    at_least = {
        "model.length": (model.length, 1),
        "training.epochs": (training.epochs, 1),
        "training.batch_size": (training.batch_size, 1),
        "training.negatives": (training.negatives, 0),
        "training.validate_every": (training.validate_every, 1),
        "beams": (config.beams, 1),
    }
    for name, (value, least) in at_least.items():
        if value < least:
            raise UserError(f"{name}={value}: give at least {least}")


def open_table(ids: str) -> IdTable:
    """The ID table of a finished indexer's workdir, of a folder that holds one, or made of a file of IDs (`id_lines`)."""
    folder = pathlib.Path(ids)
    if folder.is_file():
        names, codes = id_lines.read_all(folder)
        sizes = tuple((codes.max(axis=0) + 1).tolist())
        return id_table.build(names, codes, id_table.Manifest({}, "", content_hash(folder), sizes))
    return id_table.load(folder / "ids" if (folder / "ids").is_dir() else folder)


def open_embeddings(config: RecommendConfig, table: IdTable, *, console: Console) -> Float[np.ndarray, "N E"]:
    """Text embeddings of the table's documents: given, or by the encoder that the indexer started from.

    Raises:
      UserError: no such file, no indexer's workdir, or documents that the indexer's corpus lacks.
    """
    if config.embeddings:
        path = pathlib.Path(config.embeddings)
        if not path.is_file():
            raise UserError(f"{path}: no such file; give a .npy file with one row for each document of the ID table")
        try:
            text = load_array(path, mapped=True)
        except ValueError as error:
            raise UserError(f"{path}: not a .npy array ({error})") from None
        if text.ndim != 2 or len(text) != len(table):
            raise UserError(f"{path}: an array of shape {text.shape}; give one row for each of {len(table):,} documents")
        return text
    workdir = pathlib.Path(config.ids)
    run = read_run(workdir)
    if run is None:
        raise UserError(f"{workdir}: no indexer's run, so no encoder; give --config.embeddings, or --config.model.read_text=false")
    indexer = from_dict(settings.Config, run["config"])
    prepared = prepare(indexer, workdir, console=console)
    if prepared.corpus.ids().to_pylist() != table.ids.to_pylist():
        raise UserError(f"{workdir}: its ID table has documents that its corpus lacks; give --config.embeddings")
    if prepared.inputs.pooled is not None:
        return prepared.inputs.pooled
    return start_vectors(prepared.functions, prepared.params, prepared.inputs, console=console)


def flatten(config: RecommendConfig) -> dict[str, object]:
    """Settings by dotted name, without the free ones and those that this method does not read."""
    flat = {name.replace("/", "."): value for name, value in paths(dataclasses.asdict(config)).items()}
    unread = UNREAD_OF_TEXT if config.method == Method.TEXT else ("reader.",)
    return {name: value for name, value in flat.items() if not name.startswith((*FREE, *unread))}


def describe(
    config: RecommendConfig,
    table: IdTable,
    test: Sequences,
    text: Float[np.ndarray, "N E"] | None,
    reader: TextRecommender | None,
) -> dict[str, object]:
    """What determines the result, by name: settings, and the content of what the run reads."""
    flat = flatten(config)
    contents = {
        "IDs": (table.full_ids, np.asarray(table.ids.to_pylist())),
        "interactions": (test.items, test.offsets),
        "text embeddings": () if text is None else (text,),
    }
    if reader is not None:
        contents["item texts"] = reader.tokens.flat, reader.tokens.offsets
    for name, arrays in contents.items():
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        flat[f"{name} content"] = digest.hexdigest()[:16]
    return flat


def trained(
    config: RecommendConfig,
    recommender: Recommender,
    splits: dict[str, Sequences],
    workdir: pathlib.Path,
    fingerprint: str,
    *,
    console: Console,
) -> Recommender:
    """The recommender after all epochs; validated on all users now and then."""
    train = splits["train"]
    rows = TrainingRows(
        train.items,
        Spans(train.offsets[:-1], train.offsets[1:]),
        length=config.model.length,
        batch_size=config.training.batch_size,
        epochs=config.training.epochs,
        seed=config.seed,
        read_targets=config.method == Method.FLATTENED,
    )
    if not rows.targets:
        raise UserError("no user has two items to train on")
    console.plan(f"{rows.targets:,} next items in {config.training.epochs} epochs", [PlannedStage("train", rows.steps)])

    ends = {end: epoch for epoch, end in enumerate(rows.epoch_ends(), start=1)}

    def look(taken: int, params: Params) -> dict[str, object]:
        rank = dataclasses.replace(recommender, params=params).rank
        return {"epoch": ends[taken], **protocol.glance(rank, splits["validation"])}

    mesh = make_mesh(config.mesh)
    mine = own_rows(config.training.batch_size, mesh)
    root = jax.random.key(config.seed)
    run = Fit(
        directory=workdir,
        name="train",
        objective=make_objective(recommender.functions, config.training),
        memory={"catalogue": recommender.catalogue},
        optim=config.training.optim,
        rules=EVERYTHING,
        steps=rows.steps,
        batches=lambda begin: rows.batches(start=begin, rows=mine),
        key=jax.random.fold_in(root, 1),
        mesh=mesh,
        fingerprint=fingerprint,
        checkpoint_seconds=config.checkpoint_seconds,
        profile=config.profile,
        console=console,
        look_after={end for end, epoch in ends.items() if epoch % config.training.validate_every == 0 or end == rows.steps},
        look=look,
    )
    params = recommender.functions.init(jax.random.fold_in(root, 0), recommender.catalogue)
    return dataclasses.replace(recommender, params=fit(run, params))
