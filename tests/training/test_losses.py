"""Losses against values worked out in numpy; what has no weight adds nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from lmindexer_jax.training import losses

RNG = np.random.default_rng(1)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)


def test_bag_reconstruction_is_the_mean_over_labels():
    logits = RNG.normal(size=(2, 7)).astype(np.float32)
    tokens, labelled = np.array([[1, 2], [4, 0]]), np.array([[True, True], [True, False]])
    logs = log_softmax(logits)
    expected = -(logs[0, 1] + logs[0, 2] + logs[1, 4]) / 3
    np.testing.assert_allclose(losses.mean(losses.bag_reconstruction(logits, tokens, labelled)), expected, rtol=1e-6)


def test_marginal_reconstruction_is_the_expectation_over_codes():
    logits = RNG.normal(size=(4, 7)).astype(np.float32)  # K = 4
    choice = log_softmax(RNG.normal(size=(2, 4))).astype(np.float32)
    tokens, labelled = np.array([[1, 2, 2], [4, 0, 0]]), np.array([[True, True, True], [True, False, False]])
    logs = log_softmax(logits)
    one = -np.sum(np.exp(choice[0]) * logs[:, [1, 2, 2]].sum(1))
    two = -np.sum(np.exp(choice[1]) * logs[:, 4])
    got = losses.mean(losses.marginal_reconstruction(logits, choice, tokens, labelled))
    np.testing.assert_allclose(got, (one + two) / 4, rtol=1e-6)


def test_in_batch_contrast_leaves_masked_documents_out():
    a, b = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    mask = np.array([1.0, 1.0, 0.0, 1.0], np.float32)
    keep = [0, 1, 3]
    logs = log_softmax(a[keep] @ b[keep].T / 0.5)
    expected = -np.mean(np.diag(logs))
    got = losses.mean(losses.in_batch_contrast(a, b, mask, temperature=0.5))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_prefix_contrast_ignores_absent_negatives_and_lonely_documents():
    query, positive = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    negatives = RNG.normal(size=(3, 2, 4)).astype(np.float32)
    present = np.array([[True, True], [True, False], [False, False]])
    one = log_softmax([query[0] @ positive[0], query[0] @ negatives[0, 0], query[0] @ negatives[0, 1]])[0]
    two = log_softmax([query[1] @ positive[1], query[1] @ negatives[1, 0]])[0]

    def loss(negatives, query):
        return losses.mean(losses.prefix_contrast(query, positive, negatives, present, temperature=1.0))

    np.testing.assert_allclose(loss(negatives, query), -(one + two) / 2, rtol=1e-5)
    by_negative, by_query = jax.grad(loss, argnums=(0, 1))(negatives, query)
    assert (np.asarray(by_negative)[~present] == 0).all()
    assert (np.asarray(by_query)[2] == 0).all()
    alone = losses.mean(losses.prefix_contrast(query, positive, negatives, present & False, temperature=1.0))
    assert alone == 0 and np.isfinite(alone)


def test_commitment_takes_books_of_different_sizes():
    scores = [RNG.normal(size=(2, 3)).astype(np.float32), RNG.normal(size=(2, 5)).astype(np.float32)]
    codes = np.array([[2, 4], [0, 1]])
    expected = -np.mean([log_softmax(scores[p])[b, codes[b, p]] for b in range(2) for p in range(2)])
    got = losses.mean(losses.commitment(scores, codes, jnp.ones(2)))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_nothing_labelled_is_zero_not_nan():
    nothing = losses.bag_reconstruction(jnp.ones((2, 3)), jnp.zeros((2, 2), int), jnp.zeros((2, 2), bool))
    assert losses.mean(nothing) == 0
