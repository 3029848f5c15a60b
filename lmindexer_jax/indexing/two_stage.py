"""Two-stage indexers: first a vector for every document, then codes for the vectors. The rivals of the learned indexer.

Each gives codes (N, T) at the sizes of `indexer.codebook_sizes` (atomic apart), and keeps in `assigners/` what new
documents are coded by:

    encoder/           what made the vectors, where a language model did
    <position>/        the book of one position, of the kinds that learn theirs one after another
    rq-vae/            the rq-VAE's parameters
    meta.json          hash of all that and the vectors' width, written last

A book is kept as soon as it is there, so a killed run goes on at the position where it stopped.
"""

import contextlib
import dataclasses
import enum
import hashlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lmindexer_jax.console import Console, PlannedStage
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing
from lmindexer_jax.indexing import controls, hierarchical, product, residual, rqvae
from lmindexer_jax.indexing.assigners import content_hash
from lmindexer_jax.indexing.estimate import SHARE_OF_PEAK, kmeans_flops
from lmindexer_jax.indexing.recipe import Stage, StageKind
from lmindexer_jax.indexing.rqvae import RqVaeTraining
from lmindexer_jax.indexing.vectors import VectorsConfig
from lmindexer_jax.models.rqvae import RqVaeConfig
from lmindexer_jax.training import hosts, journal
from lmindexer_jax.training.checkpoint import Checkpoints, load_tree, save_tree

META = "meta.json"
ENCODER = "encoder"


class IndexerKind(enum.StrEnum):
    """Where the codes come from."""

    LEARNED = "learned"  # the method itself: by the language model, position by position
    HIERARCHICAL = "hierarchical"  # k-means within every cluster (DSI, NCI)
    RESIDUAL = "residual"  # k-means of what the codes before leave over
    RQVAE = "rqvae"  # an autoencoder with residual codes (TIGER)
    PRODUCT = "product"  # k-means of every block of dimensions
    RANDOM = "random"  # control: a hash of the document's id
    ATOMIC = "atomic"  # control: every document its own code, T = 1

    @property
    def has_vectors(self) -> bool:
        """Whether the codes are made of document vectors."""
        return self not in (IndexerKind.RANDOM, IndexerKind.ATOMIC)

    @property
    def has_books(self) -> bool:
        """Whether the positions' books are clustered one after another."""
        return self in (IndexerKind.HIERARCHICAL, IndexerKind.RESIDUAL, IndexerKind.PRODUCT)


@dataclasses.dataclass
class TwoStageConfig:
    """Settings of the two-stage indexers; `indexer_kind` chooses one."""

    vectors: VectorsConfig = dataclasses.field(default_factory=VectorsConfig)
    rqvae: RqVaeConfig = dataclasses.field(default_factory=RqVaeConfig)
    training: RqVaeTraining = dataclasses.field(default_factory=RqVaeTraining)  # of the rq-VAE


@dataclasses.dataclass
class TwoStage:
    """One two-stage run: what is fixed before it begins, and the seconds that its stages have taken."""

    workdir: pathlib.Path
    kind: IndexerKind
    config: TwoStageConfig
    sizes: tuple[int, ...]
    ids: Sequence[str]
    vectors: Float[np.ndarray, "N D"] | None  # None where the kind needs none
    dtype: jnp.dtype
    mesh: Any
    seed: int
    console: Console
    checkpoint_seconds: float
    fingerprint: str
    spent: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def directory(self) -> pathlib.Path:
        """Of what new documents are coded by."""
        return self.workdir / "assigners"


def code_sizes(kind: IndexerKind, sizes: Sequence[int], *, documents: int) -> tuple[int, ...]:
    """K of every position of a kind's codes."""
    return (documents,) if kind == IndexerKind.ATOMIC else tuple(sizes)


def plan(kind: IndexerKind, sizes: Sequence[int], training: RqVaeTraining, *, documents: int) -> list[Stage]:
    """The stages of a run; the controls have none."""
    if kind.has_books:
        return [Stage(f"position-{t + 1}/cluster", StageKind.CLUSTER, t) for t in range(len(sizes))]
    if kind == IndexerKind.RQVAE:
        steps = max(1, documents // training.batch_size) * training.epochs
        return [Stage(rqvae.STAGE, StageKind.QUANTISED, 0, steps=steps, epochs=training.epochs)]
    return []


def estimate(run: TwoStage, stages: list[Stage], *, rate: float) -> list[PlannedStage]:
    """Minutes of every stage at `rate` FLOP/s of a large matmul; the first guesses that the progress lines refine."""
    planned = []
    for stage in stages:
        documents, width = run.vectors.shape
        if stage.kind == StageKind.CLUSTER:
            share = 1 / len(run.sizes) if run.kind == IndexerKind.PRODUCT else 1
            flops = share * kmeans_flops(documents=documents, size=run.sizes[stage.position], width=width)
        else:
            widths = (width, *run.config.rqvae.hidden, run.config.rqvae.latent)
            weights = 2 * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
            weights += sum(run.sizes) * run.config.rqvae.latent
            flops = 6 * weights * documents * stage.epochs
        planned.append(PlannedStage(stage.name, stage.steps, flops / (rate * SHARE_OF_PEAK) / 60, flops=flops))
    return planned


def learn(run: TwoStage) -> Int[np.ndarray, "N T"]:
    """Do what is not done yet, and code all documents.

    Raises:
      UserError: vectors and settings do not go together.
    """
    check(run)
    if run.kind.has_books:
        learn_books(run)
    elif run.kind == IndexerKind.RQVAE:
        learn_rqvae(run)
    hosts.barrier()
    if not (run.directory / META).exists():
        run.directory.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps([run.kind, run.seed, list(run.sizes), run.fingerprint]).encode())
        for path in trees(run.directory):
            digest.update(content_hash(load_tree(path)).encode())
        hosts.barrier()
        if hosts.first():
            with replacing(run.directory / META) as path:
                width = None if run.vectors is None else run.vectors.shape[1]
                path.write_text(json.dumps({"model": digest.hexdigest()[:32], "width": width}))
        hosts.barrier()
    return code(run.kind, run.directory, run.vectors, ids=run.ids, sizes=run.sizes, config=run.config, seed=run.seed)


def check(run: TwoStage) -> None:
    """Refuse what cannot be done, in one line each."""
    largest = max(run.sizes)
    if run.kind in (IndexerKind.RESIDUAL, IndexerKind.PRODUCT) and largest > len(run.ids):
        raise UserError(f"indexer.codebook_sizes: {largest} codes for {len(run.ids):,} documents; give at most as many codes")


def trees(directory: pathlib.Path) -> list[pathlib.Path]:
    """The folders of `assigners/`, in the order of their names."""
    return sorted(path for path in directory.iterdir() if path.is_dir())


def model_hash(workdir: pathlib.Path) -> str:
    """What an ID table is bound to; a UserError where the run is not finished."""
    return read_meta(workdir / "assigners")["model"]


def read_meta(directory: pathlib.Path) -> dict:
    """What `learn` wrote when all was there."""
    path = directory / META
    if not path.exists():
        raise UserError(f"{path}: missing, the run has not ended yet; finish it first")
    return json.loads(path.read_text())


def learn_books(run: TwoStage) -> None:
    """One book after another, as far as they are not kept yet."""
    done = 0
    while (run.directory / str(done + 1) / "manifest.json").exists():
        done += 1
    stages = plan(run.kind, run.sizes, run.config.training, documents=len(run.ids))
    with (
        contextlib.closing(open_journal(run, resume_at=done)) as writer,
        run.console.progress(f"{run.kind} k-means", total=len(stages), unit="positions", start=done) as progress,
    ):
        for stage in stages[done:]:
            began = time.monotonic()
            tree = fit_book(run, stage.position)
            run.spent[stage.name] = time.monotonic() - began
            row = {"stage": stage.name, "kind": str(stage.kind), "position": stage.position + 1}
            writer.write(stage.position + 1, {"event": "stage", **row, "seconds": run.spent[stage.name]})
            save_tree(run.directory / str(stage.position + 1), tree)
            progress.advance()


def fit_book(run: TwoStage, position: int) -> dict[str, np.ndarray]:
    """The book of one position as a tree to keep; those before it are read."""
    key = jax.random.fold_in(jax.random.key(run.seed), position)
    above, size = read_books(run.kind, run.directory, position), run.sizes[position]
    if run.kind == IndexerKind.HIERARCHICAL:
        return hierarchical.fit(run.vectors, above, size=size, key=key)._asdict()
    if run.kind == IndexerKind.PRODUCT:
        return {"centres": product.fit(run.vectors, position, positions=len(run.sizes), size=size, key=key)}
    return {"centres": residual.fit(run.vectors, above, size=size, key=key)}


def read_books(kind: IndexerKind, directory: pathlib.Path, positions: int) -> list:
    """The first books, as the modules of their kinds know them."""
    kept = [load_tree(directory / str(position + 1)) for position in range(positions)]
    if kind == IndexerKind.HIERARCHICAL:
        return [hierarchical.Level(**tree) for tree in kept]
    return [tree["centres"] for tree in kept]


def learn_rqvae(run: TwoStage) -> None:
    """Train the rq-VAE, if that is not done yet."""
    home = run.directory / rqvae.STAGE
    if (home / "manifest.json").exists():
        open_journal(run, resume_at=run.config.training.epochs + 1).close()
        return
    with Checkpoints(run.workdir / "checkpoints") as checkpoints:
        fitted, run.spent[rqvae.STAGE] = rqvae.fit(
            run.vectors,
            sizes=run.sizes,
            config=run.config.rqvae,
            training=run.config.training,
            dtype=run.dtype,
            key=jax.random.key(run.seed),
            mesh=run.mesh,
            checkpoints=checkpoints,
            checkpoint_seconds=run.checkpoint_seconds,
            fingerprint=run.fingerprint,
            journal=lambda epoch: open_journal(run, resume_at=epoch),
            console=run.console,
        )
    save_tree(home, fitted._asdict())


def open_journal(run: TwoStage, *, resume_at: int) -> journal.Journal:
    """The journal, taken back to where the run stands, and the seconds that it tells of."""
    writer = journal.Journal(run.workdir, resume_at=resume_at)
    seen = journal.read(run.workdir / "metrics.jsonl")
    run.spent.update({row["stage"]: row["seconds"] for row in seen if row.get("event") == "stage"})
    return writer


def code(
    kind: IndexerKind,
    directory: pathlib.Path,
    vectors: Float[np.ndarray, "N D"] | None,
    *,
    ids: Sequence[str],
    sizes: Sequence[int],
    config: TwoStageConfig,
    seed: int,
) -> Int[np.ndarray, "N T"]:
    """Codes of documents, known or new, by what a run has kept in `directory`.

    A document gets the same codes alone as in any company: by its vector, or as a random control by its id. Atomic codes
    number the documents in their order.

    Raises:
      UserError: the vectors are wider or narrower than those that the run learned from.
    """
    width = read_meta(directory)["width"]
    if vectors is not None and vectors.shape[1] != width:
        raise UserError(f"vectors of {vectors.shape[1]} numbers, but the run was made of vectors of {width}; use the same encoder")
    if kind == IndexerKind.RANDOM:
        return controls.random_codes(ids, sizes, seed=seed)
    if kind == IndexerKind.ATOMIC:
        return controls.atomic_codes(len(ids))
    if kind == IndexerKind.RQVAE:
        return rqvae.code(vectors, rqvae.Fitted(**load_tree(directory / rqvae.STAGE)), config=config.rqvae)
    books = read_books(kind, directory, len(sizes))
    if kind == IndexerKind.HIERARCHICAL:
        return hierarchical.code(vectors, books)[0]
    return product.code(vectors, books) if kind == IndexerKind.PRODUCT else residual.code(vectors, books)[0]
