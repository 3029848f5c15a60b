"""All positions at once: with one position it is the stage that there is; with several every book learns; a kill changes nothing."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.objective import make_objective, start_memory
from lmindexer_jax.indexing.recipe import Order, SecondQuery, StageKind, plan
from lmindexer_jax.models.indexer import Indexer, IndexerFunctions
from lmindexer_jax.models.quantiser import Choice, CodebookUpdate, Estimator
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.prepare import check
from lmindexer_jax.run import execute

QUIET = Console(Mode.QUIET)
T5 = T5Config(vocab_size=128, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("together")
    runs.write_corpus(home / "corpus.jsonl")
    return home


def settings(home, *, sizes=(6, 4)):
    config = runs.published(home / "corpus.jsonl", home / "cache")
    config.indexer.codebook_sizes = sizes
    config.recipe.order = Order.TOGETHER
    return config


def stages(config):
    return plan(
        config.recipe,
        positions=len(config.indexer.codebook_sizes),
        documents=120,
        reconstructor=config.indexer.reconstructor.kind,
    )


def step_of(config, order):
    """Loss, metrics and gradient of the stage with all codebooks, on a made batch."""
    config.recipe.order = order
    wanted = {Order.TOGETHER: StageKind.TOGETHER, Order.PROGRESSIVE: StageKind.QUANTISED}[order]
    stage = next(stage for stage in stages(config) if stage.kind == wanted)
    functions = IndexerFunctions(Indexer(config.indexer, T5))
    params = functions.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(5, 100, (16, 12)))
    mask = jnp.asarray(np.arange(12) < rng.integers(3, 13, (16, 1)))
    batch = {"tokens": tokens, "words": tokens, "mask": mask, "labelled": mask, "present": jnp.ones(16)}
    batch["codes"] = jnp.zeros((16, stage.position), jnp.int32)
    objective = make_objective(functions, stage, config.recipe)
    memory = start_memory(params, stage, config.recipe)
    (loss, outcome), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(params, memory, batch, jax.random.key(1))
    return stage, loss, outcome, gradient


def test_of_one_position_it_is_the_stage_of_that_position(home):
    one = step_of(settings(home, sizes=(6,)), Order.TOGETHER)
    other = step_of(settings(home, sizes=(6,)), Order.PROGRESSIVE)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(one[3]), jax.tree.leaves(other[3]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_array_equal(one[2].memory["codebook_0"]["counts"], other[2].memory["counts"])


def test_every_codebook_learns_by_its_own_settings(home):
    config = settings(home, sizes=(6, 4, 3))
    config.recipe.second_query = SecondQuery.CONTINUOUS
    config.recipe.later = copy.deepcopy(config.recipe.first)
    config.recipe.later.quantiser.update = CodebookUpdate.EMA
    config.recipe.later.quantiser.choice = Choice.BALANCED
    stage, loss, outcome, gradient = step_of(config, Order.TOGETHER)
    assert np.isfinite(loss) and stage.several and stage.position == 2
    for position, size in enumerate(config.indexer.codebook_sizes):
        assert np.abs(gradient[f"codebook_{position}"]).max() > 0
        assert outcome.memory[f"codebook_{position}"]["counts"].shape == (size,)
        assert outcome.memory[f"codebook_{position}"]["counts"].sum() == pytest.approx(16)
        assert f"perplexity_{position + 1}" in outcome.metrics
    rules = dict(stage.rules(paths=tuple(f"codebook_{p}" for p in range(3))))
    assert list(rules.values()) == [1.0, 1.0, 1.0]
    assert list(outcome.replaced) == ["codebook_1", "codebook_2"], "the gradient moves the first alone"
    queue = outcome.memory["codebook_1"]["queue"]
    assert (np.abs(queue[:16]).sum(1) > 0).all() and not np.abs(queue[16:]).any(), "the batch once, not its second view"


@pytest.mark.slow
def test_killed_and_started_again_it_ends_alike(home):
    config = settings(home)
    execute(config, home / "whole", console=QUIET)
    config = settings(home)
    config.checkpoint_seconds = 0.0
    with pytest.raises(runs.Killed):
        execute(config, home / "killed", console=runs.Mortal(6, "together"))
    execute(config, home / "killed", console=QUIET)
    one, two = (id_table.load(home / name / "ids") for name in ("whole", "killed"))
    np.testing.assert_array_equal(one.codes, two.codes)
    assert one.manifest.model_hash == two.manifest.model_hash
    rows = [json.loads(line) for line in (home / "whole" / "metrics.jsonl").read_text().splitlines()]
    order = [row["stage"] for row in rows if row.get("event") == "stage"]
    assert order == ["warm-up", "position-1/continuous", "cluster", "together", "position-1/assign", "position-2/assign"]


def test_what_cannot_be_learned_at_once_is_one_line(home):
    config = settings(home)
    config.indexer.pooled_weight = 1.0
    with pytest.raises(UserError, match="pooled_weight=0"):
        check(config)
    config = settings(home)
    config.recipe.first.rounds = 2
    with pytest.raises(UserError, match="clusters once"):
        stages(config)
    config = runs.ours(home / "corpus.jsonl", home / "cache")
    config.recipe.order = Order.TOGETHER
    assert config.recipe.first.quantiser.estimator == Estimator.MARGINAL
    with pytest.raises(UserError, match="marginal"):
        stages(config)
