"""Random catalogues, a random model whose logits numpy and JAX compute alike, and every ID's score by enumeration."""

import jax.numpy as jnp
import numpy as np

SIZES = (12, 64, 5, 64, 64, 7)  # of positions 1..6
FEW = 8  # children of a node where a position has 64 codes
COPIES = 4  # documents that share an ID, at most
KINDS = 64
PRIMES = np.array([7, 31, 101, 307, 1009, 3001])


def kinds(codes, positions: int):
    """The kind of prefix that codes of that many positions are, to numpy and to JAX."""
    primes = PRIMES[:positions].reshape((1,) * (codes.ndim - 1) + (positions,))
    return (codes * primes).sum(-1) % KINDS


def catalogue(rng: np.random.Generator, documents: int, *, length: int, variable: bool) -> np.ndarray:
    """IDs that share prefixes, some with several documents, in any order; where `variable`, some end early."""
    columns = []
    for t, size in enumerate(SIZES[:length]):
        before = np.stack(columns, axis=1) if columns else np.zeros((documents, 0), int)
        spread = rng.integers(1, (FEW if size == 64 else size) + 1)
        columns.append((kinds(before, t) * 11 + rng.integers(0, spread, documents)) % size)
    codes = np.stack(columns, axis=1).astype(np.int32)
    if variable:
        ends = rng.integers(1, length + 1, documents)
        codes = np.where(np.arange(length)[None] < ends[:, None], codes, -1)
    _, inverse = np.unique(codes, axis=0, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    copy = np.empty(documents, int)
    copy[order] = np.arange(documents) - np.searchsorted(inverse[order], inverse[order])
    return codes[copy < COPIES]


def tables(rng: np.random.Generator, queries: int, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Per position, logits of each query after each kind of prefix."""
    return [rng.normal(size=(queries, KINDS, size)).astype(np.float32) * 3 for size in sizes]


def step(cache, codes, parents):
    """The model: its logits depend on the query and on every code that it has read."""
    position = codes.shape[-1]
    return jnp.take_along_axis(cache[position], kinds(codes, position)[..., None], axis=1), cache


def enumerate_scores(
    ids: np.ndarray, model: list[np.ndarray], *, ends: list[int | None], over_children: bool
) -> np.ndarray:
    """log p (Q, n) of distinct IDs whose ends are end markers, in float64, from the list of IDs alone."""
    scores = np.zeros((len(model[0]), len(ids)))
    for t, logits in enumerate(model):
        prefix = np.unique(ids[:, :t], axis=0, return_inverse=True)[1].reshape(-1) if t else np.zeros(len(ids), int)
        after = logits[:, kinds(ids[:, :t].astype(np.int64), t)].astype(np.float64)  # (Q, n, K)
        chosen = np.take_along_axis(after, ids[None, :, t, None], axis=-1)[..., 0]
        if over_children:
            edges = np.unique(ids[:, : t + 1], axis=0, return_index=True)[1]
            total = np.full((prefix.max() + 1, len(scores)), -np.inf)
            np.logaddexp.at(total, prefix[edges], chosen[:, edges].T)
            total = total.T[:, prefix]
        else:
            total = np.logaddexp.reduce(after, axis=-1)
        over = np.zeros(len(ids), bool) if not t or ends[t - 1] is None else ids[:, t - 1] == ends[t - 1]
        scores += np.where(over[None], 0.0, chosen - total)
    return scores
