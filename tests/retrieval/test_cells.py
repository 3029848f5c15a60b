"""Cells are the prefixes of one length with the means of their documents, and are looked into in the order of likeness."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import catalogues
from lmindexer_jax.retrieval import cells as cells_module
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.cells import cells, probe
from lmindexer_jax.retrieval.near import nearest
from lmindexer_jax.retrieval.permits import permit
from lmindexer_jax.retrieval.trie import pad


def made(seed, *, documents=200, length=3, most=1 << 16):
    """A trie, unit vectors of its documents, one of which has none, and queries."""
    rng = np.random.default_rng(seed)
    codes = catalogues.catalogue(rng, documents, length=length, variable=bool(seed % 2))
    vectors = rng.normal(size=(len(codes), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[rng.integers(len(codes))] = np.nan
    trie = build(codes, catalogues.SIZES[:length])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cells_module, "MOST", most)
        found = cells(trie, vectors.astype(np.float16))
    return codes, trie, vectors, found, rng.normal(size=(5, 8)).astype(np.float32)


def by_hand(codes, trie, vectors, depth):
    """Rows and centre of every cell."""
    marked = np.column_stack([np.where(codes[:, t] < 0, trie.end(t) or 0, codes[:, t]) for t in range(depth)])
    _, cell = np.unique(marked, axis=0, return_inverse=True)
    members = [np.flatnonzero(cell.reshape(-1) == number) for number in range(cell.max() + 1)]
    centres = [np.nansum(vectors[rows].astype(np.float16).astype(np.float32), axis=0) for rows in members]
    return members, np.array([centre / max(np.linalg.norm(centre), 1e-12) for centre in centres])


@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 4), st.sampled_from([3, 20, 1 << 16]))
@settings(deadline=None, max_examples=25)
def test_cells_are_prefixes_and_all_of_them_are_all_documents(seed, documents, length, most):
    codes, trie, vectors, found, queries = made(seed, documents=documents, length=length, most=most)
    fits = [t for t in range(1, length + 1) if trie.nodes[t] <= most]
    assert found.depth == (fits[-1] if fits else 1)
    members, centres = by_hand(codes, trie, vectors, found.depth)
    np.testing.assert_allclose(found.centres, centres, atol=1e-5)
    for each in (trie, pad(trie)):
        rows = np.asarray(probe(queries, found.centres, jax.device_put(each), depth=found.depth, count=256))
        assert all(sorted(row[row >= 0]) == list(range(len(codes))) for row in rows), "each once"
    order = np.argsort(-queries @ centres.T, axis=1, kind="stable")
    assert [set(members[cells[0]]) for cells in order] == [set(row[: len(members[cells[0]])]) for row, cells in zip(rows, order)]


def test_a_few_are_the_first_of_all_and_a_subset_is_the_rest_left_out():
    codes, trie, vectors, found, queries = made(0, most=20)
    device, allowed = jax.device_put(pad(trie)), np.random.default_rng(1).random(len(codes)) < 0.3
    part = permit(device, np.pad(allowed, (0, len(device.documents) - len(codes))))
    every, few = (np.asarray(probe(queries, found.centres, device, depth=found.depth, count=count)) for count in (256, 40))
    np.testing.assert_array_equal(few, every[:, :40])
    within = np.asarray(probe(queries, found.centres, device, part, depth=found.depth, count=256))
    assert all(row[: allowed.sum()].tolist() == [each for each in whole if each >= 0 and allowed[each]] for row, whole in zip(within, every))
    assert (within[:, allowed.sum() :] == -1).all()


def test_what_is_alike_is_found_below_the_prefixes_that_are_alike():
    """Documents of three levels of topics: a sixth of them hold nearly all that a scan finds."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 8, (4000, 3)).astype(np.int32)
    codes = np.unique(codes, axis=0)[rng.integers(0, 500, 4000)]
    topics = [rng.normal(size=(8**t, 32)) for t in (1, 2, 3)]
    places = [codes[:, 0], codes[:, 0] * 8 + codes[:, 1], codes @ [64, 8, 1]]
    vectors = sum(topic[place] for topic, place in zip(topics, places)) + rng.normal(size=(4000, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[:50] + 0.1 * rng.normal(size=(50, 32)).astype(np.float32)
    trie = build(codes, (8, 8, 8))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cells_module, "MOST", 64)
        found = cells(trie, vectors)
    device = jax.device_put(trie)
    looked = np.asarray(probe(queries, found.centres, device, depth=found.depth, count=4000 // 6))
    wanted = np.asarray(nearest(queries, vectors, device, count=32))
    assert found.depth == 2 and np.mean([np.isin(one, other).mean() for one, other in zip(wanted, looked)]) > 0.95
