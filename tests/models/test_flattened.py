"""The flattened recommender: tokens know their past alone, packing and padding change nothing, a step is the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.data.packing import Spans, TrainingRows
from lmindexer_jax.models.recommender import Head, Histories, Recommender, RecommenderConfig, RecommenderFunctions
from lmindexer_jax.retrieval import exact
from lmindexer_jax.retrieval.beam import BeamConfig
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.catalogue import make_catalogue

SIZES = (5, 40, 3)
ITEMS = 30
LENGTH = 6


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    wide = np.stack([rng.integers(0, 5, 400), rng.integers(0, 4, 400) * 13, rng.integers(0, 3, 400)], 1)
    return rng.permutation(np.unique(wide, axis=0))[:ITEMS].astype(np.int32)


@pytest.fixture(scope="module", params=["codes", "all"])
def model(request, codes):
    every = request.param == "all"
    config = RecommenderConfig(read_id=every, read_text=every, width=16, layers=2, heads=2, hidden=16, length=LENGTH, dropout=0.0)
    catalogue = make_catalogue(codes, SIZES, np.random.default_rng(1).normal(size=(ITEMS, 7)) if every else None)
    functions = RecommenderFunctions(Recommender(config, Head.FLATTENED, ITEMS, SIZES, 7 if every else 0))
    params = functions.init(jax.random.key(0), catalogue)
    return functions, jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim > 1 else leaf, params), catalogue  # far from uniform


def log_likelihoods(functions, params, histories, targets, catalogue):
    """log p (B, L, T) of every place's target."""
    states = functions.states(params, histories, catalogue)
    flat = states.reshape(-1, *states.shape[2:])
    logs = functions.log_likelihood(params, flat, jnp.asarray(targets).reshape(-1), catalogue)
    return logs.reshape(*targets.shape, -1)


def test_a_code_is_predicted_from_the_codes_before_it(model, codes):
    functions, params, catalogue = model
    items = np.random.default_rng(2).permutation(ITEMS)[:10][None].astype(np.int32)
    segment = np.array([[1] * 4 + [2] * 6])
    states = jax.jit(functions.states)
    before = states(params, Histories(items, segment), catalogue)
    tried = set()
    for changed in range(10):
        alike = (codes == codes[items[0, changed]]).cumprod(1).sum(1)  # first codes that others have in common with it
        for common in set(alike.tolist()) - {3}:
            tried.add(common)
            other = items.copy()
            other[0, changed] = np.flatnonzero(alike == common)[0]
            moved = np.abs(np.asarray(states(params, Histories(other, segment), catalogue) - before))[0].max(-1) > 0
            place, level = np.divmod(np.arange(10 * 3), 3)
            token = (place + 1) * 3 + level - 1  # the last that is read before this code
            known = (token >= changed * 3 + common) & (segment[0, np.minimum(token // 3, 9)] == segment[0, changed])
            inside = token < 30
            np.testing.assert_array_equal(moved.reshape(-1)[inside], known[inside])
    assert tried == {0, 1, 2}


def test_packing_changes_nothing(model):
    functions, params, catalogue = model
    rng = np.random.default_rng(3)
    users = [rng.integers(0, ITEMS, size) for size in (2, 5, 3, 7, 2, 4, 11)]
    alone, counted = {}, 0
    compute = jax.jit(functools.partial(log_likelihoods, functions))
    for user in users:
        for first, last in windows_of(len(user)):
            row = np.zeros((1, LENGTH + 1), np.int32)
            row[0, : last - first + 1] = user[first : last + 1]
            segment = (np.arange(LENGTH + 1) <= last - first).astype(np.int32)[None]
            targets = np.roll(row, -1, axis=1)
            logs = np.asarray(compute(params, Histories(row, segment), targets, catalogue))[0]
            for place in range(last - first):
                alone[tuple(user[first : first + place + 2])] = logs[place]
    items, ends = np.concatenate(users), np.cumsum([len(user) for user in users])
    rows = TrainingRows(
        items, Spans(ends - [len(user) for user in users], ends), length=LENGTH, batch_size=4, epochs=1, seed=0, read_targets=True
    )
    for batch in rows.batches():
        logs = np.asarray(compute(params, Histories(batch["items"], batch["segment"]), batch["targets"], catalogue))
        for row, place in zip(*np.nonzero(batch["weight"]), strict=True):
            first = np.flatnonzero(batch["segment"][row] == batch["segment"][row, place])[0]
            history = (*batch["items"][row, first : place + 1], batch["targets"][row, place])
            np.testing.assert_allclose(logs[row, place], alone[history], atol=2e-5)
            counted += 1
    assert counted == rows.targets == sum(len(user) - 1 for user in users)


def windows_of(size):
    """First and last item, the last target among them, of a user's windows."""
    starts = range(0, max(size - 1 - LENGTH, 0) + LENGTH // 2, LENGTH // 2)
    return [(start, min(start + LENGTH, size - 1)) for start in starts if start < size - 1]


def test_padding_and_last_places_teach_nothing(model):
    functions, params, catalogue = model
    segment = jnp.asarray([[1, 1, 1, 0, 0, 0, 0]])
    weight = jnp.asarray([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])

    def loss(params, items):
        targets = jnp.roll(items, -1, axis=1)
        return -jnp.sum(log_likelihoods(functions, params, Histories(items, segment), targets, catalogue).sum(-1) * weight)

    gradient = jax.jit(jax.grad(loss))
    one, other = (gradient(params, jnp.asarray([[3, 4, 5, filler, filler + 1, filler, 9]])) for filler in (0, 17))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert any(np.abs(np.asarray(leaf)).max() > 0 for leaf in jax.tree.leaves(one))


def test_a_step_at_a_time_gives_what_teacher_forcing_gives(model, codes):
    functions, params, catalogue = model
    histories = [[7], [3, 9, 3], [1, 2, 3, 4, 5, 6]]
    read = np.zeros((3, LENGTH), np.int32)
    segment = np.zeros((3, LENGTH), np.int32)
    for row, history in enumerate(histories):
        read[row, LENGTH - len(history) :], segment[row, LENGTH - len(history) :] = history, 1
    trie = jax.device_put(build(codes, SIZES))

    @jax.jit
    def scores(params, read, segment, catalogue):
        memory = functions.start_search(params, Histories(read, segment), catalogue)
        found = exact.score_ids(functools.partial(functions.step, params), memory, trie, config=BeamConfig(), batch=3)
        return found[:, trie.leaf]

    stepped = scores(params, read, segment, catalogue)
    forced = np.zeros((3, ITEMS))
    compute = jax.jit(functools.partial(log_likelihoods, functions))
    for row, history in enumerate(histories):
        rows = np.zeros((ITEMS, LENGTH + 1), np.int32)
        rows[:, : len(history)], rows[:, len(history)] = history, np.arange(ITEMS)
        belongs = np.broadcast_to(np.arange(LENGTH + 1) <= len(history), rows.shape).astype(np.int32)
        logs = compute(params, Histories(rows, belongs), np.roll(rows, -1, axis=1), catalogue)
        forced[row] = logs[:, len(history) - 1].sum(-1)
    np.testing.assert_allclose(stepped, forced, atol=2e-5)
    np.testing.assert_allclose(np.exp(stepped).sum(1), 1.0, atol=1e-5)
    assert forced.std(1).min() > 0.1, "far from uniform"
