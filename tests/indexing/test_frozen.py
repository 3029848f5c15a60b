"""A frozen encoder's states: whether they are kept on disk touches neither what is learned nor what is assigned."""

import jax
import numpy as np
import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.indexing.assign import corpus_vectors
from lmindexer_jax.indexing.estimate import standing_in
from lmindexer_jax.indexing.objective import make_objective, start_memory
from lmindexer_jax.indexing.recipe import Order
from lmindexer_jax.indexing.runner import Run, batches
from lmindexer_jax.models.indexer import IndexerFunctions
from lmindexer_jax.prepare import prepare
from lmindexer_jax.training.optim import merge, paths, split
from lmindexer_jax.training.sharding import MeshConfig, make_mesh

QUIET = Console(Mode.QUIET)


class Watched(IndexerFunctions):
    """Remembers of each call to the encoder whether it had dropout."""

    dropouts: list[bool] = []

    def encode(self, params, tokens, mask, *, key=None):
        self.dropouts.append(key is not None)
        return super().encode(params, tokens, mask, key=key)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("frozen")
    runs.write_corpus(home / "corpus.jsonl", documents=60)
    return home


def settings(name, home):
    """Recipes of every kind of stage, on a frozen encoder and with tokens dropped."""
    config = getattr(runs, "ours" if name == "ours" else "published")(home / "corpus.jsonl", home / "cache")
    for position in (config.recipe.first, config.recipe.later):
        position.rates.language_model, position.token_dropout = 0.0, 0.3
    config.recipe.order = Order.TOGETHER if name == "together" else Order.PROGRESSIVE
    return config


def run_of(config, workdir, *, kept=True):
    """A run before its first stage, its codes made up."""
    config.language_model.cache_states = kept
    ready = prepare(config, workdir, console=QUIET)
    ready.inputs.codes[:] = np.random.default_rng(0).integers(0, 4, ready.inputs.codes.shape)
    functions = Watched(ready.functions.module)
    parts = (functions, config.recipe, ready.stages, ready.inputs, ready.params, make_mesh(MeshConfig()), 0, QUIET)
    return Run(workdir, *parts, lambda moment: {}, 60.0, "")


def learned(run, name):
    """Loss and gradient of the first batch of a stage."""
    stage = next(stage for stage in run.stages if stage.name == name)
    run = standing_in(run, stage)
    objective = make_objective(run.functions, stage, run.recipe)
    memory = start_memory(run.params, stage, run.recipe)
    moving, frozen = split(run.params, stage.rules(paths=tuple(paths(run.params))))

    def loss(moving, frozen, batch):
        return objective(merge(moving, frozen), memory, batch, jax.random.key(1))[0]

    Watched.dropouts.clear()
    return jax.jit(jax.value_and_grad(loss))(moving, frozen, next(batches(run, stage, None)))


@pytest.mark.parametrize(
    "name, stage",
    [
        ("ours", "position-2/quantised"),
        ("published", "position-2/continuous"),
        pytest.param("together", "together", marks=pytest.mark.slow),
    ],
)
def test_kept_states_and_states_made_again_train_alike(name, stage, home):
    config = settings(name, home)
    kept, made = (run_of(config, home / f"{name}-{each}", kept=each) for each in (True, False))
    assert kept.inputs.encoded is not None and made.inputs.encoded is None
    (loss, gradient), (other, its_gradient) = learned(kept, stage), learned(made, stage)
    assert Watched.dropouts and not any(Watched.dropouts)
    np.testing.assert_allclose(loss, other, rtol=1e-5)
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(its_gradient), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4 * max(1e-3, np.abs(one).max()))


def test_and_assign_alike(home):
    """As documents do that come later, whose states are made as kept ones are."""
    config = settings("ours", home)
    found = []
    for kept in (True, False):
        run = run_of(config, home / f"ours-{kept}", kept=kept)
        stage = next(stage for stage in run.stages if stage.name == "position-2/assign")
        run = standing_in(run, stage)
        asked = {"position": 1, "frozen": stage.frozen, "console": QUIET}
        found.append(corpus_vectors(run.functions, run.params, run.inputs, **asked))
    np.testing.assert_allclose(*found, atol=1e-5)


def test_an_encoder_that_any_stage_moves_has_dropout_in_all(home):
    config = settings("published", home)
    config.recipe.later.rates.language_model = 1.0
    run = run_of(config, home / "moved")
    assert not any(stage.frozen for stage in run.stages)
    learned(run, "position-1/continuous")
    assert Watched.dropouts and all(Watched.dropouts)
