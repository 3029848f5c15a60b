"""What users did, in time order: `user TAB item item item ...`, one user a line; and the last item left out."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from lmindexer_jax.data.readers import text_lines
from lmindexer_jax.data.records import shown
from lmindexer_jax.errors import UserError

FEWEST = 3  # items of a user: one each to train on, to validate with and to test with


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """Histories of U users, each with the item that comes next.

    Attributes:
      items: rows of the corpus, users end to end, each user's in time order; the last of a user is the target.
      offsets: user u has `items[offsets[u]:offsets[u + 1]]`, at least one item.
      users: number of each user in the file.
    """

    items: Int[np.ndarray, " M"]
    offsets: Int[np.ndarray, " U+1"]
    users: Int[np.ndarray, " U"]

    def __len__(self) -> int:
        """Users."""
        return len(self.users)

    @property
    def targets(self) -> Int[np.ndarray, " U"]:
        """The item that comes next for each user."""
        return self.items[self.offsets[1:] - 1]

    @property
    def histories(self) -> tuple[Int[np.ndarray, " M-U"], Int[np.ndarray, " U+1"]]:
        """Items before the target, end to end, and where each user begins; empty where the target is all there is."""
        return np.delete(self.items, self.offsets[1:] - 1), self.offsets - np.arange(len(self.offsets))

    @property
    def repeats(self) -> Bool[np.ndarray, " U"]:
        """Whose target stands in the history already: no leak, but out of reach where the history is left out."""
        user = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        return np.bincount(user[self.items == self.targets[user]], minlength=len(self)) > 1

    def counts(self, documents: int) -> Int[np.ndarray, " N"]:
        """How often each item occurs, targets included: of the training sequences, its popularity."""
        return np.bincount(self.items, minlength=documents)


def read_interactions(path: pathlib.Path, ids: Sequence[str]) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " U+1"]]:
    """Items of all users end to end as row numbers of the corpus, and where each user begins.

    Args:
      path: the file, plain or gzipped; items are document ids or, in all of the file and where no id is a whole number
        itself, the documents' row numbers from 1.
      ids: of the corpus.

    Raises:
      UserError: no such file, bad UTF-8, a line without a tab, a user twice or without items, an unknown item, or
        no user with two items.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a file of lines `user TAB item item ...` as --config.interactions")
    row_of = {name: row for row, name in enumerate(ids)}
    numbers = {} if any(map(str.isdecimal, ids)) else {str(row + 1): row for row in range(len(ids))}
    items: list[int] = []
    offsets = [0]
    known: dict[str, int] = {}  # items by id or by number, as the first item of the file is given
    first: dict[str, str] = {}
    for where, line in text_lines(path):
        user, tab, rest = line.partition("\t")
        if not tab:
            raise UserError(f"{where}: no tab between user and items; write `user TAB item item ...`")
        if user in first:
            raise UserError(f"{where}: user {shown(user)} stands at {first[user]} already; put all items of a user on one line")
        first[user] = where
        for name in rest.split():
            known = known or (row_of if name in row_of else numbers)
            row = known.get(name)
            if row is None:
                what = "is no row number, as the first item is," if known is numbers and name in row_of else "is not in the corpus"
                raise UserError(f"{where}: item {shown(name)} of user {shown(user)} {what}; give ids of documents alone")
            items.append(row)
        if len(items) == offsets[-1]:
            raise UserError(f"{where}: user {shown(user)} has no items; leave the line out")
        offsets.append(len(items))
    if np.diff(offsets).max(initial=0) < 2:
        raise UserError(f"{path}: no user has two items, so nothing follows anything; give all items of a user on one line")
    return np.asarray(items, np.int64), np.asarray(offsets)


def leave_one_out(items: Int[np.ndarray, " M"], offsets: Int[np.ndarray, " U+1"]) -> dict[str, Sequences]:
    """The standard split: the last item is for `test`, the last but one for `validation`, the rest for `train`.

    `test` has the whole sequence with the last item as target, `validation` leaves out the last item, `train` the last
    two. Users of fewer than three items are left out. Train on `train` alone: its sequences hold no later target.

    Raises:
      UserError: no user has three items.
    """
    lengths = np.diff(offsets)
    users = np.flatnonzero(lengths >= FEWEST)
    if not len(users):
        raise UserError(f"no user has {FEWEST} items: one each to train on, to validate with and to test with")
    splits = {}
    for split, left_out in (("train", 2), ("validation", 1), ("test", 0)):
        kept = lengths[users] - left_out
        starts = np.r_[0, np.cumsum(kept)]
        places = np.arange(starts[-1]) + np.repeat(offsets[users] - starts[:-1], kept)
        splits[split] = Sequences(items[places], starts, users)
    return splits
