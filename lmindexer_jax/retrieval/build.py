"""The trie of a table's IDs: sorted, then read off in one pass over neighbours, all vectorised.

In memory by default; in a folder of memory-mapped arrays, with `chunk` IDs in memory at a time, where there are many.
"""

import enum
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.retrieval import sorting
from lmindexer_jax.retrieval.trie import END, MANIFEST, Trie, assemble

CHUNK = 2**22  # IDs in memory at a time


class Counter(enum.StrEnum):
    """What tells documents apart that share all codes."""

    ALWAYS = "always"  # every ID ends with a counter: one length, no ID begins another
    WHERE_NEEDED = "where-needed"  # "12-7-3" ends after its codes, "12-7-3-1" goes on
    NEVER = "never"  # nothing: such documents are one ID


def of_table(
    table: IdTable, *, counter: Counter = Counter.WHERE_NEEDED, counters: int = 0, folder: str | os.PathLike | None = None
) -> Trie:
    """The trie of a table's IDs; leaves give rows of the table.

    Args:
      counter: what tells documents apart that share all codes. Where there are none, WHERE_NEEDED adds no position.
      counters: room for at least so many documents of the same codes, so that a model can outlast a longer table; with
        WHERE_NEEDED it also keeps the position where nothing collides.
      folder: see `build`.
    """
    sizes, most = table.manifest.codebook_sizes, int(table.counter.max(initial=0)) + 1
    match counter:
        case Counter.NEVER:
            return build(table.codes, sizes, folder=folder)
        case Counter.ALWAYS:
            last = table.counter
        case Counter.WHERE_NEEDED:
            if max(most, counters) == 1:
                return build(table.codes, sizes, folder=folder)
            last = np.where(table.counter == 0, END, table.counter)
    ids = np.column_stack([table.codes, last])
    shortest = len(sizes) if counter == Counter.WHERE_NEEDED else None
    return build(ids, (*sizes, max(most, counters)), shortest=shortest, folder=folder)


def build(
    codes: Int[np.ndarray, "N T"],
    sizes: Sequence[int],
    *,
    shortest: int | None = None,
    folder: str | os.PathLike | None = None,
    chunk: int = CHUNK,
) -> Trie:
    """The trie of IDs, in any order; equal ones share a leaf.

    Args:
      codes: one ID per row; a shorter one is filled up with -1 (`END`).
      sizes: K of each position, without the end marker.
      shortest: give positions from here on an end marker even if no ID needs it; by default as the IDs need it.
      folder: build there instead of in memory, `chunk` IDs at a time, and map the files; `save` then writes the rest.
      chunk: see `folder`.

    Raises:
      UserError: no IDs, a code outside its codebook, an empty ID, or codes behind an end.
    """
    count, length = codes.shape
    if count == 0 or length != len(sizes):
        raise UserError(f"trie: IDs of shape {codes.shape}, but {len(sizes)} codebooks; there must be one ID at least")
    pieces = [slice(low, low + chunk) for low in range(0, count, chunk)] if folder else [slice(0, count)]
    found = min(_shortest(codes[piece], sizes, piece.start) for piece in pieces)
    shortest = found if shortest is None else min(found, shortest)
    sizes = tuple(int(size) + (position >= shortest) for position, size in enumerate(sizes))
    layout = sorting.fields(sizes)

    def words() -> Iterator[np.ndarray]:
        for piece in pieces:
            ends = np.asarray(sizes, codes.dtype)[None, :] - 1
            part = codes[piece]
            yield sorting.pack(np.where(part == END, ends, part), layout)

    if folder is None:
        (packed,) = words()
        rows = sorting.order(packed)
        return _read_off(packed[rows], rows.astype(np.int32), sizes, shortest=shortest, room=_memory, chunk=chunk)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)

    def room(name: str, count: int, dtype: type) -> np.ndarray:
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (count,))

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        ordered = np.lib.format.open_memmap(pathlib.Path(scratch) / "ordered.npy", "w+", np.uint64, (count, layout.words))
        documents, done = room("documents", count, np.int32), 0
        for share, rows in sorting.merge(words(), pathlib.Path(scratch), chunk=chunk):
            ordered[done : done + len(share)], documents[done : done + len(share)] = share, rows
            done += len(share)
        return _read_off(ordered, documents, sizes, shortest=shortest, room=room, chunk=chunk)


def _memory(name: str, count: int, dtype: type) -> np.ndarray:
    return np.empty(count, dtype)


def _shortest(codes: Int[np.ndarray, "M T"], sizes: Sequence[int], first_row: int) -> int:
    """Codes of the shortest ID; a UserError where one cannot be."""
    over = codes == END
    wrong = (codes < END) | (codes >= np.asarray(sizes)[None, :])
    wrong[:, 0] |= over[:, 0]
    wrong[:, 1:] |= over[:, :-1] & ~over[:, 1:]
    if wrong.any():
        row, position = np.argwhere(wrong)[0]
        raise UserError(
            f"trie: row {first_row + row} has {codes[row].tolist()}: code {position + 1} must be from 0 to "
            f"{sizes[position] - 1}, or {END} behind the end of an ID"
        )
    return codes.shape[1] - int(over.sum(1).max())


def _read_off(
    ordered: np.ndarray,
    documents: Int[np.ndarray, " N"],
    sizes: tuple[int, ...],
    *,
    shortest: int,
    room: Callable[[str, int, type], np.ndarray],
    chunk: int,
) -> Trie:
    """The trie of packed IDs in order: nodes are counted in a first pass over them and written in a second."""
    layout, count, depths = sorting.fields(sizes), len(ordered), range(len(sizes))

    def passes() -> Iterator[tuple[int, np.ndarray, list[np.ndarray]]]:
        for low in range(0, count, chunk):
            share = np.asarray(ordered[low : low + chunk])
            before = ordered[low - 1] if low else None
            yield low, share, [np.flatnonzero(fresh) for fresh in sorting.fresh_prefixes(share, before, layout)]

    nodes = np.sum([[len(places) for places in fresh] for _, _, fresh in passes()], axis=0)
    codes = tuple(room(f"codes-{t + 1}", nodes[t], _smallest(sizes[t])) for t in depths)
    first = tuple(room(f"first-{t}", (nodes[t - 1] if t else 1) + 1, np.int32) for t in depths)
    starts = None if nodes[-1] == count else room("starts", nodes[-1] + 1, np.int32)
    leaf = room("leaf", count, np.int32)
    done = np.zeros(len(sizes), np.int64)
    first[0][:] = [0, nodes[0]]
    for low, share, fresh in passes():
        for t in depths:
            new = slice(done[t], done[t] + len(fresh[t]))
            codes[t][new] = sorting.unpack(share[fresh[t]], layout, t)
            if t + 1 < len(sizes):  # every new prefix brings its first child, in the same place
                first[t + 1][new] = done[t + 1] + np.searchsorted(fresh[t + 1], fresh[t])
            elif starts is not None:
                starts[new] = low + fresh[t]
        numbers = np.zeros(len(share), np.int32)
        numbers[fresh[-1]] = 1
        leaf[documents[low : low + len(share)]] = done[-1] - 1 + np.cumsum(numbers)
        done += [len(places) for places in fresh]
    for t in depths[1:]:
        first[t][-1] = nodes[t]
    if starts is not None:
        starts[-1] = count
    widest = tuple(_largest_step(offsets, chunk) for offsets in first)
    sharing = 1 if starts is None else _largest_step(starts, chunk)
    static = {"sizes": sizes, "shortest": shortest, "widest": widest, "sharing": sharing}
    return assemble(codes, first, documents, leaf, starts, **static)


def _largest_step(offsets: Int[np.ndarray, " n+1"], chunk: int) -> int:
    return max(int(np.diff(offsets[low : low + chunk + 1]).max()) for low in range(0, len(offsets) - 1, chunk))


def _smallest(size: int) -> type:
    """The narrowest type that holds codes 0..size-1."""
    return np.uint8 if size <= 2**8 else np.uint16 if size <= 2**16 else np.int32
