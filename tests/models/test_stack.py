"""However its layers are run, a model says and learns the same; computed twice it keeps less, as a loop it is shorter."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.models.bert import BertConfig, BertEncoder
from lmindexer_jax.models.stack import StackConfig
from lmindexer_jax.models.t5 import T5Config, T5Decoder, T5Encoder

T5 = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=128, num_layers=4, num_decoder_layers=4, num_heads=4)
BERT = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128)
RNG = np.random.default_rng(0)
EMBEDDED = jnp.asarray(RNG.normal(size=(8, 64, 32)), jnp.float32)
MASK = jnp.arange(64)[None] < jnp.asarray([64, 40, 1, 7, 64, 64, 3, 9])[:, None]
KINDS = {
    "t5-encoder": (functools.partial(T5Encoder, T5), (EMBEDDED, MASK)),
    "t5-decoder": (functools.partial(T5Decoder, T5), (EMBEDDED[:, :3], EMBEDDED, MASK)),
    "bert": (functools.partial(BertEncoder, BERT), (jnp.asarray(RNG.integers(0, 50, (8, 64))), MASK)),
}
WAYS = [StackConfig(*way) for way in itertools.product((False, True), repeat=2)]


@functools.cache
def parameters(kind):
    make, inputs = KINDS[kind]
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(leaf.size).normal(size=leaf.shape) * 0.1, jnp.float32) + leaf,
        make().init(jax.random.key(0), *inputs),
    )


@functools.cache
def lowered(kind, way, dropout):
    make, inputs = KINDS[kind]

    def loss(params):
        key = {"rngs": {"dropout": jax.random.key(1)}} if dropout else {}
        states = make(stack=way).apply(params, *inputs, deterministic=not dropout, **key)
        return jnp.sum(jnp.where(MASK[:, : states.shape[1], None], states, 0) ** 2) / states.size, states

    return jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(parameters(kind))


@functools.cache
def compiled(kind, way, dropout):
    return lowered(kind, way, dropout).compile()


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_the_same_tree(kind):
    make, inputs = KINDS[kind]
    trees = [make(stack=way).init(jax.random.key(0), *inputs) for way in WAYS]
    for tree in trees[1:]:
        jax.tree.map(np.testing.assert_array_equal, trees[0], tree)


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_do_not_depend_on_it(kind, way):
    (_, wanted), gradient = compiled(kind, WAYS[0], False)(parameters(kind))
    (_, found), other = compiled(kind, way, False)(parameters(kind))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6), gradient, other)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_draws_the_same_where_no_loop_is(kind):
    plain, twice = (compiled(kind, StackConfig(remat=remat), True)(parameters(kind)) for remat in (False, True))
    np.testing.assert_allclose(plain[0][1], twice[0][1], rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6), plain[1], twice[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_draws_for_every_layer_anew(kind):
    """With one mask for all layers the states would vary otherwise: compare their spread over keys with the plain one's."""
    make, inputs = KINDS[kind]

    @functools.partial(jax.jit, static_argnums=0)
    def states(way, key):
        return make(stack=way).apply(parameters(kind), *inputs, deterministic=False, rngs={"dropout": key})

    spreads = [np.std([states(way, jax.random.key(n)) for n in range(40)], axis=0).mean() for way in (WAYS[0], StackConfig(scan=True))]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.03)
    assert not np.allclose(*(states(StackConfig(scan=True), jax.random.key(n)) for n in range(2)))


def test_computed_twice_it_keeps_less_and_as_a_loop_it_is_shorter():
    kept = {way: compiled("t5-encoder", way, False).memory_analysis().temp_size_in_bytes for way in WAYS}
    assert kept[StackConfig(remat=True)] < 0.6 * kept[WAYS[0]]
    assert kept[StackConfig(remat=True, scan=True)] < 0.6 * kept[StackConfig(scan=True)]
    products = {way: lowered("t5-encoder", way, False).as_text().count("dot_general") for way in WAYS}
    assert products[StackConfig(scan=True)] < 0.4 * products[WAYS[0]]
