"""What each query has seen closes the nodes of which nothing is left, in little memory."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import catalogues
from lmindexer_jax.retrieval.build import build
from lmindexer_jax.retrieval.permits import close, permit
from lmindexer_jax.retrieval.trie import Trie, pad

LENGTH, ROOM = 3, 128  # one room for all catalogues, so that they share what is compiled
SHAPE = {"widest": [12, 8, 5], "sharing": catalogues.COPIES}
closing = jax.jit(lambda trie, seen, allowed: close(trie, seen, permits=permit(trie, allowed)))


def closed_by_definition(trie: Trie, seen: np.ndarray, allowed: np.ndarray, *, documents: int) -> list[set[int]]:
    """For each depth 0..T the nodes below which documents are allowed, and one query has seen all of these."""
    left = [set() for _ in range(LENGTH + 1)]
    gone = [set() for _ in range(LENGTH + 1)]
    for row in np.flatnonzero(allowed[:documents]).tolist():
        node = int(trie.leaf[row])
        for depth in range(LENGTH, -1, -1):
            (gone if row in seen else left)[depth].add(node)
            node = int(np.searchsorted(trie.first[depth - 1], node, side="right")) - 1 if depth else node
    return [some - others for some, others in zip(gone, left, strict=True)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.2, 0.9, 1.0]), few=st.integers(1, 100))
def test_closed_nodes_are_those_of_which_all_that_is_allowed_was_seen(seed, share, few):
    rng = np.random.default_rng(seed)
    ids = catalogues.catalogue(rng, 100, length=LENGTH, variable=False)[:few]
    trie = pad(build(ids, catalogues.SIZES[:LENGTH]), [ROOM] * LENGTH, **SHAPE)
    allowed = np.pad(rng.random(len(ids)) < share, (0, len(trie.documents) - len(ids)))
    seen = np.where(rng.random((4, 160)) < rng.random((4, 1)), rng.integers(0, len(ids), (4, 160)), -1)  # in part twice
    found = closing(trie, seen, allowed)
    np.testing.assert_array_equal(found.documents, seen)
    for query, row in enumerate(seen):
        for nodes, wanted in zip(found.nodes, closed_by_definition(trie, row, allowed, documents=len(ids)), strict=True):
            named = nodes[query][nodes[query] >= 0].tolist()
            assert named == sorted(wanted), "each once, and in ascending order"


@pytest.mark.parametrize("within", [False, True])
def test_long_histories_take_memory_by_their_length_alone(within):
    trie = build(np.unique(np.random.default_rng(0).integers(0, 16, (900, 3)), axis=0).astype(np.int32), (16, 16, 16))
    seen, allowed = np.zeros((64, 4096), np.int32), np.ones(len(trie.documents), bool)
    run = closing if within else jax.jit(lambda trie, seen, _: close(trie, seen))
    taken = run.lower(trie, seen, allowed).compile().memory_analysis().temp_size_in_bytes
    assert taken < 100 * seen.nbytes, "which is 105 MB; each with each other would be 1 GB at a byte a pair"
