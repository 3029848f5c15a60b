"""The rq-VAE: its gradient against one written out by hand, and its levels against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.models.quantiser import CodebookUpdate
from lmindexer_jax.models.rqvae import RqVae, RqVaeConfig, RqVaeFunctions, quantise_residuals

BATCH, WIDTH, LATENT, SIZES = 7, 5, 3, (4, 6)


@pytest.fixture(scope="module")
def linear():
    """Encoder and decoder of one linear map each, and vectors."""
    functions = RqVaeFunctions(RqVae(RqVaeConfig(hidden=(), latent=LATENT, commitment=0.25), WIDTH, SIZES))
    params = functions.init(jax.random.key(0))
    return functions, params, np.random.default_rng(0).normal(size=(BATCH, WIDTH)).astype(np.float32)


def test_levels_choose_the_nearest_row_and_pass_on_the_rest(linear):
    functions, params, x = linear
    levels = functions.levels(params, x)
    rest = np.asarray(functions.encode(params, x), np.float64)
    whole = np.zeros_like(rest)
    for level, rows in enumerate(functions.books(params)):
        np.testing.assert_allclose(levels.residuals[:, level], rest, atol=1e-5)
        distances = np.square(rest[:, None] - np.asarray(rows)[None]).sum(-1)
        np.testing.assert_array_equal(levels.codes[:, level], distances.argmin(1))
        rest = rest - np.asarray(rows)[distances.argmin(1)]
        whole += np.asarray(rows)[distances.argmin(1)]
    np.testing.assert_allclose(levels.vector, whole, atol=1e-5)


def test_the_gradient_is_the_straight_through_one(linear):
    functions, params, x = linear

    def loss(params):
        out = functions.forward(params, x)
        return jnp.mean(out.reconstruction) + jnp.mean(out.quantisation)

    found = jax.jit(jax.grad(loss))(params)

    layer = {name: {k: np.asarray(v, np.float64) for k, v in params[name]["layers_0"].items()} for name in ("encoder", "decoder")}
    rest = x @ layer["encoder"]["kernel"] + layer["encoder"]["bias"]
    to_latent = np.zeros_like(rest)
    whole = np.zeros_like(rest)
    for level, rows in enumerate(map(np.asarray, functions.books(params))):
        code = np.square(rest[:, None] - rows[None]).sum(-1).argmin(1)
        away = rest - rows[code]
        to_latent += 0.25 * 2 * away / LATENT / BATCH  # commitment pulls the encoder
        to_rows = np.zeros(rows.shape)
        np.add.at(to_rows, code, -2 * away / LATENT / BATCH)  # and the rows follow
        np.testing.assert_allclose(found[f"codebook_{level}"], to_rows, atol=1e-6)
        rest, whole = away, whole + rows[code]
    to_rebuilt = -2 * (x - whole @ layer["decoder"]["kernel"] - layer["decoder"]["bias"]) / WIDTH / BATCH
    np.testing.assert_allclose(found["decoder"]["layers_0"]["kernel"], whole.T @ to_rebuilt, atol=1e-6)
    np.testing.assert_allclose(found["decoder"]["layers_0"]["bias"], to_rebuilt.sum(0), atol=1e-6)
    to_latent += to_rebuilt @ layer["decoder"]["kernel"].T  # straight through the rows
    np.testing.assert_allclose(found["encoder"]["layers_0"]["kernel"], x.T @ to_latent, atol=1e-6)
    np.testing.assert_allclose(found["encoder"]["layers_0"]["bias"], to_latent.sum(0), atol=1e-6)


def test_rows_that_follow_running_means_have_no_gradient(linear):
    functions, params, x = linear
    config = RqVaeConfig(latent=LATENT, update=CodebookUpdate.EMA)
    latents = functions.encode(params, x)

    def loss(books):
        return quantise_residuals(latents, books, config=config).loss.sum()

    assert all(np.all(np.asarray(gradient) == 0) for gradient in jax.grad(loss)(functions.books(params)))


def test_relu_stands_between_the_layers():
    functions = RqVaeFunctions(RqVae(RqVaeConfig(hidden=(6,), latent=LATENT), WIDTH, SIZES))
    params = functions.init(jax.random.key(1))
    x = np.random.default_rng(1).normal(size=(BATCH, WIDTH)).astype(np.float32)
    first, second = (params["encoder"][f"layers_{n}"] for n in range(2))
    by_hand = np.maximum(x @ first["kernel"] + first["bias"][None], 0) @ second["kernel"] + second["bias"][None]
    np.testing.assert_allclose(functions.encode(params, x), by_hand, atol=1e-5)
    assert params["decoder"]["layers_0"]["kernel"].shape == (LATENT, 6), "the decoder is the encoder in reverse"
