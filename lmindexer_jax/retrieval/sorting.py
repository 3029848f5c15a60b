"""Many IDs in order, in memory that a constant bounds: packed into integers, sorted in pieces, merged piece by piece.

An ID becomes one or a few 64-bit words, each code in a field of its own with the first code highest, so that words
compare as IDs do. A piece of `chunk` IDs is sorted at a time; the sorted runs lie on the disk; then equal shares of the
whole range are taken from all runs, sorted once more and appended (external merge sort, Knuth, vol. 3, 5.4).
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int, UInt64

WORD = 64


@dataclasses.dataclass(frozen=True)
class Fields:
    """Where each position's code lies: in which word, how far from its right end, and how many bits wide."""

    word: tuple[int, ...]
    shift: tuple[int, ...]
    bits: tuple[int, ...]

    @property
    def words(self) -> int:
        """64-bit words per ID."""
        return self.word[-1] + 1


def fields(sizes: Sequence[int]) -> Fields:
    """Room for codes 0..size-1 of each position."""
    bits = [max(int(size) - 1, 1).bit_length() for size in sizes]
    word, used = [], WORD + 1
    for width in bits:
        used = used + width
        if used > WORD:
            word.append(word[-1] + 1 if word else 0)
            used = width
        else:
            word.append(word[-1])
    free = [WORD] * (word[-1] + 1)
    shift = []
    for place, width in zip(word, bits, strict=True):
        free[place] -= width
        shift.append(free[place])
    return Fields(tuple(word), tuple(shift), tuple(bits))


def pack(codes: Int[np.ndarray, "N T"], layout: Fields) -> UInt64[np.ndarray, "N W"]:
    """Codes -> words."""
    words = np.zeros((len(codes), layout.words), np.uint64)
    for column, word, shift in zip(codes.T, layout.word, layout.shift, strict=True):
        words[:, word] |= column.astype(np.uint64) << np.uint64(shift)
    return words


def unpack(words: UInt64[np.ndarray, "N W"], layout: Fields, position: int) -> Int[np.ndarray, " N"]:
    """The codes of one position."""
    mask = np.uint64(2 ** layout.bits[position] - 1)
    return (words[:, layout.word[position]] >> np.uint64(layout.shift[position])) & mask


def fresh_prefixes(
    words: UInt64[np.ndarray, "N W"], before: UInt64[np.ndarray, " W"] | None, layout: Fields
) -> Iterator[np.ndarray]:
    """For each length t = 1..T: which sorted IDs begin with other codes c_1..c_t than the one before them do.

    Args:
      before: the ID in front of the first; None where there is none.
    """
    differ = np.empty_like(words)
    np.bitwise_xor(words[1:], words[:-1], out=differ[1:])
    differ[:1] = np.uint64(2**WORD - 1) if before is None else words[:1] ^ before[None, :]
    earlier = np.zeros(len(words), bool)  # by a word further left
    for position, (word, shift) in enumerate(zip(layout.word, layout.shift, strict=True)):
        if position and word > layout.word[position - 1]:
            earlier |= differ[:, word - 1] != 0
        yield earlier | (differ[:, word] >> np.uint64(shift) != 0)


def order(words: UInt64[np.ndarray, "N W"]) -> Int[np.ndarray, " N"]:
    """Rows in the order of their words; equal ones stay in their order."""
    return np.argsort(words[:, 0], kind="stable") if words.shape[1] == 1 else np.lexsort(words.T[::-1])


def merge(
    pieces: Iterator[UInt64[np.ndarray, "M W"]], folder: pathlib.Path, *, chunk: int
) -> Iterator[tuple[UInt64[np.ndarray, "M W"], Int[np.ndarray, " M"]]]:
    """All IDs in order, a share at a time, with the row that each came from; equal IDs in the order of their rows.

    Args:
      pieces: the IDs as they come, as many at a time as fit into memory.
      folder: where the runs are kept; they are removed at the end.
      chunk: about how many IDs a share holds (more where more than these share their first word).
    """
    runs, sample, row = [], [], 0
    for number, words in enumerate(pieces):
        sorted_rows = order(words)
        names = folder / f"words-{number}.npy", folder / f"rows-{number}.npy"
        np.save(names[0], words[sorted_rows])
        np.save(names[1], sorted_rows + row)
        sample.append(words[sorted_rows[:: max(1, chunk // 64)], 0])
        runs.append(names)
        row += len(words)
    # Each sampled word stands for chunk / 64 IDs of its run, so that shares differ from `chunk` by a few per cent.
    splits = np.unique(np.sort(np.concatenate(sample))[64::64])
    opened = [tuple(np.load(name, mmap_mode="r") for name in names) for names in runs]
    places = [np.r_[0, np.searchsorted(words[:, 0], splits), len(words)] for words, _ in opened]
    for share in range(len(splits) + 1):
        low_high = [(place[share], place[share + 1]) for place in places]
        words = np.concatenate([run[low:high] for (run, _), (low, high) in zip(opened, low_high, strict=True)])
        rows = np.concatenate([run[low:high] for (_, run), (low, high) in zip(opened, low_high, strict=True)])
        sorted_rows = order(words)
        yield words[sorted_rows], rows[sorted_rows]
    del opened
    for names in runs:
        for name in names:
            name.unlink()
