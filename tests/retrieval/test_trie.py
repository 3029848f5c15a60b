"""The trie: exactly the IDs that went in, whichever way it was built, padded, saved and looked up."""

import collections
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import catalogues
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import id_table
from lmindexer_jax.indexing.id_table import Manifest
from lmindexer_jax.retrieval import sorting, trie
from lmindexer_jax.retrieval.build import Counter, build, of_table
from lmindexer_jax.retrieval.children import children_mask, children_masks, find, node_codes, spans
from lmindexer_jax.retrieval.trie import Trie, load, pad, save


def table(codes: np.ndarray, sizes: tuple[int, ...]) -> id_table.IdTable:
    manifest = Manifest(config={}, corpus_hash="corpus", model_hash="model", codebook_sizes=sizes)
    return id_table.build([f"doc {row}" for row in range(len(codes))], codes, manifest)


def listed(made: Trie) -> dict[tuple[int, ...], list[int]]:
    """IDs with their documents, read from the arrays from the top down."""
    found = {}

    def walk(depth: int, node: int, prefix: tuple[int, ...]) -> None:
        if depth == made.length:
            found[prefix] = made.documents_of(node).tolist()
            return
        low, high = made.first[depth][node : node + 2]
        codes = made.codes[depth][low:high].astype(int).tolist()
        assert codes == sorted(set(codes))
        for child, code in zip(range(low, high), codes, strict=True):
            walk(depth + 1, child, prefix if code == made.end(depth) else (*prefix, code))

    walk(0, 0, ())
    return found


def expected(codes: np.ndarray) -> dict[tuple[int, ...], list[int]]:
    documents = collections.defaultdict(list)
    for row, codes_of_row in enumerate(codes.tolist()):
        documents[tuple(code for code in codes_of_row if code >= 0)].append(row)
    return dict(documents)


catalogue = st.builds(
    lambda seed, documents, length, variable: catalogues.catalogue(
        np.random.default_rng(seed), documents, length=length, variable=variable
    ),
    st.integers(0, 2**32), st.integers(1, 80), st.integers(1, 6), st.booleans(),
)  # fmt: skip


@given(catalogue)
@settings(deadline=None, max_examples=60)
def test_it_holds_the_ids_that_went_in(codes):
    sizes = catalogues.SIZES[: codes.shape[1]]
    made = build(codes, sizes)
    assert listed(made) == expected(codes)
    assert made.widest == tuple(int(np.diff(first).max()) for first in made.first)
    np.testing.assert_array_equal(made.leaf[made.documents], np.sort(made.leaf))
    for documents in listed(pad(made)).values():
        assert len(set(made.leaf[documents])) == 1
    assert listed(pad(made)) == listed(made)


@given(catalogue, st.integers(1, 30))
@settings(deadline=None, max_examples=30)
def test_built_in_pieces_on_disk_it_is_the_same(tmp_path_factory, codes, chunk):
    sizes = catalogues.SIZES[: codes.shape[1]]
    folder = tmp_path_factory.mktemp("trie")
    whole, pieces = build(codes, sizes), build(codes, sizes, folder=folder, chunk=chunk)
    assert jax.tree.structure(whole) == jax.tree.structure(pieces)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert {path.suffix for path in folder.iterdir()} == {".npy"}, "nothing temporary stays"


def test_ids_wider_than_a_word_sort_as_others_do(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (400, 9)) * 2**13
    sizes = (2**15,) * 9
    assert sorting.fields(sizes).words == 3
    assert listed(build(codes, sizes)) == expected(codes)
    assert listed(build(codes, sizes, folder=tmp_path, chunk=50)) == expected(codes)


def test_look_ups_on_the_device():
    rng = np.random.default_rng(3)
    codes = catalogues.catalogue(rng, 200, length=4, variable=True)
    made = build(codes, catalogues.SIZES[:4])
    assert {dense is None for dense in made.rows} == {True, False}, "both ways to look up"
    ids = expected(codes)
    following = collections.defaultdict(set)
    for name in ids:
        marked = [*name, *(made.end(t) for t in range(len(name), 4))]
        for t in range(4):
            following[tuple(marked[:t])].add(marked[t])
    device = jax.device_put(made)
    masks = jax.jit(children_masks)(device, codes)
    leaves = jax.jit(find)(device, codes)
    np.testing.assert_array_equal(leaves, made.leaf)
    back = jax.jit(node_codes, static_argnums=1)(device, 4, leaves)
    low, high = spans(made, 4, made.leaf)
    for row, name in enumerate(map(tuple, codes.tolist())):
        marked = tuple(made.end(t) if code < 0 else code for t, code in enumerate(name))
        assert tuple(back[row].tolist()) == marked
        assert row in made.documents[low[row] : high[row]]
        for t in range(4):
            assert set(np.flatnonzero(masks[t][row])) == following[marked[:t]]
    wrong = np.array([[0, 63], [11, 0]])
    wrong = wrong[[tuple(row) not in following for row in wrong.tolist()]]
    assert len(wrong)
    np.testing.assert_array_equal(jax.jit(find)(device, wrong), [-1] * len(wrong))
    assert not jax.jit(children_mask)(device, wrong).any()


def test_counters_of_a_table():
    made = table(np.array([[1, 2], [0, 1], [1, 2], [1, 0], [1, 2]]), (2, 3))
    assert listed(of_table(made, counter=Counter.ALWAYS)) == {
        (0, 1, 0): [1], (1, 0, 0): [3], (1, 2, 0): [0], (1, 2, 1): [2], (1, 2, 2): [4],
    }  # fmt: skip
    where_needed = of_table(made)
    assert listed(where_needed) == {(0, 1): [1], (1, 0): [3], (1, 2): [0], (1, 2, 1): [2], (1, 2, 2): [4]}
    assert (where_needed.sizes, where_needed.shortest) == ((2, 3, 4), 2)
    assert listed(of_table(made, counter=Counter.NEVER)) == {(0, 1): [1], (1, 0): [3], (1, 2): [0, 2, 4]}
    single = table(np.array([[1, 2], [0, 1]]), (2, 3))
    assert of_table(single).sizes == (2, 3)
    assert of_table(single, counters=8).sizes == (2, 3, 9)


def test_a_saved_trie_belongs_to_its_table(tmp_path):
    codes = catalogues.catalogue(np.random.default_rng(1), 50, length=3, variable=False)
    mine, other = table(codes, catalogues.SIZES[:3]), table(codes[::-1], catalogues.SIZES[:3])
    for folder, built in ((tmp_path / "a", of_table(mine)), (tmp_path / "b", of_table(mine, folder=tmp_path / "b"))):
        save(built, folder, table=mine)
        again = load(folder, table=mine)
        assert isinstance(again.documents, np.memmap)
        assert jax.tree.structure(again) == jax.tree.structure(built)
        for one, two in zip(jax.tree.leaves(built), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(one, two)
        with pytest.raises(UserError, match="another ID table"):
            load(folder, table=other)
    path = tmp_path / "a" / trie.MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        load(tmp_path / "a")
    path.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path / "a")
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "a")
    np.save(tmp_path / "b" / "leaf.npy", np.zeros(3, np.int32))
    with pytest.raises(UserError, match="not those of its manifest"):
        load(tmp_path / "b")


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        (np.zeros((0, 2), int), "one ID at least"),
        (np.array([[0, 1], [0, 3]]), "row 1 has .0, 3.: code 2 must be from 0 to 2"),
        (np.array([[-1, -1]]), "code 1"),
        (np.array([[0, -2]]), "code 2"),
    ],
)
def test_what_is_no_id_is_refused(codes, complaint):
    with pytest.raises(UserError, match=complaint):
        build(codes, (2, 3))


def test_codes_behind_an_end_are_refused():
    with pytest.raises(UserError, match="row 0 has"):
        build(np.array([[0, -1, 1]]), (2, 3, 2))


def test_the_digest_of_a_table_is_of_ids_and_codes():
    codes = np.array([[1, 2], [0, 1]])
    first = table(codes, (2, 3))
    assert first.digest == table(codes, (2, 3)).digest
    assert first.digest != table(codes[::-1], (2, 3)).digest
    manifest = first.manifest
    assert first.digest != id_table.build(["doc", " 0doc 1"], codes, manifest).digest
    assert first.digest != id_table.build(["doc 1", "doc 0"], codes, manifest).digest
