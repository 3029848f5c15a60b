"""Documents that share a code prefix, as arrays: sort by prefix, keep offsets.

A group is found in O(1) and a negative is drawn without a Python list per prefix, so a million documents cost two
integer arrays.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int


class PrefixGroups(NamedTuple):
    """Documents sorted by prefix. Group g holds `members[offsets[g]:offsets[g + 1]]`; its prefix is `prefixes[g]`."""

    prefixes: Int[np.ndarray, "G P"]
    members: Int[np.ndarray, " N"]
    offsets: Int[np.ndarray, " G+1"]
    group: Int[np.ndarray, " N"]  # group of each document
    place: Int[np.ndarray, " N"]  # index of each document in `members`

    @property
    def sizes(self) -> Int[np.ndarray, " G"]:
        """Documents per group."""
        return np.diff(self.offsets)


def group_by_prefix(codes: Int[np.ndarray, "N P"]) -> PrefixGroups:
    """Group documents by their codes so far; P = 0 puts all documents into one group."""
    documents = codes.shape[0]
    if codes.shape[1] == 0:
        everyone = np.arange(documents)
        zeros = np.zeros(documents, np.int64)
        return PrefixGroups(np.zeros((1, 0), np.int32), everyone, np.array([0, documents]), zeros, everyone)
    members = np.lexsort(codes.T[::-1])
    ordered = codes[members]
    starts = np.flatnonzero(np.r_[True, np.any(ordered[1:] != ordered[:-1], axis=1)])
    offsets = np.r_[starts, documents]
    group = np.empty(documents, np.int64)
    group[members] = np.repeat(np.arange(len(starts)), np.diff(offsets))
    place = np.empty(documents, np.int64)
    place[members] = np.arange(documents)
    return PrefixGroups(ordered[starts], members, offsets, group, place)


def find_prefixes(prefixes: Int[np.ndarray, "G P"], codes: Int[np.ndarray, "M P"]) -> Int[np.ndarray, " M"]:
    """Row of each code sequence among the sorted `prefixes` of the same length, or -1 where it is not there."""
    if codes.shape[1] == 0:
        return np.zeros(codes.shape[0], np.int64)
    known, asked = _as_bytes(prefixes), _as_bytes(codes)
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.where(known[at] == asked, at, -1)


def _as_bytes(codes: Int[np.ndarray, "M P"]) -> np.ndarray:
    """Each row as one value of 4 P bytes that sorts as the row does; as one integer, long rows would not fit."""
    return np.ascontiguousarray(codes, ">u4").view(f"V{4 * codes.shape[1]}")[:, 0]


def draw_neighbours(
    groups: PrefixGroups, indices: Int[np.ndarray, " B"], *, count: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "B C"], Bool[np.ndarray, "B C"]]:
    """Draw documents that share each document's prefix, never the document itself.

    Returns:
      indices of drawn documents, and which of them are real: a document alone in its group has none, one in a group
      of two has one. Places beyond the group's size repeat the document itself and are marked absent.
    """
    start = groups.offsets[groups.group[indices]]
    size = groups.sizes[groups.group[indices]]
    taken = (groups.place[indices] - start)[:, None]  # places within the group, sorted, the document's own first
    drawn = np.empty((len(indices), count), np.int64)
    for column in range(count):
        # A draw among the places that are left, moved past each place already taken.
        place = (rng.random(len(indices)) * np.maximum(size - column - 1, 1)).astype(np.int64)
        for earlier in taken.T:
            place += place >= earlier
        drawn[:, column] = place
        taken = np.sort(np.c_[taken, place], axis=1)
    present = np.arange(count)[None, :] < (size - 1)[:, None]
    return np.where(present, groups.members[np.where(present, start[:, None] + drawn, 0)], indices[:, None]), present
