"""Training of the rq-VAE: its start, restarts of dead rows, use of all codes, and kills that change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import residual, rqvae
from lmindexer_jax.training.journal import Journal
from lmindexer_jax.models.quantiser import CodebookUpdate
from lmindexer_jax.models.rqvae import RqVae, RqVaeConfig, RqVaeFunctions
from lmindexer_jax.training.checkpoint import Checkpoints
from lmindexer_jax.training.sharding import MeshConfig, make_mesh

SIZES = (16, 16)
CONFIG = RqVaeConfig(hidden=(24,), latent=8)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(30, 20))
    return (middles[rng.integers(30, size=640)] + 0.3 * rng.normal(size=(640, 20))).astype(np.float32)


def fit(vectors, home, *, config=CONFIG, console=None, epochs=12):
    with Checkpoints(home / "checkpoints") as checkpoints:
        return rqvae.fit(
            vectors,
            sizes=SIZES,
            config=config,
            training=rqvae.RqVaeTraining(epochs=epochs, batch_size=64),
            dtype=jnp.dtype("float32"),
            key=jax.random.key(0),
            mesh=make_mesh(MeshConfig()),
            checkpoints=checkpoints,
            checkpoint_seconds=0.0,
            fingerprint="this run",
            journal=lambda epoch: Journal(home, resume_at=epoch),
            console=console or Console(Mode.QUIET),
        )[0]


@pytest.fixture(scope="module")
def whole(vectors, tmp_path_factory):
    home = tmp_path_factory.mktemp("whole")
    return fit(vectors, home), home


def begin(vectors, config=CONFIG):
    functions = RqVaeFunctions(RqVae(config, vectors.shape[1], SIZES))
    training = rqvae.RqVaeTraining(epochs=2, batch_size=64)
    state, _ = rqvae.start(functions, jnp.asarray(vectors), training, steps=10, key=jax.random.key(3))
    return functions, state


def test_books_start_as_residual_k_means_of_the_latents(vectors):
    functions, state = begin(vectors)
    rest = rqvae.latents(functions, state.params, vectors)
    for level, rows in enumerate(functions.books(state.params)):
        best = residual.fit(rest, [], size=16, key=jax.random.key(9))
        codes, left = residual.code(rest, [np.asarray(rows)])
        assert len(np.unique(codes)) == 16
        assert np.square(left).sum() <= 1.1 * np.square(residual.code(rest, [best])[1]).sum(), level
        rest = left


@pytest.mark.parametrize("update", list(CodebookUpdate))
def test_a_dead_row_is_restarted_at_a_residual(vectors, update):
    functions, state = begin(vectors, RqVaeConfig(hidden=(24,), latent=8, update=update))
    used = {f"used_{level}": jnp.ones(16) for level in range(2)}
    used["used_1"] = used["used_1"].at[jnp.array([2, 5, 11])].set(0.0)
    moments = jax.tree.map(jnp.ones_like, state.moments)
    state = state._replace(memory=state.memory | used, moments=moments)
    after = rqvae.restart_dead(functions, state, jnp.asarray(vectors[:64]), jax.random.key(0))
    np.testing.assert_array_equal(after.params["codebook_0"], state.params["codebook_0"])
    residuals = np.asarray(functions.levels(state.params, vectors[:64]).residuals[:, 1])
    rows, before = np.asarray(after.params["codebook_1"]), np.asarray(state.params["codebook_1"])
    moved = [2, 5, 11]
    np.testing.assert_array_equal(np.delete(rows, moved, axis=0), np.delete(before, moved, axis=0))
    owners = [np.flatnonzero(np.abs(residuals - rows[row]).max(axis=1) < 1e-5) for row in moved]
    assert all(len(owner) for owner in owners) and len({int(owner[0]) for owner in owners}) == 3
    if update == CodebookUpdate.EMA:
        np.testing.assert_array_equal(after.memory["total_1"], jnp.where(used["used_1"][:, None] == 0, rows, before))
        return
    flat = jax.tree_util.tree_flatten_with_path(after.moments)[0]
    mine = [np.asarray(leaf) for path, leaf in flat if getattr(path[-1], "key", "") == "codebook_1"]
    assert len(mine) == 2
    for leaf in mine:
        assert np.all(leaf[moved] == 0) and np.all(np.delete(leaf, moved, axis=0) == 1)


@pytest.mark.parametrize("update", list(CodebookUpdate))
def test_nearly_all_codes_are_used(vectors, whole, tmp_path, update):
    config = RqVaeConfig(hidden=(24,), latent=8, update=update)
    fitted = whole[0] if update == CONFIG.update else fit(vectors, tmp_path, config=config)
    codes = rqvae.code(vectors, fitted, config=config)
    for level in range(2):
        assert len(np.unique(codes[:, level])) >= 0.95 * 16


def test_training_explains_more_and_says_so(whole):
    import json

    *rows, end = [json.loads(line) for line in (whole[1] / "metrics.jsonl").read_text().splitlines()]
    assert [row["number"] for row in rows] == list(range(1, 13))
    assert end["event"] == "stage" and end["number"] == 13
    assert rows[-1]["reconstruction"] < 0.7 * rows[0]["reconstruction"]
    assert all(0 < rows[-1][f"usage_{level}"] <= 1 and rows[-1][f"perplexity_{level}"] <= 16.001 for level in (1, 2))


def test_killed_and_started_again_ends_with_the_same_bits(vectors, whole, tmp_path):
    deaths = 0
    while True:
        try:
            fitted = fit(vectors, tmp_path, console=runs.Mortal(5))
            break
        except runs.Killed:
            deaths += 1
    assert deaths >= 2
    jax.tree.map(np.testing.assert_array_equal, fitted, whole[0])
    lines = [(home / "metrics.jsonl").read_text().splitlines() for home in (tmp_path, whole[1])]
    assert len(lines[0]) == len(lines[1]) == 13


def test_alone_as_in_company(vectors, whole):
    codes = rqvae.code(vectors, whole[0], config=CONFIG)
    for row in (0, 77, 639):
        np.testing.assert_array_equal(rqvae.code(vectors[row : row + 1], whole[0], config=CONFIG)[0], codes[row])


def test_other_checkpoints_and_senseless_settings_are_one_line(vectors, whole):
    functions, state = begin(vectors)
    with Checkpoints(whole[1] / "checkpoints") as checkpoints:
        assert checkpoints.steps()
        with pytest.raises(UserError, match="of other settings or data"):
            like = rqvae.start(
                functions, jnp.asarray(vectors), rqvae.RqVaeTraining(epochs=12, batch_size=64), steps=10,
                key=jax.random.key(0),
            )[0]
            rqvae.restore(checkpoints, like, fingerprint="that run", console=Console(Mode.QUIET))
    with pytest.raises(UserError, match="at least 1"):
        rqvae.check(rqvae.RqVaeTraining(epochs=0), documents=10)
