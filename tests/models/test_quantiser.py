"""Quantiser: forward and backward against values worked out in numpy, and the properties of a balanced choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.indexing.terms import code_counts
from lmindexer_jax.models import quantiser as q
from lmindexer_jax.models.quantiser import (
    Choice,
    CodebookUpdate,
    Estimator,
    QuantiserConfig,
    Similarity,
    quantise,
)

RNG = np.random.default_rng(0)
H = RNG.normal(size=(5, 4)).astype(np.float32)
E = RNG.normal(size=(3, 4)).astype(np.float32)
W = RNG.normal(size=(5, 4)).astype(np.float32)  # the gradient that arrives from above


def published(**kwargs):
    settings = {
        "estimator": Estimator.SOFT,
        "similarity": Similarity.INNER,
        "temperature": 1.0,
        "commitment": 0.0,
        "codebook": 0.0,
    }
    return QuantiserConfig(**(settings | kwargs))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_soft_estimator_forward_is_a_row_and_backward_is_the_mixture():
    def loss(h, e):
        return jnp.sum(quantise(h, e, config=published(temperature=0.7)).vector * W)

    out = quantise(H, E, config=published(temperature=0.7))
    s = H @ E.T
    np.testing.assert_array_equal(out.code, s.argmax(1))
    np.testing.assert_allclose(out.vector, E[s.argmax(1)], atol=1e-6)
    # d/ds of sum(softmax(s / tau) E * W) by hand
    p = softmax(s / 0.7)
    g = W @ E.T
    ds = p * (g - (p * g).sum(1, keepdims=True)) / 0.7
    dh, de = jax.grad(loss, argnums=(0, 1))(H, E)
    np.testing.assert_allclose(dh, ds @ E, atol=2e-6)
    np.testing.assert_allclose(de, ds.T @ H + p.T @ W, atol=2e-6)


def test_identity_estimator_passes_the_gradient_and_the_vq_losses_pull_both_ways():
    config = QuantiserConfig(estimator=Estimator.IDENTITY, similarity=Similarity.L2, commitment=0.25, codebook=1.0)

    def through(h, e):
        return jnp.sum(quantise(h, e, config=config).vector * W)

    def vq(h, e):
        return jnp.sum(quantise(h, e, config=config).commitment)

    code = ((H[:, None] - E[None]) ** 2).sum(-1).argmin(1)
    out = quantise(H, E, config=config)
    np.testing.assert_array_equal(out.code, code)
    dh, de = jax.grad(through, argnums=(0, 1))(H, E)
    np.testing.assert_allclose(dh, W, atol=1e-6)
    np.testing.assert_allclose(de, 0, atol=1e-6)
    dh, de = jax.grad(vq, argnums=(0, 1))(H, E)
    np.testing.assert_allclose(dh, 0.25 * 2 * (H - E[code]), atol=1e-5)
    expected = np.zeros_like(E)
    np.add.at(expected, code, 2 * (E[code] - H))
    np.testing.assert_allclose(de, expected, atol=1e-5)
    np.testing.assert_allclose(out.commitment, 1.25 * ((H - E[code]) ** 2).sum(1), rtol=1e-5)


@pytest.mark.parametrize("similarity", list(Similarity))
def test_similarities(similarity):
    expected = {
        Similarity.INNER: H @ E.T,
        Similarity.COSINE: (H / np.linalg.norm(H, axis=1, keepdims=True))
        @ (E / np.linalg.norm(E, axis=1, keepdims=True)).T,
        Similarity.L2: -0.5 * ((H[:, None] - E[None]) ** 2).sum(-1),
    }[similarity]
    got = q.similarities(jnp.asarray(H), jnp.asarray(E), similarity=similarity)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_the_best_row_is_the_first_of_the_highest():
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=(64, 300)), rng.integers(0, 3, (64, 300)), -np.full((2, 5), np.inf)):
        scores = scores.astype(np.float32)
        index, highest = jax.jit(q.best)(scores)
        assert index.dtype == jnp.int32
        np.testing.assert_array_equal(index, scores.argmax(1))
        np.testing.assert_array_equal(highest, scores.max(1))
    index, highest = q.best(jnp.array([[1.0, jnp.nan, 3.0]]))
    assert index[0] == 0 and np.isnan(highest[0])


def test_unit_of_zero_is_zero_with_a_finite_gradient():
    assert np.isfinite(jax.grad(lambda x: q.unit(x).sum())(jnp.zeros(3))).all()
    assert (q.unit(jnp.zeros(3)) == 0).all()


def test_gumbel_draws_by_the_softmax_and_is_silent_without_a_key():
    config = published(estimator=Estimator.GUMBEL)
    scores = np.log([0.7, 0.2, 0.1]).astype(np.float32)
    h = jnp.broadcast_to(jnp.asarray(scores), (20000, 3))
    codes = quantise(h, jnp.eye(3), config=config, key=jax.random.key(0)).code
    np.testing.assert_allclose(np.bincount(codes, minlength=3) / 20000, [0.7, 0.2, 0.1], atol=0.02)
    assert (quantise(h, jnp.eye(3), config=config).code == 0).all()


def test_gumbel_noise_is_not_in_the_scores_that_tell_which_code_assignment_would_choose():
    config = published(estimator=Estimator.GUMBEL)
    drawn = quantise(H, E, config=config, key=jax.random.key(0))
    np.testing.assert_array_equal(drawn.scores, quantise(H, E, config=config).scores)
    chosen = quantise(jnp.broadcast_to(jnp.asarray(H[0]), (500, 4)), E, config=config, key=jax.random.key(0))
    assert len(np.unique(chosen.code)) > 1
    assert (code_counts(chosen) > 0).sum() == 1, "of one text over and over: one code"


def test_sinkhorn_balances_and_equals_a_dense_computation():
    scores = RNG.normal(size=(64, 8)).astype(np.float32) + np.linspace(0, 3, 8, dtype=np.float32)
    plan = np.exp(scores.astype(np.float64) / 0.5)
    for _ in range(50):
        plan /= plan.sum(0, keepdims=True)
        plan /= plan.sum(1, keepdims=True)
    got = np.exp(q.sinkhorn(jnp.asarray(scores), temperature=0.5, iterations=50))
    np.testing.assert_allclose(got, plan, atol=1e-5)
    np.testing.assert_allclose(got.sum(0), 8, rtol=1e-3)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5)


def test_balanced_choice_uses_all_codes_where_the_nearest_row_takes_all():
    config = QuantiserConfig(similarity=Similarity.COSINE, choice=Choice.BALANCED)
    h = RNG.normal(size=(96, 8)).astype(np.float32) * 0.3 + np.eye(8, dtype=np.float32)[0] * 3
    rows = np.eye(8, dtype=np.float32)
    nearest = quantise(h, rows, config=config).code
    assert len(np.unique(nearest)) == 1
    balanced = quantise(h, rows, config=config, queue=jnp.zeros((192, 8))).code
    counts = np.bincount(balanced, minlength=8)
    assert counts.min() >= 6 and counts.max() <= 20


def test_empty_queue_places_weigh_nothing():
    config = QuantiserConfig(choice=Choice.BALANCED)
    h, rows = RNG.normal(size=(32, 8)).astype(np.float32), RNG.normal(size=(6, 8)).astype(np.float32)
    short = q.balanced(h, rows, jnp.zeros((8, 8)), config=config)
    long = q.balanced(h, rows, jnp.zeros((512, 8)), config=config)
    np.testing.assert_array_equal(short, long)


def test_queue_keeps_the_newest():
    queue = q.push(jnp.arange(8.0).reshape(4, 2), jnp.full((3, 2), 9.0))
    np.testing.assert_array_equal(queue, [[9, 9], [9, 9], [9, 9], [0, 1]])


def test_running_mean_of_a_codebook():
    config = QuantiserConfig(update=CodebookUpdate.EMA, codebook=1.0, commitment=0.25)
    out = quantise(H, E, config=config)
    code = np.asarray(out.code)
    np.testing.assert_allclose(out.commitment, 0.25 * ((H - E[code]) ** 2).sum(1), rtol=1e-5)
    mean, rows = q.update_running_mean(q.start_running_mean(jnp.asarray(E)), H, out.code, decay=0.9)
    for k in range(3):
        count = 0.9 + 0.1 * (code == k).sum()
        expected = (0.9 * E[k] + 0.1 * H[code == k].sum(0)) / count
        np.testing.assert_allclose(rows[k], expected, rtol=1e-5)
        if not (code == k).any():
            np.testing.assert_allclose(rows[k], E[k], rtol=1e-6)


def test_a_row_of_a_running_mean_keeps_its_place_however_long_nothing_is_assigned_to_it():
    start = q.start_running_mean(jnp.asarray(E))
    code = jnp.zeros(len(H), jnp.int32)

    def idle(mean, _):
        return q.update_running_mean(mean, H, code, decay=0.99)

    mean, rows = jax.lax.scan(idle, start, length=20_000)
    np.testing.assert_allclose(rows[:, 1:], np.broadcast_to(E[1:], (20_000, 2, 4)), rtol=1e-3)
    _, rows = q.update_running_mean(mean, H, jnp.ones_like(code), decay=0.99)
    np.testing.assert_allclose(rows[1], H.mean(0), rtol=1e-3)


def sinkhorn_codes(scores, *, temperature=0.05, iterations=4, mask=None):
    plan = q.sinkhorn(jnp.asarray(scores), temperature=temperature, iterations=iterations, mask=mask)
    return jnp.argmax(plan, axis=1)


def sinkhorn_by_hand(scores: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    plan = np.exp(np.asarray(scores, np.float64) / temperature)
    for _ in range(iterations):
        plan = plan / plan.sum(axis=0, keepdims=True)
        plan = plan / plan.sum(axis=1, keepdims=True)
    return np.argmax(plan, axis=1)


def crowded(rows: int, k: int, seed: int = 0) -> np.ndarray:
    """Cosine-like scores in which a few codes are everybody's favourites."""
    rng = np.random.default_rng(seed)
    return np.clip(0.1 * rng.normal(size=(rows, k)) + np.linspace(0.5, 0.0, k), -1, 1).astype(np.float32)


def test_sinkhorn_is_the_textbook_iteration():
    scores = crowded(200, 16)
    codes = jax.jit(lambda s: sinkhorn_codes(s, temperature=0.05, iterations=4))(scores)
    np.testing.assert_array_equal(codes, sinkhorn_by_hand(scores, 0.05, 4))


def test_sinkhorn_balances_what_argmax_crowds():
    scores = crowded(1024, 32)
    plain = np.bincount(np.argmax(scores, axis=1), minlength=32)
    even = np.bincount(sinkhorn_codes(scores, iterations=20), minlength=32)
    assert plain.max() > 200 and np.sum(plain == 0) > 5
    assert even.max() < 64 and even.min() > 8
    np.testing.assert_array_equal(sinkhorn_codes(scores, iterations=0), np.argmax(scores, axis=1))


def test_sinkhorn_survives_extreme_scores():
    scores = crowded(64, 8) * 1e4
    codes = sinkhorn_codes(scores, temperature=0.01, iterations=50)
    assert np.bincount(codes, minlength=8).max() < 64
    shifted = sinkhorn_codes(scores + 3e4, temperature=1.0, iterations=4)
    np.testing.assert_array_equal(shifted, sinkhorn_codes(scores, temperature=1.0, iterations=4))


def test_sinkhorn_ignores_masked_rows():
    scores = crowded(100, 8)
    padded = np.concatenate([scores, np.full((30, 8), 7.0, np.float32)])
    codes = sinkhorn_codes(padded, mask=jnp.arange(130) < 100)
    np.testing.assert_array_equal(codes[:100], sinkhorn_codes(scores))
