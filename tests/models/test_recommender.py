"""The recommender's loss is -log p(item), its states know the past alone, and padding teaches nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.models.recommender import (
    Head,
    Histories,
    Recommender,
    RecommenderConfig,
    RecommenderFunctions,
    among,
    unpack,
)
from lmindexer_jax.retrieval.catalogue import make_catalogue

SIZES = (5, 40, 3)  # the second needs two words of bits
ITEMS = 30


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    wide = np.stack([rng.integers(0, size, 400) for size in (5, 40, 3)], 1)
    wide[:, 1] = wide[:, 1] // 10 * 13  # few, and far apart: prefixes have siblings
    found = np.unique(wide, axis=0)
    return rng.permutation(found)[:ITEMS].astype(np.int32)


@pytest.fixture(scope="module")
def model(codes):
    catalogue = make_catalogue(codes, SIZES, np.random.default_rng(1).normal(size=(ITEMS, 7)))
    config = RecommenderConfig(width=16, layers=2, heads=2, hidden=16, length=12, dropout=0.0)
    functions = RecommenderFunctions(Recommender(config, Head.CODES, ITEMS, SIZES, 7))
    params = functions.init(jax.random.key(0), catalogue)
    params = jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim > 1 else leaf, params)  # far from uniform
    return functions, params, catalogue


def brute_force(functions, params, states, codes):
    """log p of every item after every state, by the children that the list of codes itself shows."""
    out = np.zeros((len(states), len(codes)))

    @jax.jit
    def levels(repeated):
        return functions.module.apply({"params": params}, states, repeated, method=Recommender.levels)

    for item, code in enumerate(codes):
        for level, values in enumerate(levels(np.tile(code[None], (len(states), 1)))):
            siblings = sorted({other[level] for other in codes.tolist() if other[:level] == code[:level].tolist()})
            values = np.asarray(values, np.float64)
            out[:, item] += values[:, code[level]] - np.logaddexp.reduce(values[:, siblings], axis=1)
    return out


def test_the_levels_add_up_to_the_log_probability_of_the_item(model, codes):
    functions, params, catalogue = model
    states = jax.random.normal(jax.random.key(1), (3, 16))
    likelihood = jax.jit(functions.log_likelihood)
    logs = jnp.stack(
        [likelihood(params, states, jnp.full(3, item), catalogue).sum(-1) for item in range(ITEMS)], axis=1
    )
    np.testing.assert_allclose(logs, brute_force(functions, params, states, codes), atol=2e-5)
    np.testing.assert_allclose(np.exp(logs).sum(1), 1.0, atol=1e-5)


def test_a_state_has_seen_its_own_past_alone(model):
    functions, params, catalogue = model
    items = np.random.default_rng(2).integers(0, ITEMS, (1, 12)).astype(np.int32)
    segment = np.array([[1] * 5 + [2] * 7])
    states = jax.jit(functions.states)
    before = states(params, Histories(items, segment), catalogue)
    for changed in range(12):
        other = items.copy()
        other[0, changed] = (other[0, changed] + 1) % ITEMS
        after = states(params, Histories(other, segment), catalogue)
        moved = np.abs(np.asarray(after - before)).max(-1)[0] > 0
        end = 5 if changed < 5 else 12
        assert not moved[:changed].any() and not moved[end:].any()
        assert moved[changed:end].all()


def test_a_history_is_read_alike_wherever_it_lies_in_a_row(model):
    functions, params, catalogue = model
    items = np.random.default_rng(3).integers(0, ITEMS, 5).astype(np.int32)
    rows, segment = np.zeros((2, 12), np.int32), np.zeros((2, 12), np.int32)
    rows[0, :5], segment[0, :5] = items, 1
    rows[1, :6], segment[1, :6], rows[1, 6:11], segment[1, 6:11] = 9, 1, items, 2
    states = jax.jit(functions.states)(params, Histories(rows, segment), catalogue)
    np.testing.assert_allclose(states[0, :5], states[1, 6:11], atol=1e-5)


def test_padding_teaches_nothing(model):
    functions, params, catalogue = model
    items = jnp.asarray([[3, 4, 5, 0, 0, 0]], jnp.int32)
    segment = jnp.asarray([[1, 1, 1, 0, 0, 0]], jnp.int32)
    weight = jnp.asarray([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])

    def loss(params):
        states = functions.states(params, Histories(items, segment), catalogue)[0]
        return -jnp.sum(functions.log_likelihood(params, states, jnp.asarray([4, 5, 6, 0, 0, 0]), catalogue).sum(-1) * weight)

    gradient = jax.jit(jax.grad(loss))(params)["item"]["embedding"]
    moved = np.flatnonzero(np.abs(np.asarray(gradient)).max(-1) > 0)
    np.testing.assert_array_equal(moved, [3, 4, 5])


def test_masks_of_bits():
    words = np.array([[0b1011, 1 << 7]], np.uint32)
    bits = np.asarray(unpack(words, 40))[0]
    np.testing.assert_array_equal(np.flatnonzero(bits), [0, 1, 3, 39])
    logs = np.asarray(among(jnp.zeros((1, 40)), words))[0]
    np.testing.assert_allclose(logs[[0, 1, 3, 39]], np.log(0.25), atol=1e-6)
    assert (np.exp(np.delete(logs, [0, 1, 3, 39])) == 0).all()
