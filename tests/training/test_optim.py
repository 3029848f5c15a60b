"""Rules by path, freezing, and steps of AdamW against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.recipe import plan
from lmindexer_jax.models.reconstructor import ReconstructorKind
from lmindexer_jax.recipes import ours
from lmindexer_jax.training import optim
from lmindexer_jax.training.optim import OptimConfig, make_optimiser, match_rules, merge, schedule, split


def tree():
    return {
        "encoder": {"layer_0": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones((3,))}},
        "codebook_0": jnp.full((2, 2), 0.5),
    }


RULES = (("encoder/.*/bias", 0.0), ("encoder/.*", 0.1), ("codebook_0", 1.0))


def test_the_first_rule_that_matches_the_whole_path_wins():
    assert match_rules(tree(), RULES) == {
        "encoder/layer_0/bias": 0.0,
        "encoder/layer_0/kernel": 0.1,
        "codebook_0": 1.0,
    }


@pytest.mark.parametrize(
    "rules, named",
    [
        ((("encoder/.*", 1.0),), "codebook_0"),
        ((("encoder", 1.0), ("codebook_0", 1.0)), "encoder/layer_0/"),  # a part of a path is no match
        ((*RULES, ("decoder/.*", 1.0)), "decoder"),
        (((".*", 1.0), ("codebook_0", 0.0)), "codebook_0"),  # decides for nothing: an earlier rule took it
    ],
)
def test_a_rule_or_parameter_left_over_is_named(rules, named):
    with pytest.raises(UserError, match=named) as error:
        match_rules(tree(), rules)
    assert "\n" not in str(error.value)


def test_split_and_merge_are_inverse():
    moving, frozen = split(tree(), RULES)
    assert set(optim.paths(frozen)) == {"encoder/layer_0/bias"}
    assert set(optim.paths(moving)) == {"encoder/layer_0/kernel", "codebook_0"}
    assert jax.tree.structure(merge(moving, frozen)) == jax.tree.structure(tree())
    jax.tree.map(np.testing.assert_array_equal, merge(moving, frozen), tree())


def test_schedule_is_a_triangle():
    rate = schedule(OptimConfig(learning_rate=2.0, warmup_share=0.1), steps=100)
    np.testing.assert_allclose([rate(i) for i in (0, 5, 10, 55, 100)], [0, 1, 2, 1, 0], rtol=1e-6)


def test_even_the_shortest_stage_learns():
    rates = [float(schedule(OptimConfig(learning_rate=2.0), steps=1)(i)) for i in (0, 1)]
    assert rates == [2.0, 0.0]
    for stage in plan(ours().recipe, positions=3, documents=150, reconstructor=ReconstructorKind.BAG):
        if stage.kind.trains:
            assert max(float(schedule(stage.optim, steps=stage.steps)(i)) for i in range(stage.steps)) > 0, stage.name


def by_hand(params, gradients, *, factors, config, steps):
    """AdamW (Loshchilov and Hutter 2019) with global-norm clipping, in float64."""
    params = {path: np.asarray(value, np.float64) for path, value in params.items()}
    m = {path: np.zeros_like(value) for path, value in params.items()}
    v = {path: np.zeros_like(value) for path, value in params.items()}
    warmup = round(config.warmup_share * steps)
    for count, gradient in enumerate(gradients):
        gradient = {path: np.asarray(value, np.float64) for path, value in gradient.items()}
        norm = np.sqrt(sum((value**2).sum() for value in gradient.values()))
        if count < warmup:
            rate = config.learning_rate * count / warmup
        else:
            rate = config.learning_rate * (steps - count) / (steps - warmup)
        for path in params:
            g = gradient[path] * min(1.0, config.clip_norm / norm)
            m[path] = config.b1 * m[path] + (1 - config.b1) * g
            v[path] = config.b2 * v[path] + (1 - config.b2) * g**2
            first = m[path] / (1 - config.b1 ** (count + 1))
            second = v[path] / (1 - config.b2 ** (count + 1))
            update = first / (np.sqrt(second) + 1e-8) + config.weight_decay * params[path]
            params[path] = params[path] - rate * factors[path] * update
    return params


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_steps_agree_with_numpy(weight_decay):
    config = OptimConfig(learning_rate=0.03, clip_norm=1.0, warmup_share=0.2, weight_decay=weight_decay)
    moving, _ = split(tree(), RULES)
    optimiser = make_optimiser(config, RULES, tree(), steps=10)
    rng = np.random.default_rng(0)
    # The second and fourth gradients are long enough to be clipped, the others are not.
    gradients = [
        jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * scale, jnp.float32), moving)
        for scale in (0.1, 5.0, 0.2, 9.0, 0.01)
    ]
    state, params = optimiser.init(moving), moving
    for gradient in gradients:
        updates, state = jax.jit(optimiser.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
    expected = by_hand(
        optim.paths(moving),
        [optim.paths(gradient) for gradient in gradients],
        factors=match_rules(tree(), RULES),
        config=config,
        steps=10,
    )
    for path, value in optim.paths(params).items():
        np.testing.assert_allclose(value, expected[path], rtol=2e-6, atol=1e-7)


def test_frozen_leaves_hold_no_moments_and_moments_are_fp32():
    moving, _ = split(tree(), RULES)
    state = make_optimiser(OptimConfig(), RULES, tree(), steps=10).init(moving)
    arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sum(leaf.size for leaf in arrays) == 2 * sum(leaf.size for leaf in jax.tree.leaves(moving))
    assert {leaf.dtype for leaf in arrays} == {jnp.dtype("float32")}
