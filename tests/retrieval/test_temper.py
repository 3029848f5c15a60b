"""The balance of IDs and likeness is found again where it was planted."""

import numpy as np
import pytest

from lmindexer_jax.retrieval import temper


@pytest.mark.parametrize("planted", [0.005, 0.03, 0.2])
def test_a_planted_temperature_is_found(planted):
    rng = np.random.default_rng(0)
    queries, candidates = 4000, 12
    log_probs = np.log(rng.dirichlet(np.ones(candidates), size=queries))
    similarities = rng.normal(0, 2 * planted, size=(queries, candidates))
    log_probs[:, -1] = -np.inf  # no candidate
    scores = 0.7 * (log_probs + similarities / planted)
    drawn = np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)
    right = np.zeros(scores.shape, bool)
    right[np.arange(queries), drawn] = True
    right[:100] = False  # queries whose document was not proposed say nothing
    assert temper.fit(log_probs, similarities, right) == pytest.approx(planted, rel=0.1)


def test_it_stays_within_its_bounds_and_says_nothing_of_nothing():
    rng = np.random.default_rng(1)
    log_probs, noise = np.log(rng.dirichlet(np.ones(8), size=500)), rng.normal(size=(500, 8))
    best = np.arange(8) == log_probs.argmax(1)[:, None]
    assert temper.fit(log_probs, noise, best) == temper.MOST, "IDs alone are right"
    likest = np.arange(8) == noise.argmax(1)[:, None]
    assert temper.fit(log_probs, noise, likest) == temper.LEAST
    assert temper.fit(log_probs, noise, np.zeros((500, 8), bool)) == temper.TEMPERATURE
