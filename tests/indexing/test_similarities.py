"""Positions that compare vectors in different ways: each code is looked at again as it was assigned."""

import jax.numpy as jnp
import numpy as np
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.indexing.objective import commitment_loss
from lmindexer_jax.indexing.recipe import RecipeConfig, StageKind
from lmindexer_jax.indexing.runner import Run, assign
from lmindexer_jax.models.quantiser import Similarity
from lmindexer_jax.prepare import prepare
from lmindexer_jax.training.sharding import MeshConfig, make_mesh, place

QUIET = Console(Mode.QUIET)


def test_commitment_is_by_the_similarity_of_each_earlier_position():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(5, 3, 4)).astype(np.float32)
    params = {f"codebook_{p}": rng.normal(size=(6, 4)).astype(np.float32) for p in range(3)}
    codes = rng.integers(0, 6, (5, 2))
    recipe = RecipeConfig()
    recipe.first.quantiser.similarity, recipe.later.quantiser.similarity = Similarity.L2, Similarity.INNER
    recipe.later.quantiser.temperature = 0.5
    batch = {"codes": jnp.asarray(codes), "present": jnp.ones(5)}
    values, _ = commitment_loss(params, jnp.asarray(outputs), batch, settings=recipe.later, recipe=recipe)
    far = -0.5 * np.square(outputs[:, 0, None] - params["codebook_0"][None]).sum(-1)
    scores = [far, outputs[:, 1] @ params["codebook_1"].T]
    wanted = [np.log(np.exp(s / 0.5).sum(1)) - s[np.arange(5), codes[:, p]] / 0.5 for p, s in enumerate(scores)]
    np.testing.assert_allclose(values, np.stack(wanted, axis=1), rtol=1e-4)


def test_codes_of_a_model_that_did_not_move_have_not_drifted(tmp_path):
    config = runs.ours(runs.write_corpus(tmp_path / "corpus.jsonl", documents=80), tmp_path / "cache")
    config.recipe.first.quantiser.similarity = Similarity.INNER
    ready = prepare(config, tmp_path, console=QUIET)
    mesh, rng = make_mesh(MeshConfig()), np.random.default_rng(0)
    # Rows of different lengths, for which an inner product and a cosine choose different codes.
    rows = rng.normal(size=ready.params["codebook_0"].shape) * np.arange(1, 7)[:, None]
    ready.params["codebook_0"] = jnp.asarray(rows, jnp.float32)
    parts = (ready.functions, config.recipe, ready.stages, ready.inputs, place(ready.params, mesh), mesh, 0, QUIET)
    run = Run(tmp_path, *parts, lambda moment: {}, 60.0, "")
    first, second, _ = (stage for stage in ready.stages if stage.kind == StageKind.ASSIGN)
    assigners = Assigners(tmp_path / "assigners")
    assert assign(run, first, assigners) == ()
    assert assign(run, second, assigners) == (0.0,)
