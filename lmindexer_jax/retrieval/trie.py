"""The trie of valid IDs as arrays: which codes may follow a prefix, and which documents an ID stands for.

A node of depth t is a prefix c_1..c_t that some document has. The nodes of one depth are numbered in the order of
their codes, so the children of a node are neighbours at the next depth: an offset per node and a code per child are
the whole trie (compressed sparse rows), and a child's number is the number of its edge. Where a depth has few nodes
with many children, a row of booleans per node stands beside it (as in STATIC, Su et al., 2026, arXiv 2602.22647).

IDs may differ in length. One that ends early is followed by an end marker, the last code of every position from the
shortest length on, and by end markers up to the full length T; so every ID is a leaf of depth T, and an ID may be the
beginning of another.

Memory: per document 4 bytes for its row and 4 for its leaf; per node its code (1, 2 or 4 bytes by K) and, above the
leaves, 4 for its offset; 4 more per leaf if any two documents share one. Uniform codes with T = 4 and K = 256, which share
as little as codes can, take 12.8 bytes an ID at 10M (16.8 if some are shared); at 100M it will be 9.8 (13.8), thus 1.0 GB.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.files import load_array, replacing
from lmindexer_jax.indexing.id_table import IdTable

FORMAT = 1
MANIFEST = "trie.json"
END = -1  # in codes that come in or go out: behind an ID that is over
DENSE = 2**24  # bytes that the boolean rows of one depth may take


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "first", "documents", "leaf", "starts", "rows"],
    meta_fields=["sizes", "shortest", "widest", "sharing"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Trie:
    """A pytree of arrays; make one with `build.of_table` or `build.build`, put it on devices with `jax.device_put`.

    Attributes:
      codes: for each depth t = 1..T, the last code of every node, ascending under one parent.
      first: for each depth t = 0..T-1, the number of every node's first child at depth t + 1, and the end of the last.
      documents: rows of the table, in the order of their IDs.
      leaf: the leaf of every document, by its row.
      starts: where each leaf's documents begin in `documents`, and the end; None where every leaf has one.
      rows: for each depth t = 0..T-1, which codes may follow every node; None where `first` and `codes` are quicker.
      sizes: codes of each position, the end marker among them: the width of the logits.
      shortest: codes of the shortest ID; T where all are of one length.
      widest: for each depth t = 0..T-1, children of the node that has most.
      sharing: documents of the ID that has most.
    """

    codes: tuple[Int[Array, " n"], ...]
    first: tuple[Int[Array, " n+1"], ...]
    documents: Int[Array, " N"]
    leaf: Int[Array, " N"]
    starts: Int[Array, " n+1"] | None
    rows: tuple[Bool[Array, "n K"] | None, ...]
    sizes: tuple[int, ...]
    shortest: int
    widest: tuple[int, ...]
    sharing: int

    @property
    def length(self) -> int:
        """T, the codes of the longest ID."""
        return len(self.sizes)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Nodes of each depth 0..T; of a padded trie, room for them."""
        return (1, *(len(codes) for codes in self.codes))

    def end(self, position: int) -> int | None:
        """The end marker at a position counted from 0; None where no ID is over yet."""
        return self.sizes[position] - 1 if position >= self.shortest else None

    def documents_of(self, leaf: int) -> Int[np.ndarray, " M"]:
        """Rows, ascending, of the documents that have the ID of a leaf."""
        low, high = (leaf, leaf + 1) if self.starts is None else self.starts[leaf : leaf + 2]
        return np.asarray(self.documents[int(low) : int(high)])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in jax.tree.leaves(self))


def assemble(
    codes: Sequence[np.ndarray],
    first: Sequence[np.ndarray],
    documents: np.ndarray,
    leaf: np.ndarray,
    starts: np.ndarray | None,
    *,
    sizes: tuple[int, ...],
    shortest: int,
    widest: tuple[int, ...],
    sharing: int,
) -> Trie:
    """A trie of these arrays; the boolean rows follow from them."""
    rows = []
    for offsets, below, size, most in zip(first, codes, sizes, widest, strict=True):
        nodes, dense = len(offsets) - 1, None
        if 4 * most >= size and nodes * size <= DENSE:
            dense = np.zeros((nodes, size), bool)
            dense[np.repeat(np.arange(nodes), np.diff(offsets)), below[: offsets[-1]]] = True
        rows.append(dense)
    return Trie(tuple(codes), tuple(first), documents, leaf, starts, tuple(rows), sizes, shortest, widest, sharing)


def pad(trie: Trie, nodes: Sequence[int] | None = None, *, widest: Sequence[int] | None = None, sharing: int = 0) -> Trie:
    """The same IDs with room for more, so that a catalogue may grow or shrink without compiling anything anew.

    Args:
      nodes: room at each depth 1..T, and as much for documents as for leaves (where they share IDs and there are more,
        the next power of two); by default the next powers of two.
      widest: children that a node may have, by depth; by default the next powers of two.
      sharing: documents that an ID may have; 0 keeps what there is.

    Returns:
      a trie whose shapes and static numbers follow from these and from `sizes` alone. Surplus nodes have no children
      and are nobody's child; surplus documents are -1.
    """
    nodes = tuple(nodes) if nodes else tuple(_power(count) for count in trie.nodes[1:])
    widest = widest or [min(_power(most), size) for most, size in zip(trie.widest, trie.sizes, strict=True)]
    most = max(trie.sharing, sharing)
    documents = nodes[-1] if len(trie.documents) <= nodes[-1] else _power(len(trie.documents))

    def filled(array: np.ndarray, room: int, value: int) -> np.ndarray:
        return np.pad(np.asarray(array), (0, room - len(array)), constant_values=value)

    starts = trie.starts
    if starts is None and most > 1:
        starts = np.arange(len(trie.documents) + 1, dtype=np.int32)
    return assemble(
        tuple(filled(below, room, 0) for below, room in zip(trie.codes, nodes, strict=True)),
        tuple(filled(at, room + 1, at[-1]) for at, room in zip(trie.first, (1, *nodes), strict=False)),
        filled(trie.documents, documents, -1),
        filled(trie.leaf, documents, -1),
        None if starts is None else filled(starts, nodes[-1] + 1, starts[-1]),
        sizes=trie.sizes,
        shortest=trie.shortest,
        widest=tuple(widest),
        sharing=most,
    )


def _power(count: int) -> int:
    return 1 << (int(count) - 1).bit_length()


def save(trie: Trie, folder: str | os.PathLike, *, table: IdTable) -> None:
    """Write a table's trie as arrays of their own files, and last the manifest, which names the table.

    What `build` has put there already stays as it is.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    arrays = _named(trie)
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        if isinstance(array, np.memmap) and pathlib.Path(array.filename) == path.resolve():
            array.flush()
            continue
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.asarray(array), allow_pickle=False)
    static = {name: getattr(trie, name) for name in ("sizes", "shortest", "widest", "sharing")}
    shapes = {name: len(array) for name, array in arrays.items()}
    manifest = {"format": FORMAT, "table": table.digest, "trie": static, "arrays": shapes}
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")


def load(folder: str | os.PathLike, *, table: IdTable | None = None) -> Trie:
    """Map a saved trie; nothing is read that is not looked at, save the depths that get boolean rows.

    Args:
      table: refuse the trie of another one.

    Raises:
      UserError: no trie, a damaged one, another format or another table's.
    """
    folder = pathlib.Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: no such file; a trie is saved there when it is whole, so build it again")
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise UserError(f"{path}: format {manifest['format']}, but this version reads {FORMAT}; build the trie again")
        if table is not None and manifest["table"] != table.digest:
            raise UserError(f"{path}: made from another ID table; build the trie again")
        arrays = {name: load_array(folder / f"{name}.npy", mapped=True) for name in manifest["arrays"]}
        if any(len(array) != manifest["arrays"][name] for name, array in arrays.items()):
            raise UserError(f"{folder}: its arrays are not those of its manifest; build the trie again")
        static = manifest["trie"] | {name: tuple(manifest["trie"][name]) for name in ("sizes", "widest")}
        depths = range(len(static["sizes"]))
        return assemble(
            tuple(arrays[f"codes-{t + 1}"] for t in depths),
            tuple(arrays[f"first-{t}"] for t in depths),
            arrays["documents"],
            arrays["leaf"],
            arrays.get("starts"),
            **static,
        )
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise UserError(f"{folder}: damaged ({error}); build the trie again") from None


def _named(trie: Trie) -> dict[str, np.ndarray]:
    """The arrays by the names of their files."""
    named = {f"codes-{t + 1}": array for t, array in enumerate(trie.codes)}
    named |= {f"first-{t}": array for t, array in enumerate(trie.first)}
    named |= {"documents": trie.documents, "leaf": trie.leaf}
    return named if trie.starts is None else named | {"starts": trie.starts}
