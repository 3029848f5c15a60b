"""The plan counts a loop over layers as all of them, and what a stage takes beside its steps; and a run whose layers are computed
twice and looped over, and that is traced, ends well."""

import math

import numpy as np
import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.finished import open_finished
from lmindexer_jax.index import index
from lmindexer_jax.indexing import estimate as module
from lmindexer_jax.indexing.estimate import estimate
from lmindexer_jax.prepare import prepare
from lmindexer_jax.run import execute, run_of

QUIET = Console(Mode.QUIET)


def test_a_loop_costs_what_its_layers_cost(tmp_path):
    planned = []
    runs.write_corpus(tmp_path / "corpus.jsonl")
    for make in (runs.published, runs.looped):
        config, workdir = make(tmp_path / "corpus.jsonl", tmp_path / "cache"), tmp_path / make.__name__
        workdir.mkdir()
        planned.append(estimate(run_of(config, workdir, prepare(config, workdir, console=QUIET), console=QUIET)))
    plain, looped = ([stage.flops for stage in stages] for stages in planned)
    # What is computed twice is in the count; a forward pass is a third of forward and backward.
    assert all(1 <= more / once < 1.4 for once, more in zip(plain, looped, strict=True))
    assert np.median([more / once for once, more, stage in zip(plain, looped, planned[0]) if stage.steps]) > 1.05


def test_minutes_are_of_more_than_steps(tmp_path, monkeypatch):
    config, workdir = runs.published(runs.write_corpus(tmp_path / "corpus.jsonl"), tmp_path / "cache"), tmp_path / "run"
    workdir.mkdir()
    run = run_of(config, workdir, prepare(config, workdir, console=QUIET), console=QUIET)

    def seconds(rate: float) -> dict[str, float]:
        monkeypatch.setattr(module, "matmul_rate", lambda _: rate)
        return {stage.name: 60 * stage.minutes for stage in estimate(run)}

    assert list(seconds(math.inf).values()) == [pytest.approx(module.BESIDES)] * len(run.stages)
    # A pass over the corpus is the forward third of an epoch.
    at, settings = seconds(1e6), run.recipe.first
    steps = next(stage.steps for stage in run.stages if stage.name == "position-1/quantised")
    epoch = (at["position-1/quantised"] - module.BESIDES) / steps * len(run.inputs) / settings.batch_size
    assert at["position-1/assign"] - module.BESIDES == pytest.approx(epoch / 3)
    assert at["position-1/cluster"] > module.BESIDES


@pytest.mark.slow
def test_it_trains_and_codes_new_documents(tmp_path):
    config = runs.looped(runs.write_corpus(tmp_path / "corpus.jsonl"), tmp_path / "cache")
    config.profile = 2
    execute(config, tmp_path / "run", console=QUIET)
    stages = {path.relative_to(tmp_path / "run" / "profile").parts[:-4] for path in (tmp_path / "run").rglob("perfetto_trace.json.gz")}
    assert {"/".join(stage) for stage in stages} >= {"warm-up", "position-1/continuous", "position-2/quantised"}
    old = open_finished(tmp_path / "run").table
    lines = (tmp_path / "corpus.jsonl").read_text().replace('"id": "d0-', '"id": "new-')
    (tmp_path / "new.jsonl").write_text(lines)
    _, table = index(tmp_path / "run", CorpusConfig(path=str(tmp_path / "new.jsonl"), cache_dir=str(tmp_path / "cache")), console=QUIET)
    learned = open_finished(tmp_path / "run").table.codes[:, 0]
    assert len(table) == 2 * len(old) and (table.codes[len(old) :, 0] == learned).mean() > 0.95
