"""The paper's configs: what they say, what they weigh on the slice they name, and that `:tiny` comes to an end."""

import pathlib

import jax
import numpy as np
import paper_runs
import pytest
from devices import run_on_eight
from jax.sharding import AbstractMesh, AxisType

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.footprint import Footprint, footprint, largest_batch, on_one_device, trace_step
from lmindexer_jax.recipes import paper
from lmindexer_jax.run import execute
from lmindexer_jax.training.sharding import MeshConfig, describe, make_mesh

GB = 10**9
SLICES = {"data": AbstractMesh((8, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)}
SLICES["fsdp"] = AbstractMesh((1, 8), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

# K, epochs of warm-up and of both stages of both positions, rates of position 1 without and with its codebook.
PUBLISHED = {
    "beauty": (512, (30, 30, 30, 30, 30), (1e-3, 2e-3)),
    "nq320k": (5120, (10, 10, 30, 30, 30), (5e-3, 5e-3)),
    "macro1m": (51200, (5, 5, 5, 5, 5), (1e-3, 1e-3)),
}
PUBLISHED |= {"sports": PUBLISHED["beauty"], "toys": PUBLISHED["beauty"], "esci": PUBLISHED["beauty"], "trecdl1m": PUBLISHED["macro1m"]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_settings(name):
    config = paper_runs.config_of(name)
    size, epochs, rates = PUBLISHED[name]
    stages = paper_runs.training_stages(config)
    assert config.indexer.codebook_sizes == (size, size) and config.language_model.name == "t5-base"
    assert tuple(stage.epochs for stage in stages) == epochs
    assert tuple(stage.optim.learning_rate for stage in stages[1:3]) == rates
    assert [stage.settings.batch_size for stage in stages] == [128, 128, 128, 32, 32]
    assert all(stage.rates.language_model == 1.0 for stage in stages[1:]), "nothing is frozen after the warm-up"
    assert config.language_model.max_length == 128


def test_every_corpus_of_the_paper_has_a_config():
    assert set(PUBLISHED) == set(paper_runs.NAMES)
    assert paper_runs.config_of("esci").corpus.name == "amazon_reviews/beauty"
    with pytest.raises(UserError, match="nq320k"):
        paper("nq")


@pytest.mark.parametrize("name", ["beauty", "nq320k", "macro1m"])
def test_what_a_state_weighs(name):
    """T5-base, 223 million, and the rest; whole on every device, or an eighth of nearly all of it."""
    config = paper_runs.config_of(name)
    _, params = paper_runs.model(config.indexer.codebook_sizes)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    books = 2 * config.indexer.codebook_sizes[0] * 768
    assert 223e6 < count - books < 240e6
    whole, split = (on_one_device(describe(params, mesh)) for mesh in SLICES.values())
    assert whole == 4 * count
    np.testing.assert_allclose(split, whole / 8, rtol=0.01)
    assert 4 * whole < 16 * GB, "parameters, moments and gradients fit a TPU v5e"


def test_a_compiled_step_says_what_it_needs():
    """A small step of the paper's, traced without arrays, against its arrays."""
    config = paper("beauty", "tiny")
    config.indexer.codebook_sizes = (16, 16)
    functions, params = small(config)
    stage = paper_runs.training_stages(config)[0]
    batch, mesh = paper_runs.batch_of(config, stage), make_mesh(MeshConfig())
    step = trace_step(functions, params, stage, recipe=config.recipe, batch=batch, mesh=mesh)
    needed = footprint(step)
    moving = sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "reconstructor" in str(path))
    state = 4 * sum(leaf.size for leaf in jax.tree.leaves(params)) + 2 * 4 * moving
    np.testing.assert_allclose(needed.state, state + 4 * moving, atol=100)
    logits = 32 * 31 * 2048 * 4
    assert logits / 8 < needed.work < 40 * logits


def small(config):
    from lmindexer_jax.models import presets
    from lmindexer_jax.models.indexer import Indexer, IndexerFunctions

    preset = presets.PRESETS["tiny"]
    functions = IndexerFunctions(Indexer(config.indexer, preset, words=preset.vocab_size))
    return functions, jax.eval_shape(functions.init, jax.random.key(0))


@pytest.mark.parametrize(
    "limit, expected",
    [(10 * GB, 128), (19 * GB, 256), (6 * GB, 64), (3 * GB, 0), (2 * GB, 0)],
)
def test_the_batch_size_that_fits(limit, expected):
    step = Footprint(state=3 * GB, work=5 * GB)
    assert largest_batch(step, batch_size=128, limit=limit, devices=8) == expected


@pytest.mark.slow
def test_the_largest_steps_compile_for_eight_devices_and_fit():
    """Runs `paper_devices.py`, whose tests need JAX to start with eight devices."""
    run_on_eight(pathlib.Path(__file__).with_name("paper_devices.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beauty", "macro1m"])
def test_tiny_comes_to_an_end(name, tmp_path):
    """Those of the other corpora differ in numbers that `:tiny` takes back."""
    config = paper_runs.load(paper_runs.HOME / "paper" / f"{name}.py", "tiny")
    config.corpus.max_documents = 120
    execute(config, tmp_path / "run", console=Console(Mode.QUIET))
    assert (tmp_path / "run" / "report.html").exists()
