import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmindexer_jax.models import pretrained
from lmindexer_jax.models.layers import FeedForwardKind
from lmindexer_jax.models.t5 import T5, T5Config, T5Decoder, T5Encoder

CONFIG = T5Config(
    vocab_size=30,
    d_model=16,
    d_kv=8,
    d_ff=24,
    num_layers=2,
    num_decoder_layers=2,
    num_heads=2,
    feed_forward=FeedForwardKind.GATED_GELU,
    tie_word_embeddings=False,
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(2, 30, (3, 9)), jnp.int32)
MASK = jnp.arange(9)[None] < jnp.asarray([9, 4, 1])[:, None]
TARGETS = TOKENS[:, :5]


@functools.cache
def parameters() -> dict:
    return jax.jit(T5(CONFIG).init)(jax.random.key(0), TOKENS, MASK, TARGETS)


@functools.cache
def forward(dtype=jnp.float32):
    return jax.jit(functools.partial(T5(CONFIG, dtype).apply, deterministic=True))


def relative_error(found, expected) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", ["t5_v1_0", "t5_v1_1"])
def test_values_and_gradients_are_those_of_pytorch(name, golden, hugging_face):
    made = golden(name)
    config, params = pretrained.load(hugging_face(name))
    inputs = {key: jnp.asarray(value) for key, value in made["input"].items()}

    def loss(params):
        logits = T5(config).apply({"params": params}, inputs["tokens"], inputs["mask"], inputs["decoder_tokens"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, inputs["labels"]).mean(), logits

    (value, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(logits, made["output"]["logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(value, made["output"]["loss"], rtol=1e-6)
    encode = jax.jit(functools.partial(T5(config).apply, method=T5.encode))
    encoded = encode({"params": params}, inputs["tokens"], inputs["mask"])
    real = made["input"]["mask"]
    np.testing.assert_allclose(np.asarray(encoded)[real], made["output"]["encoded"][real], rtol=0, atol=1e-5)

    flat = flax.traverse_util.flatten_dict(gradient, sep="/")
    names = pretrained._names(config)
    assert names.keys() == made["gradient"].keys()
    for hf_name, path in names.items():
        expected = made["gradient"][hf_name]
        expected = expected.T if path.endswith("/kernel") else expected
        assert relative_error(flat[path], expected) < 1e-4, hf_name


@settings(max_examples=20, deadline=None)
@given(position=st.integers(0, 4), token=st.integers(0, 29))
def test_the_decoder_never_sees_the_future(position, token):
    """A changed decoder token leaves every earlier position's logits as they were, bit for bit."""
    changed = TARGETS.at[:, position].set(token)
    before = forward()(parameters(), TOKENS, MASK, TARGETS)
    after = forward()(parameters(), TOKENS, MASK, changed)
    np.testing.assert_array_equal(after[:, :position], before[:, :position])
    same_token = np.asarray(changed[:, position] == TARGETS[:, position])
    same_logits = np.asarray(after[:, position] == before[:, position]).all(axis=-1)
    np.testing.assert_array_equal(same_logits, same_token)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_padding_has_no_influence(seed):
    """Whatever stands at masked positions, the logits are the same bits."""
    noise = jnp.asarray(np.random.default_rng(seed).integers(0, 30, TOKENS.shape), jnp.int32)
    before = forward()(parameters(), TOKENS, MASK, TARGETS)
    np.testing.assert_array_equal(forward()(parameters(), jnp.where(MASK, TOKENS, noise), MASK, TARGETS), before)


def test_padding_gets_no_gradient():
    embedded = jax.random.normal(jax.random.key(1), (*TOKENS.shape, CONFIG.d_model))

    def total(embedded):
        def run(model):
            encoded = model.encoder(embedded, MASK)
            return model.logits(model.decode_embedded(model.embed(TARGETS), encoded, MASK))

        return jnp.sum(jnp.square(T5(CONFIG).apply(parameters(), method=run)))

    gradient = jax.jit(jax.grad(total))(embedded)
    assert np.all(np.asarray(gradient)[~np.asarray(MASK)] == 0)
    assert np.all(np.any(np.asarray(gradient)[np.asarray(MASK)] != 0, axis=-1))


def test_a_document_without_tokens_gives_numbers():
    logits = forward()(parameters(), TOKENS, jnp.zeros_like(MASK), TARGETS)
    assert np.all(np.isfinite(logits))


def test_a_row_is_the_same_bits_beside_any_rows():
    alone = forward()(parameters(), TOKENS, MASK, TARGETS)[0]
    others = jnp.flip(TOKENS, axis=1).at[0].set(TOKENS[0])
    np.testing.assert_array_equal(forward()(parameters(), others, MASK, TARGETS.at[1:].set(3))[0], alone)


def test_dropout_is_off_when_deterministic_and_a_function_of_the_key_when_on():
    model = T5(dataclasses.replace(CONFIG, num_layers=1, num_decoder_layers=1))
    params = jax.jit(model.init)(jax.random.key(0), TOKENS, MASK, TARGETS)

    @jax.jit
    def run(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(params, TOKENS, MASK, TARGETS, deterministic=False, rngs=rngs)

    plain = jax.jit(model.apply)(params, TOKENS, MASK, TARGETS)
    np.testing.assert_array_equal(run(0), run(0))
    assert relative_error(run(0), run(1)) > 0.01
    assert relative_error(run(0), plain) > 0.01
    mean = jnp.mean(jnp.stack([run(seed) for seed in range(64)]), axis=0)
    assert relative_error(mean, plain) < 0.5 * relative_error(run(0), plain)


def test_bfloat16_stays_near_float32_and_gives_float32_logits():
    exact = forward()(parameters(), TOKENS, MASK, TARGETS)
    half = forward(jnp.bfloat16)(parameters(), TOKENS, MASK, TARGETS)
    assert half.dtype == jnp.float32
    assert relative_error(half, exact) < 0.03


def test_parameters_are_float32_in_every_compute_type():
    shapes = jax.eval_shape(T5(CONFIG, jnp.bfloat16).init, jax.random.key(0), TOKENS, MASK, TARGETS)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}


def test_encoder_and_decoder_stand_alone_on_their_part_of_the_tree():
    params = parameters()["params"]

    @jax.jit
    def run(params):
        embedded = params["shared"]["embedding"][TOKENS]
        encoded = T5Encoder(CONFIG).apply({"params": params["encoder"]}, embedded, MASK)
        start = params["shared"]["embedding"][TARGETS]
        hidden = T5Decoder(CONFIG).apply({"params": params["decoder"]}, start, encoded, MASK)
        return hidden @ params["lm_head"]["embedding"].T

    np.testing.assert_allclose(run(params), forward()(parameters(), TOKENS, MASK, TARGETS), rtol=1e-5, atol=1e-5)
