"""Do items that a user meets one after the other share a code? A cheap stand-in for usefulness in recommendation.

Only pairs of different items count, in what is found and in what chance is: users seldom meet an item twice in a row,
so that with IDs all distinct a chance that pairs items with themselves would be the larger of the two.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from lmindexer_jax.evaluation.agreement import agreement


@dataclasses.dataclass(frozen=True)
class CoOccurrence:
    """Over all pairs of different consecutive items of a user."""

    share: float  # of pairs whose two items have the same code
    chance: float  # the same if each second item were drawn anew from all second items but the first item itself
    lift: float  # share over chance
    ami: float  # of the first item's code with the second's
    pairs: int


class Pairs(NamedTuple):
    """Different consecutive items of users: rows of the corpus, and a number per user who has a pair, ascending."""

    first: Int[np.ndarray, " P"]
    second: Int[np.ndarray, " P"]
    user: Int[np.ndarray, " P"]

    @property
    def users(self) -> int:
        """Users who have a pair."""
        return int(self.user[-1]) + 1


def consecutive_pairs(items: Int[np.ndarray, " M"], offsets: Int[np.ndarray, " U+1"]) -> Pairs:
    """Every item with the next one of its user.

    Args:
      items: rows of the corpus, users end to end, each user's in time order.
      offsets: user u has `items[offsets[u]:offsets[u + 1]]`.

    Raises:
      ValueError: no user has two different items in a row.
    """
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    pair = (user[1:] == user[:-1]) & (items[1:] != items[:-1])
    if not pair.any():
        raise ValueError("no user has two items in a row")
    return Pairs(items[:-1][pair], items[1:][pair], np.unique(user[1:][pair], return_inverse=True)[1].reshape(-1))


def co_occurrence(
    partition: Int[np.ndarray, " N"], items: Int[np.ndarray, " M"], offsets: Int[np.ndarray, " U+1"]
) -> CoOccurrence:
    """Compare the codes of neighbours in time: of `partition`, a code or a number of the prefix per item.

    Other arguments and errors as in `consecutive_pairs`.
    """
    pairs = consecutive_pairs(items, offsets)
    values = lifts([partition], pairs, np.arange(pairs.users)[None, :])[0]
    ami = agreement(partition[pairs.second], partition[pairs.first]).ami
    return CoOccurrence(**{name: float(value[0]) for name, value in values.items()}, ami=ami, pairs=len(pairs.first))


def lifts(
    partitions: list[Int[np.ndarray, " N"]], pairs: Pairs, rows: Int[np.ndarray, "R M"]
) -> list[dict[str, Float[np.ndarray, " R"]]]:
    """For every partition `share`, `chance` and `lift` over R samples of M users each."""
    picked = sparse.csr_array(
        (np.ones(rows.size), rows.reshape(-1), np.arange(len(rows) + 1) * rows.shape[1]), shape=(len(rows), pairs.users)
    )

    def met(first: Int[np.ndarray, " P"], second: Int[np.ndarray, " P"]) -> Float[np.ndarray, " R"]:
        """Of all first with all second items of each sample, the pairs that are equal."""
        shape, ones = (pairs.users, int(max(first.max(), second.max())) + 1), np.ones(len(first))
        one, two = (picked @ sparse.csr_array((ones, (pairs.user, side)), shape=shape) for side in (first, second))
        return one.multiply(two).sum(1)

    total = picked @ np.bincount(pairs.user, minlength=pairs.users).astype(np.float64)
    itself = met(pairs.first, pairs.second)
    found = []
    for partition in partitions:
        first, second = partition[pairs.first], partition[pairs.second]
        same = picked @ np.bincount(pairs.user, first == second, minlength=pairs.users)
        share = same / total
        others = total**2 - itself
        chance = np.divide(met(first, second) - itself, others, out=np.zeros_like(share), where=others > 0)
        lift = np.divide(share, chance, out=np.zeros_like(share), where=chance > 0)
        found.append({"share": share, "chance": chance, "lift": lift})
    return found
