"""Products and the likelihood of words: values and gradients against plain numpy and JAX's own derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.models import products

RNG = np.random.default_rng(0)
F32, BF16 = jnp.dtype("float32"), jnp.dtype("bfloat16")


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("form", ["product", "inner_products"])
def test_values_and_gradients_are_those_of_the_plain_product(form, batch):
    flip = form == "inner_products"
    left = RNG.normal(size=(*batch, 5, 7)).astype(np.float32)
    right = RNG.normal(size=(*batch, *((4, 7) if flip else (7, 4)))).astype(np.float32)
    probe = RNG.normal(size=(*batch, 5, 4)).astype(np.float32)
    found, gradients = jax.jit(jax.value_and_grad(lambda a, b: jnp.sum(getattr(products, form)(a, b, F32, F32) * probe), (0, 1)))(
        left, right
    )
    swapped = np.swapaxes(right, -1, -2)
    np.testing.assert_allclose(found, np.sum(left @ (swapped if flip else right) * probe), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], probe @ (right if flip else swapped), rtol=1e-5, atol=1e-5)
    to_right = np.swapaxes(left, -1, -2) @ probe
    np.testing.assert_allclose(gradients[1], np.swapaxes(to_right, -1, -2) if flip else to_right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["product", "inner_products"])
def test_the_gradient_of_a_float32_parameter_is_not_rounded(form):
    """Its factors are in bfloat16, their products are summed and kept in float32."""
    left, right, probe = (RNG.normal(size=(64, 64)).astype(np.float32) for _ in range(3))
    total = lambda right: jnp.sum(getattr(products, form)(left, right, BF16, F32) * probe)  # noqa: E731
    found = np.asarray(jax.jit(jax.grad(total))(right))
    short = [np.asarray(jnp.asarray(x, BF16), np.float64) for x in (left, probe)]
    expected = short[0].T @ short[1] if form == "product" else short[1].T @ short[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [2**25, 2 * 3 * 11, 1])
def test_surprise_is_the_weighted_cross_entropy(monkeypatch, chunk, with_bias):
    """One chunk, several, and one slot a chunk; against log_softmax and JAX's own derivatives."""
    monkeypatch.setattr(products, "CHUNK", chunk)
    hidden, rows = RNG.normal(size=(2, 6, 5)).astype(np.float32), RNG.normal(size=(11, 5)).astype(np.float32)
    bias = RNG.normal(size=11).astype(np.float32) if with_bias else None
    words, weights = RNG.integers(0, 11, (2, 6)), RNG.random((2, 6)).astype(np.float32)

    def plain(hidden, rows, bias):
        logs = jax.nn.log_softmax(hidden @ rows.T + (0.0 if bias is None else bias[None, None]))
        return -jnp.sum(jnp.take_along_axis(logs, words[..., None], axis=-1)[..., 0] * weights)

    def ours(hidden, rows, bias):
        return products.surprise(hidden, rows, bias, words, weights, F32)

    def both(loss):
        # A factor, so that a gradient which forgets its cotangent is seen.
        return jax.jit(jax.value_and_grad(lambda *args: 3.0 * loss(*args), (0, 1, 2)))(hidden, rows, bias)

    for found, expected in zip(jax.tree.leaves(both(ours)), jax.tree.leaves(both(plain)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(ours)(hidden, rows, bias), plain(hidden, rows, bias), rtol=1e-6)


def test_no_array_of_all_scores_is_made(monkeypatch):
    monkeypatch.setattr(products, "CHUNK", 4 * 4 * 64)
    arguments = jnp.ones((4, 16, 8)), jnp.ones((64, 8)), None, jnp.zeros((4, 16), int), jnp.ones((4, 16))
    program = jax.jit(jax.grad(lambda *args: products.surprise(*args, F32), (0, 1))).lower(*arguments).as_text()
    assert "16x64xf32" in program and "64x64xf32" not in program
