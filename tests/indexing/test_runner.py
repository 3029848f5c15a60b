"""Whole runs: they end with IDs, a kill anywhere changes nothing, and a workdir refuses another run's settings."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import runs

from lmindexer_jax import config as settings
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_table
from lmindexer_jax.run import execute


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    runs.write_corpus(home / "corpus.jsonl")
    return home


@pytest.fixture(scope="module", params=["ours", "published"])
def finished(request, home):
    """A run that nobody disturbed."""
    config = getattr(runs, request.param)(home / "corpus.jsonl", home / "cache")
    workdir = home / request.param
    execute(config, workdir, console=Console(Mode.QUIET))
    return request.param, config, workdir


def journal(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time", "seconds")} for row in rows]


def test_a_run_ends_with_ids_that_know_the_topics(finished):
    name, config, workdir = finished
    table = id_table.load(workdir / "ids")
    assert len(table) == 120
    assert table.codes.shape[1] == len(config.indexer.codebook_sizes)
    assert (table.codes < np.array(config.indexer.codebook_sizes)).all() and (table.codes >= 0).all()
    assert (workdir / "report.html").exists() and (workdir / "ids.json").exists()
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["ami"], "the corpus has labels"
    if name == "ours":
        assert summary["rows"][0]["usage"] > 0.5


def test_a_finished_run_is_not_run_again(finished):
    _, config, workdir = finished
    before = (workdir / "metrics.jsonl").read_text()
    execute(config, workdir, console=Console(Mode.QUIET))
    assert (workdir / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_anywhere_and_started_again_ends_alike(finished, home, seed):
    name, config, workdir = finished
    config = getattr(runs, name)(home / "corpus.jsonl", home / "cache")
    config.checkpoint_seconds = 0.0
    other = home / f"{name}-killed-{seed}"
    rng = random.Random(seed)
    deaths = 0
    while True:
        try:
            execute(config, other, console=runs.Mortal(rng.randint(4, 30)))
            break
        except runs.Killed:
            deaths += 1
    assert deaths >= 2
    one, two = id_table.load(workdir / "ids"), id_table.load(other / "ids")
    np.testing.assert_array_equal(one.codes, two.codes)
    assert one.manifest.model_hash == two.manifest.model_hash, "parameters are the same to the bit"
    assert journal(workdir) == journal(other)


def test_changed_settings_are_refused_in_one_line(finished, home):
    name, _, workdir = finished
    changes = {
        "seed": lambda c: setattr(c, "seed", 5),
        "indexer.codebook_sizes": lambda c: setattr(c.indexer, "codebook_sizes", (3,) * len(c.indexer.codebook_sizes)),
        "language_model.name": lambda c: setattr(c.language_model, "name", "mini"),
    }
    before = sorted(p.name for p in workdir.iterdir())
    for field, change in changes.items():
        config = getattr(runs, name)(home / "corpus.jsonl", home / "cache")
        change(config)
        with pytest.raises(UserError, match=field) as error:
            execute(config, workdir, console=Console(Mode.QUIET))
        assert "\n" not in str(error.value)
    other = runs.write_corpus(home / f"other-{name}.jsonl", seed=9)
    with pytest.raises(UserError, match="corpus"):
        execute(getattr(runs, name)(other, home / "cache"), workdir, console=Console(Mode.QUIET))
    assert sorted(p.name for p in workdir.iterdir()) == before


def test_flatten_and_fingerprint_follow_every_setting():
    config = settings.Config()
    flat = settings.flatten(config)
    assert flat["recipe.first.quantiser.temperature"] == 1.0
    assert "console" not in flat and "corpus.cache_dir" not in flat
    config.recipe.first.quantiser.temperature = 0.5
    assert settings.fingerprint(settings.flatten(config)) != settings.fingerprint(flat)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ours", "published"])
def test_sigkill_at_random_moments(home, name, tmp_path):
    """Real processes, really killed."""
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import runs;"
        "from lmindexer_jax.console import Console, Mode; from lmindexer_jax.run import execute;"
        "home = pathlib.Path(sys.argv[2]);"
        f"config = runs.{name}(home / 'corpus.jsonl', home / 'cache'); config.checkpoint_seconds = 0.0;"
        "execute(config, pathlib.Path(sys.argv[3]), console=Console(Mode.QUIET))"
    )
    here = pathlib.Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(here.parent), "JAX_PLATFORMS": "cpu"}

    def start(workdir):
        return subprocess.Popen([sys.executable, "-c", script, str(here), str(home), str(workdir)], env=environment)

    def written(workdir):
        path = workdir / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    # By what it has written and not by the clock: the second run finds the first one's compiled steps and is quicker.
    assert start(tmp_path / "whole").wait() == 0
    rng, deaths, part = random.Random(0), 0, written(tmp_path / "whole") // 5
    while True:
        until = written(tmp_path / "killed") + rng.randint(1, part)
        process = start(tmp_path / "killed")
        while process.poll() is None and written(tmp_path / "killed") < until:
            time.sleep(0.01)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        deaths += 1
    assert deaths >= 2
    one, two = (id_table.load(tmp_path / which / "ids") for which in ("whole", "killed"))
    np.testing.assert_array_equal(one.codes, two.codes)
    assert one.manifest.model_hash == two.manifest.model_hash
