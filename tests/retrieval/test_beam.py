"""Beam search against the enumeration of every ID: nothing that does not exist, nothing twice, the right scores."""

import functools

import jax
import numpy as np
import pytest

import catalogues
from lmindexer_jax.retrieval import beam, exact
from lmindexer_jax.retrieval.beam import BeamConfig, Over
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.permits import permit
from lmindexer_jax.retrieval.trie import Trie, pad

SEEN = 6


@functools.cache
def compiled(beams: int, over: Over, groups: int, method):
    """One search per kind; catalogues of one room share what it compiles to."""
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


def check(
    rng, *, queries: int, length: int, documents: int, room: int, beams: int, variable: bool, over: Over, groups: int,
    method=beam.search,
) -> int:  # fmt: skip
    """Search one random catalogue for some queries and hold every result against the enumeration."""
    ids = catalogues.catalogue(rng, documents, length=length, variable=variable)
    trie = roomy(ids, length=length, room=room, variable=variable)
    model = catalogues.tables(rng, queries, trie.sizes)
    present = rng.random(queries) < 0.9
    allowed = rng.random(len(ids)) < rng.choice([0.0, 0.3, 1.0, 1.0])
    seen = np.where(rng.random((queries, SEEN)) < 0.5, rng.integers(0, len(ids), (queries, SEEN)), -1)
    run = compiled(beams, over, groups, method)
    found = run(trie, model, present, np.pad(allowed, (0, len(trie.documents) - len(ids))), seen)
    found = jax.tree.map(np.asarray, found)

    ends = [trie.end(t) for t in range(length)]
    marks = np.array([end or 0 for end in ends])[None]  # an ID is over nowhere that has no end marker
    distinct, inverse = np.unique(np.where(ids < 0, marks, ids), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    expected = catalogues.enumerate_scores(distinct, model, ends=ends, over_children=over is Over.CHILDREN)
    number = {tuple(row): place for place, row in enumerate(distinct.tolist())}
    for query in range(queries):
        good = allowed & ~np.isin(np.arange(len(ids)), seen[query])
        left = np.unique(inverse[good]) if present[query] else np.zeros(0, int)
        valid = found.valid[query]
        count = int(valid.sum())
        assert valid[:count].all()
        for rest in (found.codes, found.documents, found.leaves):
            assert (rest[query, count:] == -1).all()
        assert np.isneginf(found.log_probs[query, count:]).all()
        codes = np.where(found.codes[query, :count] < 0, marks, found.codes[query, :count])
        places = np.array([number[tuple(row)] for row in codes.tolist()], int)  # KeyError: an ID that does not exist
        assert len(set(places)) == count, "an ID twice"
        assert set(places) <= set(left), "an ID that was not permitted"
        documents = found.documents[query, :count]
        first = [np.flatnonzero(good & (inverse == place))[0] for place in places]
        np.testing.assert_array_equal(documents, first)
        np.testing.assert_array_equal(found.leaves[query, :count], trie.leaf[documents])
        np.testing.assert_allclose(found.log_probs[query, :count], expected[query, places], rtol=1e-5, atol=1e-5)
        assert (np.diff(found.log_probs[query, :count]) <= 0).all()
        assert count == min(beams, len(left)), "there are more"
        if groups == 1 and (beams >= len(distinct) or method is exact.search):
            best = np.sort(expected[query, left])[::-1][:beams]
            assert count == len(best)
            np.testing.assert_allclose(found.log_probs[query, :count], best, rtol=1e-5, atol=1e-5)
    return queries


KINDS = [
    {"variable": False, "over": Over.CHILDREN, "groups": 1},
    {"variable": True, "over": Over.CHILDREN, "groups": 1},
    {"variable": True, "over": Over.CODEBOOK, "groups": 1},
    {"variable": False, "over": Over.CODEBOOK, "groups": 4},
]


@pytest.mark.parametrize(("length", "kind"), [(1, 1), (3, 0), (4, 2), (3, 3)])
def test_beams_as_many_as_ids_find_what_enumeration_finds(length, kind):
    rng = np.random.default_rng(length)
    for documents in (1, 2, 9, 60, 60):
        check(rng, queries=16, length=length, documents=documents, room=64, beams=64, **KINDS[kind])


def test_groups_find_as_many_as_there_are_however_sure_the_model_is():
    """IDs as a kept retriever has them: behind the codes a counter, where nearly every prefix has one child."""
    rng = np.random.default_rng(3)
    codes = np.unique(rng.integers(0, [12, 64, 5], (400, 3)), axis=0)
    ids = np.concatenate([np.c_[codes, np.full(len(codes), -1)], np.c_[codes[:20], np.ones(20)]]).astype(np.int32)
    trie = pad(build(ids, (12, 64, 5, 3), shortest=3))
    model = [30 * logits for logits in catalogues.tables(rng, 24, trie.sizes)]
    run = compiled(20, Over.CHILDREN, 5, beam.search)
    for share in (1.0, 0.1, 0.02):
        allowed = np.pad(rng.random(len(ids)) < share, (0, len(trie.documents) - len(ids)))
        found = run(trie, model, np.ones(24, bool), allowed, np.full((24, SEEN), -1))
        assert set(found.valid.sum(1).tolist()) == {min(20, allowed.sum())}
        assert all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in np.asarray(found.leaves))


def test_the_exact_mode_finds_what_enumeration_finds():
    rng = np.random.default_rng(0)
    for documents in (1, 40, 60):
        check(rng, queries=16, length=3, documents=documents, room=64, beams=5, **KINDS[2], method=exact.search)


def test_logits_that_are_no_numbers_make_no_id_up_and_spoil_no_other_query():
    rng = np.random.default_rng(7)
    ids = catalogues.catalogue(rng, 30, length=3, variable=False)
    trie = roomy(ids, length=3, room=64, variable=False)
    clean = catalogues.tables(rng, 16, trie.sizes)
    model = [logits.copy() for logits in clean]
    model[1][0], model[0][1], model[2][2], model[1][3, ::2] = np.nan, -np.inf, np.inf, np.nan
    run = compiled(64, Over.CHILDREN, 1, beam.search)
    rest = np.ones(16, bool), np.arange(64) < len(ids), np.full((16, SEEN), -1)
    spoilt, right = run(trie, model, *rest), run(trie, clean, *rest)
    existing = {tuple(row) for row in ids.tolist()}
    for query in range(16):
        found = [tuple(row) for row in np.asarray(spoilt.codes[query])[np.asarray(spoilt.valid[query])].tolist()]
        assert set(found) == existing and len(found) == len(existing)
    np.testing.assert_array_equal(spoilt.codes[4:], right.codes[4:])
    np.testing.assert_array_equal(spoilt.log_probs[4:], right.log_probs[4:])


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6])
def test_ten_thousand_searches_of_catalogues_up_to_five_thousand(length):
    rng = np.random.default_rng(length)
    sizes = [1, 2, 20, 5000, *np.exp(rng.uniform(0, np.log(5000), 23)).astype(int)]
    shape = {"queries": 64, "length": length, "room": 5000, "beams": 20} | KINDS[length % len(KINDS)]
    assert sum(check(rng, documents=documents, **shape) for documents in sizes) == 1728


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("method", [beam.search, exact.search], ids=["beam", "exact"])
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_every_kind_of_search_is_exact_where_it_should_be(length, method, kind):
    rng = np.random.default_rng([length, kind])
    for documents in rng.integers(1, 129, 8):
        check(rng, queries=16, length=length, documents=documents, room=128, beams=128, **KINDS[kind], method=method)
