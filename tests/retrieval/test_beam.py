"""Beam search against the enumeration of every ID: nothing that does not exist, nothing twice, the right scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import catalogues
from lmindexer_jax.retrieval import beam, exact
from lmindexer_jax.retrieval.beam import BeamConfig, Over
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.permits import permit
from lmindexer_jax.retrieval.trie import Trie, pad

QUERIES, SEEN = 16, 6


@functools.cache
def compiled(length: int, beams: int, over: Over, groups: int, method):
    """One search per kind; catalogues of one room share it."""
    config = BeamConfig(beams=beams, over=over, groups=groups)

    @jax.jit
    def run(trie, model, present, allowed, seen):
        permits = permit(trie, allowed)
        return method(catalogues.step, model, trie, config=config, present=present, permits=permits, seen=seen)

    return run


def roomy(ids: np.ndarray, *, length: int, room: int, variable: bool) -> Trie:
    """The trie of IDs in a room that depends on these numbers alone."""
    sizes = catalogues.SIZES[:length]
    trie = build(ids, sizes, shortest=1 if variable else None)
    widest = [catalogues.FEW + 1 if size > 60 else size for size in trie.sizes]
    return pad(trie, [room] * length, widest=widest, sharing=catalogues.COPIES)


def check(rng, *, length: int, documents: int, room: int, beams: int, variable: bool, over: Over, groups: int, method) -> int:
    """Search one random catalogue for QUERIES queries and hold every result against the enumeration."""
    ids = catalogues.catalogue(rng, documents, length=length, variable=variable)
    trie = roomy(ids, length=length, room=room, variable=variable)
    model = catalogues.tables(rng, QUERIES, trie.sizes)
    present = rng.random(QUERIES) < 0.9
    allowed = rng.random(len(ids)) < rng.choice([0.0, 0.3, 1.0, 1.0])
    seen = np.where(rng.random((QUERIES, SEEN)) < 0.5, rng.integers(0, len(ids), (QUERIES, SEEN)), -1)
    run = compiled(length, beams, over, groups, method)
    found = run(trie, model, present, np.pad(allowed, (0, len(trie.documents) - len(ids))), seen)
    found = jax.tree.map(np.asarray, found)

    ends = [trie.end(t) for t in range(length)]
    marked = np.where(ids < 0, np.array([end or 0 for end in ends])[None], ids)
    distinct, inverse = np.unique(marked, axis=0, return_inverse=True)
    expected = catalogues.enumerate_scores(distinct, model, ends=ends, over_children=over is Over.CHILDREN)
    number = {tuple(row): place for place, row in enumerate(distinct.tolist())}
    for query in range(QUERIES):
        good = allowed & ~np.isin(np.arange(len(ids)), seen[query])
        left = np.unique(inverse.reshape(-1)[good]) if present[query] else np.zeros(0, int)
        valid = found.valid[query]
        count = int(valid.sum())
        assert valid[:count].all() and (found.codes[query, count:] == -1).all() and (found.documents[query, count:] == -1).all()
        assert np.isneginf(found.log_probs[query, count:]).all()
        codes = np.where(found.codes[query, :count] < 0, np.array([end or 0 for end in ends])[None], found.codes[query, :count])
        places = np.array([number[tuple(row)] for row in codes.tolist()], int)  # KeyError: an ID that does not exist
        assert len(set(places)) == count, "an ID twice"
        assert set(places) <= set(left), "an ID that was not permitted"
        documents = found.documents[query, :count]
        first = [np.flatnonzero(good & (inverse.reshape(-1) == place))[0] for place in places]
        np.testing.assert_array_equal(documents, first)
        np.testing.assert_array_equal(found.leaves[query, :count], trie.leaf[documents])
        np.testing.assert_allclose(found.log_probs[query, :count], expected[query, places], rtol=1e-5, atol=1e-5)
        assert (np.diff(found.log_probs[query, :count]) <= 0).all()
        assert count == min(beams, len(left)) or groups > 1 or beams < len(distinct)
        if present[query] and good.any():
            assert count
        if groups == 1 and (beams >= len(distinct) or method is exact.search):
            best = np.sort(expected[query, left])[::-1][:beams]
            np.testing.assert_allclose(found.log_probs[query, :count], best, rtol=1e-5, atol=1e-5)
    return QUERIES


KINDS = [
    # variable, over, groups
    (False, Over.CHILDREN, 1),
    (True, Over.CHILDREN, 1),
    (True, Over.CODEBOOK, 1),
    (False, Over.CODEBOOK, 4),
]


@pytest.mark.parametrize("method", [beam.search, exact.search], ids=["beam", "exact"])
@pytest.mark.parametrize(("length", "kind"), [(1, 1), (3, 0), (4, 2), (3, 3)])
def test_random_catalogues(length, kind, method):
    variable, over, groups = KINDS[kind]
    rng = np.random.default_rng(length)
    for documents in (1, 2, 9, 60, 60):
        check(
            rng, length=length, documents=documents, room=64, beams=64, variable=variable, over=over, groups=groups,
            method=method,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_ten_thousand_searches(length, kind):
    variable, over, groups = KINDS[kind]
    rng = np.random.default_rng([length, kind])
    shape = {"length": length, "variable": variable, "over": over, "groups": groups}
    searches = 0
    for _ in range(20):
        documents = int(np.exp(rng.uniform(0, np.log(5000))))
        searches += check(rng, documents=documents, room=5000, beams=20, method=beam.search, **shape)
    for method in (beam.search, exact.search):
        for _ in range(6):
            searches += check(rng, documents=int(rng.integers(1, 129)), room=128, beams=128, method=method, **shape)
    assert searches == 512
