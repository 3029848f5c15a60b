"""The bake-off: which cells there are and which are run, what is compared, and the whole way in small."""

import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import runs
from finished import finish, places

from lmindexer_jax import bakeoff as command
from lmindexer_jax import cells as cells_module
from lmindexer_jax.bakeoff import FLAGS, bakeoff, refuse_other_corpora
from lmindexer_jax.cells import Cell, cells_of, run_cell, run_cells
from lmindexer_jax.config import BakeoffConfig, Config, flatten
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import unsealed
from lmindexer_jax.indexing.two_stage import IndexerKind

ROOT = pathlib.Path(__file__).parents[1]
QUIET = Console(Mode.QUIET)
SIZES = (4, 3, 8)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("bakeoff")
    runs.write_corpus(home / "corpus.jsonl", documents=150)
    return home


def made(home, **changes):
    """Two indexers, whose settings are those of a control: `finish_cells` gives them codes without training."""
    cells = {}
    for name in ("good", "random"):
        cells[name] = runs.base(home / "corpus.jsonl", home / "cache")
        cells[name].indexer_kind, cells[name].indexer.codebook_sizes = IndexerKind.RANDOM, SIZES
    corpus = CorpusConfig(path=str(home / "corpus.jsonl"), cache_dir=str(home / "cache"))
    config = BakeoffConfig(corpus=corpus, cells=cells, replicates=40, console=Mode.QUIET)
    return dataclasses.replace(config, **changes)


def finish_cell(cell, home):
    """What a finished cell leaves, without the training."""
    rng = np.random.default_rng([cell.seed, cell.name == "good"])
    corpus = finish(cell.workdir, home / "corpus.jsonl", home / "cache", codes=rng.integers(0, SIZES, (150, 3)), sizes=SIZES)
    if cell.name == "good":
        topics, wrong = places(corpus), rng.random(150) < 0.1
        codes = np.c_[np.where(wrong, rng.integers(0, 4, 150), topics[:, 0]), topics[:, 1], np.arange(150) % 8]
        finish(cell.workdir, home / "corpus.jsonl", home / "cache", codes=codes, sizes=SIZES)
    manifest = cell.workdir / "ids" / "manifest.json"
    kept = unsealed(json.loads(manifest.read_text()))
    kept["config"]["indexer_kind"] = "random"  # whose codes are those of the table
    manifest.write_text(json.dumps(kept))
    (cell.workdir / "run.json").write_text(json.dumps({"settings": flatten(cell.config) | {"tokens": "x"}}))
    (cell.workdir / "summary.json").write_text(json.dumps({"minutes": 1.0 + cell.seed, "peak_memory_mb": 100.0}))
    (cell.workdir / "report.html").write_text("")
    return 0


@pytest.fixture
def ran(monkeypatch, home):
    """Names of the cells that were run; none of them is trained."""
    names = []

    def run(cell):
        names.append(cell.workdir.name)
        return finish_cell(cell, home)

    monkeypatch.setattr(cells_module, "run_cell", run)
    return names


def test_cells_run_once_and_are_compared(home, tmp_path, ran):
    config = made(home)
    config.console = Mode.PLAIN
    said = io.StringIO()
    assert bakeoff(config, tmp_path, console=Console(Mode.PLAIN, said)) == 0
    assert ran == ["good-0", "random-0", "good-1", "random-1"], "seed by seed"
    result = json.loads((tmp_path / "bakeoff.json").read_text())
    good, random = result["indexers"]
    assert good["mean"]["minutes"] == 1.5 and good["spread"]["minutes"] == pytest.approx(0.5**0.5)
    assert good["cells"][1]["seed"] == 1 and good["cells"][0]["as_learned"]["agreement"][1]["ami"] > 0.6
    rows = {(row["indexer"], row["codes"], row["labels"], row["measure"]): row for row in result["measures"]}
    for key in (("c1", "depth 1", "ami"), ("c1", "", "bow_gain"), ("c1", "", "neighbours.agreement"), ("c1", "", "over_reference.bow_gain")):
        row = rows["random", *key]
        assert row["difference"] < 0 and row["p_value"] < 0.05 and row["perplexity"] > 3, key
    text = said.getvalue()
    for word in ("good", "random", "perplexity", "AMI", "±", "*", "minutes", "MB"):
        assert word in text
    page = (tmp_path / "bakeoff.html").stat().st_size
    assert page < 100_000

    ran.clear()
    before = (tmp_path / "bakeoff.json").stat().st_mtime_ns
    assert bakeoff(config, tmp_path, console=Console(Mode.PLAIN, again := io.StringIO())) == 0
    assert ran == [] and (tmp_path / "bakeoff.json").stat().st_mtime_ns == before, "neither run nor measured again"
    assert text.splitlines()[-12:] == again.getvalue().splitlines()[-12:]


def test_a_cell_without_its_marker_is_run_again_and_more_seeds_are_added(home, tmp_path, ran):
    config = made(home, seeds=(0,))
    bakeoff(config, tmp_path, console=QUIET)
    first = json.loads((tmp_path / "bakeoff.json").read_text())
    assert all(row["spread"] is None for row in first["measures"])
    (tmp_path / "random-0" / "report.html").unlink()
    ran.clear()
    bakeoff(dataclasses.replace(config, seeds=(0, 1)), tmp_path, console=QUIET)
    assert ran == ["random-0", "good-1", "random-1"]
    second = json.loads((tmp_path / "bakeoff.json").read_text())
    assert second["origin"] != first["origin"] and all(len(row["seeds"]) == 2 for row in second["measures"])
    named = dataclasses.replace(config, seeds=(0, 1), against="random")
    bakeoff(named, tmp_path, console=QUIET)
    third = json.loads((tmp_path / "bakeoff.json").read_text())
    assert third["against"] == "random" and {row["indexer"] for row in third["measures"] if row["p_value"]} == {"good"}


def test_a_damaged_comparison_is_made_anew_and_damaged_sources_are_one_line(home, tmp_path, ran):
    users = tmp_path / "users.tsv"
    users.write_text("".join(f"u{user}\t{user + 1} {user + 2} {user + 4}\n" for user in range(20)))
    config = made(home, seeds=(0,), interactions=str(users), replicates=5)
    bakeoff(config, tmp_path, console=QUIET)
    result = tmp_path / "bakeoff.json"
    whole = result.read_bytes()
    for damage in (whole[:50], b'{"origin": "\xff"}', b"[]", b"7"):
        result.write_bytes(damage)
        bakeoff(config, tmp_path, console=QUIET)
        assert result.read_bytes() == whole
    summary = tmp_path / "random-0" / "summary.json"
    for damage in (b'{"minutes": 1', b"\xff", b"[]", b"{}"):
        summary.write_bytes(damage)
        result.unlink(missing_ok=True)
        with pytest.raises(UserError, match="summary.json: gone or damaged; remove report.html beside it"):
            bakeoff(config, tmp_path, console=QUIET)
    users.unlink()
    with pytest.raises(UserError, match=r"users.tsv: cannot be read \(No such file or directory\)"):
        bakeoff(config, tmp_path, console=QUIET)
    assert ran == ["good-0", "random-0"]


def test_other_settings_or_another_corpus_are_refused_before_anything_is_run(home, tmp_path, ran):
    mine = tmp_path / "corpus.jsonl"
    shutil.copy(home / "corpus.jsonl", mine)
    config = made(home, seeds=(0,))
    bakeoff(config, tmp_path / "work", console=QUIET)
    ran.clear()
    changed = made(home, seeds=(0, 1))
    changed.cells["random"].indexer.codebook_sizes = (5, 5, 5)
    with pytest.raises(UserError, match="random-0 holds a run with indexer.codebook_sizes"):
        bakeoff(changed, tmp_path / "work", console=QUIET)
    lines = (home / "corpus.jsonl").read_text().splitlines()
    moved = dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, path=str(mine)))
    for name in ("good-0", "random-0"):  # the same path, other content
        run = tmp_path / "work" / name / "run.json"
        run.write_text(json.dumps({"settings": json.loads(run.read_text())["settings"] | {"corpus.path": str(mine)}}))
    mine.write_text("\n".join(lines[:100]) + "\n")
    with pytest.raises(UserError, match="the corpus has changed"):
        bakeoff(moved, tmp_path / "work", console=QUIET)
    assert ran == []


@pytest.mark.parametrize(
    "change, text",
    [
        ({"cells": {}}, "at least one indexer"),
        ({"cells": {"a/b": Config()}}, "'a/b'"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "different"),
        ({"against": "nobody"}, "good, random"),
        ({"replicates": 1}, "at least 2"),
    ],
)
def test_slips_are_named(home, tmp_path, change, text):
    with pytest.raises(UserError, match=text):
        cells_of(made(home, **change), tmp_path)


def test_a_cell_that_stops_ends_the_bakeoff_with_its_code(home, tmp_path, monkeypatch):
    codes = iter([0, 2])
    monkeypatch.setattr(cells_module, "run_cell", lambda cell: next(codes))
    cells = cells_of(made(home), tmp_path)
    assert run_cells(cells, console=QUIET) == 2
    monkeypatch.setattr(cells_module, "run_cell", lambda cell: -9)
    with pytest.raises(UserError, match="good, seed 0: killed by signal 9"):
        run_cells(cells, console=QUIET)


def test_the_corpus_and_the_seed_are_the_bakeoffs(home, tmp_path):
    config = made(home, interactions="users.tsv")
    config.cells["good"].corpus.path, config.cells["good"].seed = "elsewhere", 7
    cell = cells_of(config, tmp_path)[2]
    assert (cell.name, cell.seed, cell.config.seed, str(cell)) == ("good", 1, 1, "good, seed 1")
    assert cell.config.corpus.path == str(home / "corpus.jsonl") and cell.config.interactions == "users.tsv"
    assert not cell.config.baseline and config.cells["good"].seed == 7


def test_a_cell_may_learn_from_damaged_texts_of_the_same_documents(home, tmp_path, ran):
    config = made(home, seeds=(0,))
    config.cells["random"].corpus.noise.characters = 0.1
    cells = cells_of(config, tmp_path)
    assert [cell.config.corpus.noise.characters for cell in cells] == [0.0, 0.1]
    assert cells[1].config.corpus.path == config.corpus.path
    refuse_other_corpora(cells, open_corpus(config.corpus))
    finish_cell(cells[1], home)  # which codes the texts as they were
    with pytest.raises(UserError, match="random-0: the corpus has changed"):
        bakeoff(config, tmp_path, console=QUIET)
    assert ran == []


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # how config_flags opens a config file
def test_flags(monkeypatch):
    given = ["x", f"--config={ROOT / 'configs' / 'bakeoff.py'}:own", "--workdir=w", "--config.seeds=(5,)", "--config.corpus.path=my.jsonl"]
    given += ["--config.cells.ours.recipe.first.rounds=3"]
    monkeypatch.setattr(sys, "argv", given)
    config, workdir = FLAGS.parse(given)
    assert workdir.name == "w" and config.seeds == (5,) and config.corpus.path == "my.jsonl"
    assert config.cells["ours"].recipe.first.rounds == 3 and config.cells["words"].recipe.first.rounds == 1
    assert command.reference_of(config) == "ours"


@pytest.mark.slow
def test_a_user_error_of_a_cell_is_one_line(home, tmp_path, capfd):
    config = runs.two_stage(IndexerKind.RESIDUAL, home / "corpus.jsonl", home / "cache")
    config.indexer.codebook_sizes, config.console = (6, 1000), Mode.QUIET
    assert run_cell(Cell("residual", 0, config, tmp_path / "residual-0")) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "residual-0" in line and "1000 codes for 150 documents" in line


def start(workdir, *flags):
    """The tiny bake-off of the shipped config, as a process group of its own."""
    own = [sys.executable, "-m", "lmindexer_jax.bakeoff", "--config", str(ROOT / "configs" / "bakeoff.py:tiny")]
    same = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    return subprocess.Popen(
        [*own, "--workdir", str(workdir), "--config.console=plain", *flags],
        env=os.environ | same, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.slow
def test_the_tiny_bakeoff_on_python_docs_is_killed_and_goes_on(tmp_path):
    """The learned codes hold more of the documents than random ones do, and a finished cell is left as it is."""
    first = start(tmp_path)
    while first.poll() is None and not (tmp_path / "ours-0" / "checkpoints").exists():
        time.sleep(0.2)
    time.sleep(1)
    first.send_signal(signal.SIGKILL)
    first.communicate()  # returns when the cell, which holds the pipe, has ended too
    assert not (tmp_path / "ours-0" / "report.html").exists()

    done = start(tmp_path)
    said, _ = done.communicate()
    assert done.returncode == 0, said
    result = json.loads((tmp_path / "bakeoff.json").read_text())
    rows = {(row["indexer"], row["codes"], row["labels"], row["measure"]): row for row in result["measures"]}
    gains = {row["name"]: rows[row["name"], "c1", "", "bow_gain"] for row in result["indexers"]}
    assert len(gains) == 8 and gains["ours"]["mean"] > gains["random"]["mean"] and gains["random"]["p_value"] < 0.05
    assert all(len(row["cells"]) == 2 and row["mean"]["peak_memory_mb"] > 100 for row in result["indexers"])

    (tmp_path / "product-1" / "report.html").unlink()
    marks = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/report.html")}
    again = start(tmp_path)
    said, _ = again.communicate()
    assert again.returncode == 0 and "15 of them finished" in said and "random-0" not in said
    assert marks == {path: path.stat().st_mtime_ns for path in marks}
    assert json.loads((tmp_path / "bakeoff.json").read_text()) == result, "the same bits, measured once"
