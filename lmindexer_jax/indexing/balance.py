"""Balanced codes: Sinkhorn over a batch while training, minimum-cost assignment within prefixes at the end.

Sinkhorn-Knopp (Cuturi 2013), used for codes as in SwAV (Caron et al. 2020): every code gets the same share of the batch,
which keeps positions 2 and later from collapsing while a codebook is trained. The minimum-cost assignment (Kuhn 1955)
gives the documents that share a prefix distinct last codes at the least loss of similarity.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

ROWS_AT_A_TIME = 8192
"""Documents whose scores are held at once."""


def sinkhorn_codes(
    scores: Float[Array, "B K"], *, temperature: float = 0.05, iterations: int = 4, mask: Bool[Array, " B"] | None = None
) -> Int[Array, " B"]:
    """Choose the codes of a batch by balanced soft assignment: the argmax of scores less what makes each code popular.

    Works on logarithms throughout, so any range of scores over temperature is safe. With `iterations=0` it is the plain
    argmax. Rows where `mask` is False take no part in the balance and receive a code all the same.

    Args:
      scores: similarities, larger is nearer; give the batch together with a queue of earlier rows for a finer balance.
      temperature: scores are divided by it; smaller stays nearer to the plain argmax.
      iterations: of normalising over the batch and then over the codes.
    """
    logits = scores.astype(jnp.float32) / temperature
    share = jnp.zeros(len(logits)) if mask is None else jnp.where(mask, 0.0, -jnp.inf)

    def balance(_, price):
        # each row spends one unit over the codes; then each code's price rises until all codes are asked for alike
        spent = logits - price[None, :]
        spent = spent - jax.nn.logsumexp(spent, axis=1, keepdims=True) + share[:, None]
        return price + jax.nn.logsumexp(spent, axis=0)

    price = jax.lax.fori_loop(0, iterations, balance, jnp.zeros(logits.shape[1]))
    return jnp.argmax(logits - price[None, :], axis=1).astype(jnp.int32)


def distinct_within_groups(
    scores: Float[np.ndarray, "N K"] | Callable[[Int[np.ndarray, " M"]], Float[np.ndarray, "M K"]],
    codes: Int[np.ndarray, " N"],
    groups: Int[np.ndarray, " N"],
) -> tuple[Int[np.ndarray, " N"], float]:
    """Make the last codes distinct within each group of documents that share the codes before them.

    Within a group where two documents share a code, all its documents are assigned anew so that the sum of scores is the
    largest possible; groups without a conflict are left alone. A group of n > K documents puts ceil(n / K) of them on a
    code at most.

    Args:
      scores: similarity to every code, larger is nearer; or a function from row indices to their scores, called for at
        most about ROWS_AT_A_TIME rows, so that N x K scores need not exist.
      codes: the last codes as they are.
      groups: a number per document; equal numbers share the prefix.

    Returns:
      The new codes (int32), and the share of all documents whose code changed.
    """
    if not len(codes):
        return np.empty(0, np.int32), 0.0
    look_up = scores if callable(scores) else scores.__getitem__
    codes = np.asarray(codes, np.int32)
    order = np.lexsort((codes, groups))
    same_group = np.diff(groups[order]) == 0
    first = np.flatnonzero(np.append(True, ~same_group))
    clash = np.append(same_group & (np.diff(codes[order]) == 0), False)
    clashes = np.add.reduceat(clash, first)
    members = [group for group, count in zip(np.split(order, first[1:]), clashes, strict=True) if count]
    moved = codes.copy()
    for block in _blocks(members):
        rows = np.concatenate(block)
        values = np.asarray(look_up(rows), np.float64)
        ends = np.cumsum([len(group) for group in block])
        moved[rows] = np.concatenate([_assign(part) for part in np.split(values, ends[:-1])])
    return moved, float(np.mean(moved != codes))


def _blocks(members: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Whole groups packed into blocks of about ROWS_AT_A_TIME rows."""
    if not members:
        return []
    block = np.cumsum([len(group) for group in members]) // ROWS_AT_A_TIME
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    return [members[start:stop] for start, stop in zip(starts, [*starts[1:], len(members)], strict=True)]


def _assign(scores: Float[np.ndarray, "n K"]) -> Int[np.ndarray, " n"]:
    from scipy.optimize import linear_sum_assignment

    count, k = scores.shape
    columns = np.tile(np.arange(k, dtype=np.int32), -(-count // k))
    return columns[linear_sum_assignment(scores[:, columns], maximize=True)[1]]
