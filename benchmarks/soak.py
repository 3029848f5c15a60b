"""Kills a tiny run at random moments, again and again, and shows that it ends as if nobody had; progress, then one JSON object.

    python benchmarks/soak.py [--kind rqvae] [--rounds 30] [--seed 0] [--minutes 0]

A round is one SIGKILL: a process of its own goes on with the run, and dies at a moment drawn from a span that is widened
until about one process in four comes to the end of the run before, so that every part of it is hit: building the corpus,
training, writing a checkpoint, writing the IDs. An rq-VAE of given vectors is the cheapest run with checkpoints; `--kind
learned` trains the language model as well. A run that comes to its end is held against the undisturbed one, byte by byte,
and the next begins with empty caches.
After every kill no checkpoint may be lost that was there before, and an ID table that is there must be the right one.
Compiled functions alone are kept, so that a round takes seconds. The exit code is 1 if anything differs.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

import numpy as np
from token_store import write_documents

from lmindexer_jax.config import Config, Precision
from lmindexer_jax.console import Console, run_main
from lmindexer_jax.files import save_array
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.indexing.vectors import VectorSource
from lmindexer_jax.recipes import ours
from lmindexer_jax.training import journal
from lmindexer_jax.training.checkpoint import Checkpoints

DOCUMENTS, WIDTH = 48, 16
TOLD_EVERY = 10  # rounds
WIDER, NARROWER = 1.07, 0.8  # what a kill and what the end of a run do to the span: one in four ends, on a busy machine too
IMPORTED = ("lmindexer_jax.run", "orbax.checkpoint.v1", "sklearn.feature_extraction.text", "scipy.stats")


def write_inputs(folder: pathlib.Path) -> None:
    """Documents, and vectors for them."""
    write_documents(folder / "documents.jsonl", DOCUMENTS)
    save_array(folder / "vectors.npy", np.random.default_rng(0).normal(size=(DOCUMENTS, WIDTH)).astype(np.float32))


def settings(folder: pathlib.Path, kind: IndexerKind) -> Config:
    """The project's recipe, or an rq-VAE, on the least of everything, with a checkpoint after every step or epoch."""
    config = ours("tiny")
    config.indexer_kind = kind
    config.corpus.path, config.corpus.cache_dir = str(folder / "documents.jsonl"), str(folder / "cache")
    config.language_model.vocabulary, config.language_model.max_length = 384, 16
    config.indexer.codebook_sizes = (8, 8)
    for position in (config.recipe.first, config.recipe.later):
        position.continuous_epochs, position.batch_size = 0.0, 16
    config.two_stage.rqvae.hidden, config.two_stage.rqvae.latent = (16,), 8
    config.two_stage.training.epochs, config.two_stage.training.batch_size = 8, 16
    if kind == IndexerKind.RQVAE:
        config.two_stage.vectors.source, config.two_stage.vectors.path = VectorSource.FILE, str(folder / "vectors.npy")
    config.precision, config.checkpoint_seconds, config.baseline = Precision.FLOAT32, 0.0, False
    return config


def go_on(config: Config, workdir: pathlib.Path) -> None:
    """What the command does, in a process that may die."""
    from lmindexer_jax.run import execute

    run_main(lambda: execute(config, workdir, console=Console.silent()))


@dataclasses.dataclass
class Soak:
    """Rounds so far, and what was wrong in them."""

    folder: pathlib.Path
    kind: IndexerKind
    seed: int
    wanted: dict[str, object] = dataclasses.field(default_factory=dict)  # what the undisturbed run ended with
    span: float = 0.0  # seconds within which a process is killed
    rounds: int = 0
    runs: int = 0  # that came to their end, each after kills
    lost: int = 0  # documents without an ID
    changed: int = 0  # documents with another ID
    faults: list[str] = dataclasses.field(default_factory=list)
    resumed: set[int] = dataclasses.field(default_factory=set)  # checkpoints that were the newest after a kill

    def __post_init__(self):
        self.workdir = self.folder / "run"
        self._processes = multiprocessing.get_context("forkserver")  # each starts with everything imported
        self._processes.set_forkserver_preload(list(IMPORTED))
        self._random = random.Random(self.seed)

    def start_afresh(self) -> None:
        """Forget the run and whatever was prepared for it."""
        for path in (self.workdir, self.folder / "cache"):
            shutil.rmtree(path, ignore_errors=True)

    def go(self, seconds: float | None = None) -> bool:
        """Go on with the run, for so many seconds at most; whether it came to its end."""
        config = settings(self.folder, self.kind)
        process = self._processes.Process(target=go_on, args=(config, self.workdir), daemon=True)
        process.start()
        process.join(seconds)
        alive = process.is_alive()
        process.kill()
        process.join()
        if not alive and process.exitcode:
            self.faults.append(f"round {self.rounds}: exit code {process.exitcode}")
        return not alive

    def undisturbed(self) -> None:
        """Two runs that nobody disturbs: one to compile, which all others are held against, and one by the clock."""
        for _ in range(2):
            self.start_afresh()
            started = time.monotonic()
            self.go()
            self.span = time.monotonic() - started
            if self.faults:
                return
            self.wanted = self.wanted or content(self.workdir)
        self.hold_against()
        self.start_afresh()

    def kill(self) -> None:
        """One round."""
        before, self.rounds = self.newest(), self.rounds + 1
        while self.go(self._random.uniform(0.0, self.span)):  # it was faster than its killer
            if not self.faults:
                self.hold_against()
            if self.faults:
                return
            self.runs += 1
            self.span *= NARROWER
            self.start_afresh()
            before = -1
        self.span *= WIDER
        after = self.newest()
        if after < before:
            self.faults.append(f"round {self.rounds}: checkpoint {before} is gone, the newest is {after}")
        self.resumed.add(after)
        if (self.workdir / "ids" / id_table.MANIFEST).exists():
            self.compare_ids()

    def newest(self) -> int:
        """The number of the newest checkpoint; -1 without any."""
        with Checkpoints(self.workdir / "checkpoints") as checkpoints:
            return max(checkpoints.steps(), default=-1)

    def compare_ids(self) -> None:
        """Count documents whose ID is gone or another."""
        found, wanted = ids(self.workdir), self.wanted["table"]
        lost = len(wanted.keys() - found.keys())
        changed = sum(found[name] != text for name, text in wanted.items() if name in found)
        self.lost, self.changed = self.lost + lost, self.changed + changed
        if lost or changed:
            self.faults.append(f"round {self.rounds}: {lost} lost, {changed} changed")

    def hold_against(self) -> None:
        """Compare a run that came to its end with the undisturbed one."""
        self.compare_ids()
        found = content(self.workdir)
        for name in sorted(found.keys() | self.wanted.keys()):
            if found.get(name) != self.wanted.get(name):
                self.faults.append(f"round {self.rounds}: {name} is another than that of the undisturbed run")

    def tell(self) -> None:
        """One line."""
        print(f"round {self.rounds}: {self.runs} runs ended, {self.lost} IDs lost, {self.changed} changed", file=sys.stderr, flush=True)


def ids(workdir: pathlib.Path) -> dict[str, str]:
    """Full ID of every document of a table that is whole."""
    table = id_table.load(workdir / "ids")
    return dict(zip(table.ids.to_pylist(), table.texts.to_pylist(), strict=True))


def content(workdir: pathlib.Path) -> dict[str, object]:
    """What must be the same: the files with the IDs to the byte, and all that was measured but times."""
    files = [workdir / "ids.json", *sorted((workdir / "ids").iterdir())]
    rows = list(journal.read(workdir / "metrics.jsonl"))
    measured = [{name: value for name, value in row.items() if name not in ("time", "seconds")} for row in rows]
    return {file.name: file.read_bytes() for file in files} | {"metrics.jsonl": measured, "table": ids(workdir)}


def main() -> None:
    """Kill, count, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", type=IndexerKind, choices=(IndexerKind.RQVAE, IndexerKind.LEARNED), default=IndexerKind.RQVAE)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0, help="after which no further round begins; 0 sets no limit")
    flags = parser.parse_args()
    started = time.monotonic()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="soak-"))
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    write_inputs(folder)
    soak = Soak(folder, flags.kind, flags.seed)
    soak.undisturbed()
    whole = round(soak.span, 1)
    while not soak.faults and soak.rounds < flags.rounds:
        if 0 < flags.minutes < (time.monotonic() - started) / 60:
            break
        soak.kill()
        if soak.rounds % TOLD_EVERY == 0:
            soak.tell()
    result = {"benchmark": "soak", "kind": str(soak.kind), "documents": DOCUMENTS, "seconds_of_a_whole_run": whole}
    result |= {"rounds": soak.rounds, "runs_ended": soak.runs, "resumed_at": len(soak.resumed), "lost": soak.lost, "changed": soak.changed}
    result |= {"faults": soak.faults, "minutes": round((time.monotonic() - started) / 60, 1)}
    print(json.dumps(result | ({"evidence": str(folder)} if soak.faults else {})))
    if soak.faults:
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
