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
from lmindexer_jax.console import Console, Mode, PlannedStage
from lmindexer_jax.data.cache import keep_compiled
from lmindexer_jax.data.interactions import Sequences, leave_one_out, read_interactions
from lmindexer_jax.data.packing import Spans, TrainingRows
from lmindexer_jax.data.qrels import one_each
from lmindexer_jax.data.trec import write_qrels, write_run
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation import ranking
from lmindexer_jax.evaluation.id_quality import prefix_ids
from lmindexer_jax.files import load_array, replacing
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.assign import start_vectors
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models.recommender import Head, RecommenderConfig
from lmindexer_jax.prepare import bind, prepare, read_run
from lmindexer_jax.retrieval.fit import Fit, TrainingConfig, fit
from lmindexer_jax.retrieval.popularity import Popularity
from lmindexer_jax.retrieval.recommender import Recommender, make
from lmindexer_jax.retrieval.topk import Ranked
from lmindexer_jax.training.optim import paths
from lmindexer_jax.training.sharding import MeshConfig, make_mesh
from lmindexer_jax.typed import from_dict

CUTOFFS = (5, 10)
KEPT = 10  # items of each user that are evaluated and written
PROTOCOLS = {"history kept": False, "history excluded": True}

# What may change between two calls on one workdir. Where the data lie is free, what they are is not.
FREE = ("ids", "interactions", "embeddings", "exact_users", "mesh", "checkpoint_seconds", "console")


class Method(enum.StrEnum):
    """How the next item is found."""

    GENERATIVE = "generative"  # items are read, the next one's semantic ID is generated
    FLATTENED = "flattened"  # the same, but their codes are read one after the other (TIGER, Rajput et al., 2023)
    SASREC = "sasrec"  # a softmax over all items (Kang and McAuley, 2018)
    POPULARITY = "popularity"  # what occurs most often in training: no model


HEADS = {Method.GENERATIVE: Head.CODES, Method.FLATTENED: Head.FLATTENED, Method.SASREC: Head.ITEMS}


@dataclasses.dataclass
class RecommendConfig:
    """One run of `lmindexer_jax.recommend`."""

    ids: str = ""  # the workdir of a finished indexer, or the folder of an ID table: the catalogue
    interactions: str = ""  # user TAB document ids in time order
    embeddings: str = ""  # .npy with a row of text embedding per document of the table; "" = the indexer's encoder
    method: Method = Method.GENERATIVE
    model: RecommenderConfig = dataclasses.field(default_factory=RecommenderConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    beams: int = 30
    exact_users: int = 256  # of the test, for whom all IDs are scored as well, to see what the beam misses
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    seed: int = 0
    checkpoint_seconds: float = 60.0
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
    workdir.mkdir(parents=True, exist_ok=True)
    table = open_table(config.ids)
    splits = leave_one_out(*read_interactions(pathlib.Path(config.interactions), table.ids.to_pylist()))
    train = splits["train"]
    console.note(f"{len(table):,} items, {len(train):,} users, {len(train.items):,} items to train on")
    text = None
    if config.method != Method.POPULARITY and config.model.read_text:
        text = open_embeddings(config, table, console=console)
    known = describe(config, table, splits["test"], text)
    if old := read_run(workdir):
        settings.refuse_change(old["settings"], known, workdir=str(workdir))
    else:
        bind(workdir, settings=known, precision="float32", config=config)
    if (workdir / "summary.json").exists():
        summary = json.loads((workdir / "summary.json").read_text())
        show(summary, console=console)
        return summary

    groups = prefix_ids(table.codes)[:, -1]
    started = time.monotonic()
    exact: dict[str, float] = {}
    if config.method == Method.POPULARITY:
        rank = popularity_ranking(train, len(table))
    else:
        recommender = make(config.model, HEADS[config.method], table, text, beams=config.beams)
        recommender = trained(config, recommender, splits, workdir, settings.fingerprint(known), console=console)
        recommender.save(workdir / "recommender")
        rank = recommender.rank
        if config.method != Method.SASREC and config.exact_users:
            exact = agreement(recommender, splits["test"], count=config.exact_users)
    summary = {"method": config.method, "items": len(table), "users": len(splits["test"]), "seed": config.seed}
    for name in ("validation", "test"):
        scores, ranked = evaluate(rank, splits[name], groups)
        summary[name] = scores
    write_files(workdir, ranked, splits["test"], table, tag=config.method)
    summary |= {"beam": exact, "minutes": (time.monotonic() - started) / 60, "device": jax.devices()[0].device_kind}
    with replacing(workdir / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=1))
    show(summary, console=console)
    console.success(f"summary in {workdir / 'summary.json'}")
    return summary


def check(config: RecommendConfig) -> None:
    """Refuse settings without a meaning, in one line each."""
    for name in ("ids", "interactions"):
        if not getattr(config, name):
            raise UserError(f"{name} is not set; give it as --config.{name}=...")
    model = config.model
    if not (model.read_id or model.read_text or model.read_codes):
        raise UserError("the model reads nothing of an item; set model.read_id, model.read_text or model.read_codes")
    if config.method == Method.FLATTENED and not model.read_codes:
        raise UserError("a flattened history is one of codes; set model.read_codes")
    if model.width % model.heads:
        raise UserError(f"model.width={model.width} does not divide by model.heads={model.heads}")
    for name, value in (("model.length", model.length), ("training.epochs", config.training.epochs), ("beams", config.beams)):
        if value < 1:
            raise UserError(f"{name}={value}: give at least 1")


def open_table(ids: str) -> IdTable:
    """The ID table of a finished indexer's workdir, or of a folder that holds one."""
    folder = pathlib.Path(ids)
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


def describe(
    config: RecommendConfig, table: IdTable, test: Sequences, text: Float[np.ndarray, "N E"] | None
) -> dict[str, object]:
    """What determines the result, by name: settings, and the content of what the run reads."""
    flat = {name.replace("/", "."): value for name, value in paths(dataclasses.asdict(config)).items()}
    flat = {name: value for name, value in flat.items() if not name.startswith(FREE)}
    contents = {
        "IDs": (table.full_ids, np.asarray(table.ids.to_pylist())),
        "interactions": (test.items, test.offsets),
        "text embeddings": () if text is None else (text,),
    }
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

    def look(params: dict) -> dict[str, float]:
        at_hand = dataclasses.replace(recommender, params=params)
        ranked = at_hand.rank(*splits["validation"].histories, count=KEPT, exclude_seen=False)
        means = ranking.means(ranking.evaluate(ranked.rows, one_each(splits["validation"].targets), cutoffs=CUTOFFS))
        return {name: means[name] for name in shown()}

    run = Fit(
        workdir=workdir,
        functions=recommender.functions,
        config=config.training,
        rows=rows,
        catalogue=recommender.catalogue,
        mesh=make_mesh(config.mesh),
        seed=config.seed,
        console=console,
        look=look,
        checkpoint_seconds=config.checkpoint_seconds,
        fingerprint=fingerprint,
    )
    return dataclasses.replace(recommender, params=fit(run))


def popularity_ranking(train: Sequences, documents: int):
    """`Recommender.rank` of popularity; a list is long enough to be left with items when a history is taken out."""
    popular = Popularity(train.counts(documents))

    def rank(items, offsets, *, count: int, exclude_seen: bool) -> Ranked:
        longest = int(np.diff(offsets).max()) if exclude_seen else 0
        best = popular.search(range(1), k=min(documents, count + longest))
        out = Ranked(np.full((len(offsets) - 1, count), -1), np.full((len(offsets) - 1, count), -np.inf, np.float32))
        for user, (first, last) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
            left = ~np.isin(best.rows[0], items[first:last]) if exclude_seen else best.rows[0] >= 0
            for array, values in zip(out, (best.rows[0], best.scores[0]), strict=True):
                array[user, : min(count, left.sum())] = values[left][:count]
        return out

    return rank


def evaluate(rank, users: Sequences, groups: np.ndarray) -> tuple[dict, dict[str, Ranked]]:
    """Means at item and ID level under both protocols, and the ranked items."""
    judged = one_each(users.targets)
    out, kept = {}, {}
    for protocol, exclude in PROTOCOLS.items():
        ranked = rank(*users.histories, count=KEPT, exclude_seen=exclude)
        items = ranking.means(ranking.evaluate(ranked.rows, judged, cutoffs=CUTOFFS))
        ids = ranking.means(ranking.evaluate_ids(ranked.rows, judged, cutoffs=CUTOFFS, groups=groups))
        out[protocol] = {"items": {m: items[m] for m in shown()}, "ids": {m: ids[m] for m in shown()}}
        kept[protocol] = ranked
    return out, kept


def shown() -> list[str]:
    """The metrics that are reported."""
    return [f"{name}@{k}" for k in CUTOFFS for name in ("recall", "ndcg")]


def agreement(recommender: Recommender, users: Sequences, *, count: int) -> dict[str, float]:
    """For `count` users, evenly spaced: how often the beam's items are those of the whole catalogue, in their order."""
    items, offsets = users.histories
    chosen = np.unique(np.linspace(0, len(users) - 1, min(count, len(users))).astype(np.int64))
    parts = [items[offsets[user] : offsets[user + 1]] for user in chosen]
    some = np.concatenate(parts), np.r_[0, np.cumsum([len(part) for part in parts])]
    beam, every = (recommender.rank(*some, count=KEPT, exclude_seen=False, every_id=exact).rows for exact in (False, True))
    return {
        "users": len(chosen),
        "same_first": float(np.mean(beam[:, 0] == every[:, 0])),
        f"same_{KEPT}": float(np.mean((beam == every).all(1))),
    }


def write_files(workdir: pathlib.Path, ranked: dict[str, Ranked], users: Sequences, table: IdTable, *, tag: str) -> None:
    """The test's ranked items as TREC run files, and its judgements."""
    names, documents = [str(user) for user in users.users], table.ids.to_pylist()
    for protocol, found in ranked.items():
        path = workdir / f"test-{protocol.replace(' ', '-')}.run"
        write_run(path, found.rows, found.scores, queries=names, documents=documents, tag=tag)
    write_qrels(workdir / "test.qrels", one_each(users.targets), queries=names, documents=documents)


def show(summary: dict, *, console: Console) -> None:
    """The closing table."""
    rows = [
        (split, protocol, level, *(summary[split][protocol][level][metric] for metric in shown()))
        for split in ("validation", "test")
        for protocol in PROTOCOLS
        for level in ("items", "ids")
    ]
    console.table(f"{summary['method']}: {summary['users']:,} users", ("split", "protocol", "level", *shown()), rows)
