import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.models import layers


def random_attention(seed, *, batch, queries, keys, width, heads, head_dim):
    """Query, context and the two kernels, at the sizes that give scores around 1."""
    rng = np.random.default_rng(seed)
    inner = heads * head_dim
    query = rng.normal(size=(batch, queries, inner)) / head_dim**0.5
    context = rng.normal(size=(batch, keys, width))
    kernels = (rng.normal(size=(width, inner)) / width**0.5 for _ in range(2))
    mask = rng.random((batch, 1, 1, keys)) < 0.7
    arrays = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), (query, context, *kernels))
    return arrays, jnp.asarray(mask)


def plain(query, context, key_kernel, value_kernel, **options):
    return layers.attend(query, context @ key_kernel, context @ value_kernel, **options)


@pytest.mark.parametrize("queries", [1, 4])
def test_folded_attention_equals_the_plain_form_in_values_and_gradients(queries):
    arrays, mask = random_attention(0, batch=3, queries=queries, keys=20, width=24, heads=4, head_dim=6)
    probe = jax.random.normal(jax.random.key(1), (3, queries, 24))

    def run(form):
        def total(arrays):
            mixed = form(*arrays, heads=4, mask=mask)
            return jnp.sum(mixed * probe), mixed

        gradient, mixed = jax.jit(jax.grad(total, has_aux=True))(arrays)
        return mixed, *gradient

    for found, expected in zip(run(layers.attend_folded), run(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * float(jnp.max(jnp.abs(expected))))


def test_attention_equals_its_definition():
    """Against a loop over rows, heads and queries in float64."""
    arrays, mask = random_attention(2, batch=2, queries=3, keys=5, width=8, heads=2, head_dim=4)
    bias = jnp.asarray(np.random.default_rng(3).normal(size=(1, 2, 3, 5)), jnp.float32)
    found = plain(*arrays, heads=2, bias=bias, mask=mask)
    query, context, key_kernel, value_kernel = (np.asarray(value, np.float64) for value in arrays)
    for row in range(2):
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            key, value = context[row] @ key_kernel[:, part], context[row] @ value_kernel[:, part]
            for t in range(3):
                scores = np.exp(key @ query[row, t, part] + np.asarray(bias)[0, head, t]) * np.asarray(mask)[row, 0, 0]
                expected = (scores / scores.sum()) @ value
                np.testing.assert_allclose(found[row, t, part], expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    queries=st.integers(1, 200),
    keys=st.integers(1, 600),
    heads=st.integers(1, 16),
    head_dim=st.sampled_from([16, 32, 64]),
)
def test_folding_is_chosen_where_it_multiplies_less(queries, keys, heads, head_dim):
    width = heads * head_dim
    inner = width
    fold_in_and_out = 2 * queries * inner * width
    over_context = 2 * queries * heads * keys * width
    projections = 2 * keys * width * inner
    over_heads = 2 * queries * keys * inner
    pays = layers.folding_pays(queries=queries, keys=keys, width=width, head_dim=head_dim)
    assert pays == (fold_in_and_out + over_context < projections + over_heads)
    assert not layers.folding_pays(queries=keys, keys=keys, width=width, head_dim=head_dim)


def test_the_attention_module_folds_for_few_queries_alone():
    """The compiled program of a few queries holds no projection of all the keys; both choices agree."""
    module = layers.Attention(32, 2, 16)
    inputs = jax.random.normal(jax.random.key(0), (2, 4, 32))
    context = jax.random.normal(jax.random.key(1), (2, 40, 32))
    params = module.init(jax.random.key(2), inputs, context)
    program = str(jax.make_jaxpr(module.apply)(params, inputs[:, :1], context))
    assert "f32[80,32] = dot_general" not in program
    assert "f32[80,32] = dot_general" in str(
        jax.make_jaxpr(module.apply)(params, jnp.tile(inputs, (1, 10, 1)), context)
    )
    few = module.apply(params, inputs, context)
    many = module.apply(params, jnp.tile(inputs, (1, 10, 1)), context)[:, :4]
    np.testing.assert_allclose(few, many, rtol=1e-5, atol=1e-6)


def t5_bucket(distance, *, buckets, max_distance, bidirectional):
    """The published rule for one distance (key - query), by plain arithmetic."""
    offset = 0
    if bidirectional:
        buckets //= 2
        offset = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    far = exact + int(math.log(distance / exact) / math.log(max_distance / exact) * (buckets - exact))
    return offset + min(far, buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 12)])
def test_relative_buckets_follow_the_published_rule(buckets, max_distance, bidirectional):
    options = {"buckets": buckets, "max_distance": max_distance, "bidirectional": bidirectional}
    found = layers.relative_buckets(150, 140, **options)
    expected = [[t5_bucket(key - query, **options) for key in range(140)] for query in range(150)]
    # At whole powers of the ratio the rule's logarithm rounds either way; float32 is what the trained models used.
    assert np.mean(found == expected) > 0.99
    assert np.max(np.abs(found - expected)) <= 1
    assert found.min() == 0
    assert found.max() == buckets - 1


@pytest.mark.parametrize("max_distance", [1, 4, 15, 16, 17])
def test_relative_buckets_of_short_inputs_are_exact_and_then_one(max_distance):
    with np.errstate(all="raise"):
        (found,) = layers.relative_buckets(40, 40, buckets=32, max_distance=max_distance, bidirectional=False)[-1:, ::-1]
    assert found[:16].tolist() == list(range(16))
    assert (np.diff(found) >= 0).all() and (found[17:] == 31).all()


def test_relative_bias_looks_its_table_up():
    module = layers.RelativeBias(3, buckets=8, max_distance=12)
    params = module.init(jax.random.key(0), 5, 7)
    table = np.asarray(params["params"]["embedding"])
    buckets = layers.relative_buckets(5, 7, buckets=8, max_distance=12, bidirectional=True)
    np.testing.assert_array_equal(module.apply(params, 5, 7)[0], table[buckets].transpose(2, 0, 1))


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(0.01, 0.9), seed=st.integers(0, 1000))
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate, seed):
    values = np.asarray(layers.dropout(jax.random.key(seed), jnp.ones((300, 128)), rate=rate))
    kept = values != 0
    spread = math.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) < 5 * spread
    np.testing.assert_allclose(values[kept], 1 / (1 - rate), rtol=1e-6)
    assert abs(values.mean() - 1) < 5 * spread / (1 - rate)


@pytest.mark.parametrize("lag", [1, 2, 64, 768, 4096])
def test_random_words_have_fair_and_independent_bits(lag):
    """Every bit is fair; no bit agrees with another at any short or row-like distance more often than chance."""
    words = np.asarray(layers.random_words(jax.random.key(0), (64, 4096))).reshape(-1)
    bits = (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    bits = bits.astype(np.float32) * 2 - 1
    limit = 6 / math.sqrt(len(words))
    assert np.max(np.abs(bits.mean(0))) < limit
    assert np.max(np.abs(bits[lag:].T @ bits[:-lag] / (len(words) - lag))) < limit
    assert np.max(np.abs(bits.T @ bits / len(words) - np.eye(32))) < limit


def test_random_words_of_near_keys_are_unrelated():
    """Seeds that follow each other, and keys folded from one, give words whose bits agree by chance alone."""
    folded = [jax.random.fold_in(jax.random.key(7), step) for step in range(8)]
    keys = [jax.random.key(seed) for seed in range(8)] + folded
    words = np.stack([np.asarray(layers.random_words(key, (4096,))) for key in keys])
    bits = ((words[..., None] >> np.arange(32, dtype=np.uint32)) & 1).reshape(16, -1).astype(np.float32) * 2 - 1
    agreement = bits @ bits.T / bits.shape[1] - np.eye(16)
    assert np.max(np.abs(agreement)) < 6 / math.sqrt(bits.shape[1])


def test_random_words_are_the_same_however_they_are_made():
    key = jax.random.key(3)
    plain = layers.random_words(key, (6, 10))
    np.testing.assert_array_equal(jax.jit(layers.random_words, static_argnums=1)(key, (6, 10)), plain)
    np.testing.assert_array_equal(layers.random_words(key, (60,)).reshape(6, 10), plain)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_norms_equal_their_definitions(offset):
    values = np.random.default_rng(0).normal(size=(4, 3, 16)) * 5 + offset
    given_values = jnp.asarray(values, jnp.float32)
    scale, bias = np.linspace(0.5, 2, 16), np.linspace(-1, 1, 16)
    rms = layers.RMSNorm(16).apply({"params": {"scale": jnp.asarray(scale, jnp.float32)}}, given_values)
    np.testing.assert_allclose(rms, values / np.sqrt(np.mean(values**2, -1, keepdims=True)) * scale, rtol=1e-5)
    params = {"scale": jnp.asarray(scale, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    normed = (values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True) * scale + bias
    found = layers.LayerNorm(16).apply({"params": params}, given_values)
    np.testing.assert_allclose(found, normed, rtol=0, atol=1e-4 if offset else 1e-5)


def test_norms_of_bfloat16_are_computed_in_float32():
    values = jnp.asarray(np.random.default_rng(1).normal(size=(8, 512)) + 30, jnp.bfloat16)
    module = layers.LayerNorm(512, dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), values)
    exact = layers.LayerNorm(512).apply(params, values.astype(jnp.float32))
    np.testing.assert_allclose(module.apply(params, values).astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)
