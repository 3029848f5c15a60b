"""Retrievers and recommenders trained by several processes: what one process learns, also after a death."""

import json
import os
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import runs
from processes import Group

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.retrieval.recommender import Recommender
from lmindexer_jax.retrieval.searcher import Searcher
from lmindexer_jax.run import execute as learn
from lmindexer_jax.training import journal
from lmindexer_jax.training.checkpoint import load_tree

MINUTES = 8 * 60
FIRST = 12  # steps, before the last bits of sums have grown
CALL = """
import sys
from lmindexer_jax import {program}
{change}
{program}.run()
"""
CHANGE = {"finetune": "from lmindexer_jax.indexing import encode; encode.PART = 16", "recommend": ""}  # all have a part
CONFIG = """
from lmindexer_jax.models.recommender import RecommenderConfig
from lmindexer_jax.next_item import Method, RecommendConfig

def get_config(variant=""):
    out = RecommendConfig({ids!r}, {users!r}, method=Method(variant), exact_users=8, checkpoint_seconds=0.5)
    out.model = RecommenderConfig(width=16, layers=1, heads=2, hidden=16, dropout=0.1, length=8, dense=variant == "generative")
    out.reader.language_model, out.reader.vocabulary, out.reader.item_tokens, out.reader.tokens = "tiny", 300, 12, 24
    out.training.epochs, out.training.batch_size, out.training.validate_every = 2 if variant == "text" else 8, 16, 4
    out.training.optim.learning_rate, out.training.negatives = 5e-3, 20
    out.hosts.lost_seconds = 10
    return out
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A finished run of 60 documents, and users who go round them in one fixed cycle."""
    home = tmp_path_factory.mktemp("processes")
    runs.write_corpus(home / "corpus.jsonl", documents=60)
    config = runs.ours(home / "corpus.jsonl", home / "cache")
    config.checkpoint_seconds = 1.0
    learn(config, home / "run", console=Console(Mode.QUIET))
    names = [json.loads(line)["id"] for line in (home / "corpus.jsonl").read_text().splitlines()]
    rng = np.random.default_rng(0)
    lines = []
    for user in range(150):
        first, length = int(rng.integers(60)), int(rng.integers(4, 10))
        lines.append(f"u{user}\t" + " ".join(names[(first + 7 * n) % 60] for n in range(length)))
    (home / "users.tsv").write_text("\n".join(lines) + "\n")
    (home / "config.py").write_text(CONFIG.format(ids=str(home / "run"), users=str(home / "users.tsv")))
    return home


def start(program, flags, *, count, devices):
    script = CALL.format(program=program, change=CHANGE[program])
    return Group(script, [*flags, "--config.console=plain" if program == "recommend" else "--console=plain"], count=count, devices=devices)


def finish(program, flags, *, count, devices):
    group = start(program, flags, count=count, devices=devices)
    assert not any(group.wait(MINUTES)), group.said()
    return group


def flags_of(home, method, workdir):
    return ["--config", f"{home / 'config.py'}:{method}", "--workdir", workdir]


def losses(workdir):
    return [row["loss"] for row in journal.read(workdir / "metrics.jsonl") if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["generative", "sasrec", "text", "popularity"])
def test_two_processes_recommend_as_one(method, home):
    found = {}
    for name, count in (("one", 1), ("two", 2)):
        group = finish("recommend", flags_of(home, method, home / f"{method}-{name}"), count=count, devices=4 // count)
        found[name] = json.loads((home / f"{method}-{name}" / "summary.json").read_text())
    assert "summary in" in group.output(0) and not re.search("users|steps|summary", group.output(1)), group.said()
    means = [[found[name]["test"][kept]["items"]["recall@10"] for kept in ("history kept", "history excluded")] for name in found]
    if method == "popularity":
        assert means[0] == means[1]
        return
    one, two = (losses(home / f"{method}-{name}") for name in found)
    assert len(one) == len(two) > FIRST
    np.testing.assert_allclose(one[:FIRST], two[:FIRST], rtol=1e-4)
    np.testing.assert_allclose(*means, atol=0.05)
    assert len(Recommender.load(home / f"{method}-two").recommend(["d0-1", "d0-5"], k=5)) == 5


@pytest.mark.slow
def test_two_processes_train_the_retriever_of_one(home):
    task = runs.write_task(home / "task", home / "corpus.jsonl")
    for name, count in (("one", 1), ("two", 2)):
        workdir = home / f"retriever-{name}"
        shutil.copytree(home / "run", workdir)
        group = finish("finetune", ["--workdir", workdir, "--queries", task, "--batch-size", "32", "--epochs", "4"], count=count, devices=4 // count)
    assert "kept back" in group.output(0) and "try:" in group.output(0) and not re.search("pairs|steps|try:", group.output(1)), group.said()
    one, two = (losses(home / f"retriever-{name}" / "retriever") for name in ("one", "two"))
    assert len(one) == len(two) > FIRST
    np.testing.assert_allclose(one[:FIRST], two[:FIRST], rtol=1e-4)
    assert len(Searcher.load(home / "retriever-two").search(["t0w1"], k=5)[0]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_death_ends_both_and_the_same_command_goes_on(killed, home):
    workdir = home / f"killed-{killed}"
    group = start("recommend", flags_of(home, "generative", workdir), count=2, devices=2)
    until = time.monotonic() + MINUTES
    while not list((workdir / "checkpoints").glob("*/manifest.json")):
        assert time.monotonic() < until and all(process.poll() is None for process in group.processes), group.said()
        time.sleep(0.02)
    os.kill(group.processes[killed].pid, signal.SIGKILL)
    codes = group.wait(60)
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] not in (0, -signal.SIGKILL), group.said()
    assert not (workdir / "summary.json").exists()
    group = finish("recommend", flags_of(home, "generative", workdir), count=2, devices=2)
    assert "resuming at step" in group.output(0)
    whole = home / "whole"
    if not whole.exists():
        finish("recommend", flags_of(home, "generative", whole), count=2, devices=2)
    trees = [load_tree(each / "recommender" / "params") for each in (whole, workdir)]
    jax.tree.map(np.testing.assert_array_equal, *trees)
