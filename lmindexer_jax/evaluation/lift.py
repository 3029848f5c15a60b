"""Do items that a user meets one after the other share a code? A cheap stand-in for usefulness in recommendation."""

import dataclasses

import numpy as np
from jaxtyping import Int

from lmindexer_jax.evaluation.agreement import agreement


@dataclasses.dataclass(frozen=True)
class CoOccurrence:
    """Over all pairs of consecutive items of a user."""

    share: float  # of pairs whose two items have the same code
    chance: float  # the same if each second item were drawn anew from all second items
    lift: float  # share over chance
    ami: float  # of the first item's code with the second's
    pairs: int


def co_occurrence(
    partition: Int[np.ndarray, " N"], items: Int[np.ndarray, " M"], offsets: Int[np.ndarray, " U+1"]
) -> CoOccurrence:
    """Compare the codes of neighbours in time.

    Args:
      partition: code, or number of the prefix, of each item.
      items: rows of `partition`, users end to end, each user's in time order.
      offsets: user u has `items[offsets[u]:offsets[u + 1]]`.

    Raises:
      ValueError: no user has two items.
    """
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    same_user = user[1:] == user[:-1]
    first, second = partition[items[:-1]][same_user], partition[items[1:]][same_user]
    if not len(first):
        raise ValueError("no user has two items in a row")
    size = int(partition.max()) + 1
    shares = [np.bincount(side, minlength=size) / len(side) for side in (first, second)]
    share, chance = float(np.mean(first == second)), float(shares[0] @ shares[1])
    lift = share / chance if chance > 0 else 0.0
    return CoOccurrence(share, chance, lift, agreement(second, first).ami, len(first))
