import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.errors import UserError
from lmindexer_jax.models import presets, pretrained
from lmindexer_jax.models.bert import BertConfig, BertEncoder, check_positions
from lmindexer_jax.models.t5 import T5Config

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
    initializer_range=0.3,
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(2, 30, (3, 9)), jnp.int32)
MASK = jnp.arange(9)[None] < jnp.asarray([9, 4, 1])[:, None]


@functools.cache
def parameters() -> dict:
    return jax.jit(BertEncoder(CONFIG).init)(jax.random.key(0), TOKENS, MASK)


@functools.cache
def forward(dtype=jnp.float32):
    return jax.jit(functools.partial(BertEncoder(CONFIG, dtype).apply, deterministic=True))


def relative_error(found, expected) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_values_and_gradients_are_those_of_pytorch(golden, hugging_face):
    made = golden("bert")
    config, params = pretrained.load(hugging_face("bert"))
    inputs = {key: jnp.asarray(value) for key, value in made["input"].items()}

    def total(params):
        encoded = BertEncoder(config).apply({"params": params}, inputs["tokens"], inputs["mask"])
        return jnp.sum(encoded * inputs["probe"]), encoded

    gradient, encoded = jax.jit(jax.grad(total, has_aux=True))(params)
    real = made["input"]["mask"]
    np.testing.assert_allclose(np.asarray(encoded)[real], made["output"]["encoded"][real], rtol=0, atol=1e-5)
    flat = flax.traverse_util.flatten_dict(gradient, sep="/")
    names = pretrained._names(config)
    assert names.keys() == made["gradient"].keys()
    # A key's bias shifts all scores of a query alike, so its true gradient is 0: errors are taken against the largest.
    largest = max(np.linalg.norm(value) for value in made["gradient"].values())
    for hf_name, path in names.items():
        expected = made["gradient"][hf_name]
        expected = expected.T if path.endswith("/kernel") else expected
        scale = largest if hf_name.endswith("key.bias") else np.linalg.norm(expected)
        assert np.linalg.norm(flat[path] - expected) < 1e-4 * scale, hf_name


def test_sentence_embeddings_of_minilm_are_those_of_pytorch(golden):
    made = golden("minilm")
    preset = presets.resolve("minilm")
    tokens, mask = jnp.asarray(made["input"]["tokens"], jnp.int32), jnp.asarray(made["input"]["mask"])
    hidden = jax.jit(BertEncoder(preset.config).apply)({"params": presets.load(preset)}, tokens, mask)
    mean = jnp.sum(hidden * mask[..., None], axis=1) / jnp.sum(mask, axis=1, keepdims=True)
    unit = mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(unit, made["output"]["embeddings"], rtol=0, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_padding_has_no_influence(seed):
    noise = jnp.asarray(np.random.default_rng(seed).integers(0, 30, TOKENS.shape), jnp.int32)
    before = forward()(parameters(), TOKENS, MASK)
    after = forward()(parameters(), jnp.where(MASK, TOKENS, noise), MASK)
    np.testing.assert_array_equal(np.asarray(after)[np.asarray(MASK)], np.asarray(before)[np.asarray(MASK)])


def test_padding_gets_no_gradient():
    """Each position has a table row of its own here, so the word table's gradient shows who was read."""
    tokens = jnp.arange(27, dtype=jnp.int32).reshape(3, 9)

    def total(params):
        hidden = BertEncoder(CONFIG).apply(params, tokens, MASK)
        return jnp.sum(jnp.where(MASK[..., None], jnp.sin(3 * hidden), 0))

    gradient = np.asarray(jax.jit(jax.grad(total))(parameters())["params"]["embeddings"]["word"]["embedding"])
    read = np.any(gradient != 0, axis=1)
    np.testing.assert_array_equal(read, np.append(np.asarray(MASK).reshape(-1), [False] * 3))


def test_a_row_is_the_same_bits_beside_any_rows():
    alone = forward()(parameters(), TOKENS, MASK)[0]
    others = jnp.flip(TOKENS, axis=1).at[0].set(TOKENS[0])
    np.testing.assert_array_equal(forward()(parameters(), others, MASK)[0], alone)


def test_dropout_is_off_when_deterministic_and_a_function_of_the_key_when_on():
    @jax.jit
    def run(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return BertEncoder(CONFIG).apply(parameters(), TOKENS, MASK, deterministic=False, rngs=rngs)[0]

    plain = forward()(parameters(), TOKENS, MASK)[0]
    np.testing.assert_array_equal(run(0), run(0))
    assert relative_error(run(0), run(1)) > 0.05
    assert relative_error(run(0), plain) > 0.05


def test_bfloat16_stays_near_float32():
    exact, half = forward()(parameters(), TOKENS, MASK), forward(jnp.bfloat16)(parameters(), TOKENS, MASK)
    assert half.dtype == jnp.bfloat16
    assert relative_error(half.astype(jnp.float32), exact) < 0.03


def test_settings_beyond_the_positions_are_refused():
    check_positions(CONFIG, 12, setting="length=12")
    check_positions(T5Config(), 10_000, setting="length=10000")
    with pytest.raises(UserError, match="length=9: this language model has 12 positions; give at most 8"):
        check_positions(CONFIG, 16, setting="length=9")


def test_more_tokens_than_positions_are_refused():
    tokens = jnp.zeros((1, 13), jnp.int32)
    with pytest.raises(ValueError, match="13 tokens, but this model has 12 positions"):
        BertEncoder(CONFIG).apply(parameters(), tokens, tokens == 0)
