"""Two partitions of the same documents compared by their contingency table, for many samples of documents at once.

The costly part of the adjusted mutual information is what chance alone would reach (Vinh, Epps and Bailey 2010). With
n_ij documents of code i and label j, n MI = sum_ij n_ij log n_ij - sum_i n_i log n_i - sum_j n_j log n_j + n log n, and
under chance only the first sum moves: its expectation is that of X log X, summed over all pairs of a code and a label,
where X is hypergeometric in their sizes. Pairs of equal sizes share a term, and the term is smooth in both sizes, so
one grid of terms serves every sample: exactly where there is one, by cubic splines between grid points for thousands.
"""

import functools

import numpy as np
from jaxtyping import Float, Int

_DENSE = 64  # sizes up to here are all on the grid of many samples
_RATIO = 1.05  # and above it, each grid point is so much larger than the one before
_TERMS = 1 << 21  # terms of hypergeometric sums that are held at a time
_CELLS = 1 << 22  # counts that are held at a time


def contingency_measures(
    partition: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"], rows: Int[np.ndarray, "R M"]
) -> dict[str, Float[np.ndarray, " R"]]:
    """Compare a partition with labels on R samples of M documents each.

    Args:
      partition: a number per document.
      labels: another number per document.
      rows: the samples; no document twice in one of them.

    Returns:
      per sample: `ami` (arithmetic mean), `nmi` (geometric mean; Strehl and Ghosh 2002), `v_measure`, which is NMI by
      the arithmetic mean (Rosenberg and Hirschberg 2007), `homogeneity`, `completeness` and `purity`, the share of
      documents whose label is the most frequent one of their code. One sample is exact; of several, `ami` is within 1e-6.
    """
    code, label = (np.unique(side, return_inverse=True)[1].reshape(-1) for side in (partition, labels))
    cells, cell = np.unique(code * (int(label.max(initial=0)) + 1) + label, return_inverse=True)
    owner = cells // (int(label.max(initial=0)) + 1)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    samples, size = rows.shape
    sizes = [np.empty((samples, int(side.max(initial=0)) + 1), np.int32) for side in (code, label)]
    together, most = np.empty(samples), np.empty(samples)
    step = max(1, _CELLS // max(size, len(cells)))
    for first in range(0, samples, step):
        part = slice(first, first + step)
        joint = counts_by_row(cell, rows[part], len(cells))
        together[part] = _x_log_x(size)[joint].sum(1)
        most[part] = np.maximum.reduceat(joint, starts, axis=1).sum(1)
        for side, found in zip((code, label), sizes):
            found[part] = counts_by_row(side, rows[part], found.shape[1])
    of_code, of_label = (_x_log_x(size)[found].sum(1) for found in sizes)
    entropy_code, entropy_label = np.log(size) - of_code / size, np.log(size) - of_label / size
    information = np.maximum(0.0, np.log(size) + (together - of_code - of_label) / size)
    # One code, or one label, has nothing to tell: exactly nothing, since NMI divides by the root of what rounding leaves.
    of_one_code, of_one_label = (found.max(1) == size for found in sizes)
    entropy_code, entropy_label = np.where(of_one_code, 0.0, entropy_code), np.where(of_one_label, 0.0, entropy_label)
    information = np.where(of_one_code | of_one_label, 0.0, information)
    chance = (expected_x_log_x(*sizes, total=size) - of_code - of_label) / size + np.log(size)
    mean = (entropy_code + entropy_label) / 2
    alike = len(cells) == 1  # one code and one label: they agree, trivially
    return {
        "ami": _share(information - chance, mean - chance, alike),
        "nmi": _share(information, np.sqrt(np.maximum(0.0, entropy_code * entropy_label)), alike),
        "v_measure": _share(information, mean, alike),
        "homogeneity": _share(information, entropy_label, True),
        "completeness": _share(information, entropy_code, True),
        "purity": most / size,
    }


def entropies(partition: Int[np.ndarray, " N"], rows: Int[np.ndarray, "R M"]) -> Float[np.ndarray, " R"]:
    """Entropy of a partition on R samples of M documents each, in nats."""
    size, code = rows.shape[1], np.unique(partition, return_inverse=True)[1].reshape(-1)
    counts = counts_by_row(code, rows, int(code.max(initial=0)) + 1)
    return np.log(size) - _x_log_x(size)[counts].sum(1) / size


def counts_by_row(
    number: Int[np.ndarray, "..."], rows: Int[np.ndarray, "R M"] | None, most: int
) -> Int[np.ndarray, "R {most}"]:
    """How often each number below `most` is there: per sample of documents, or with None per row of `number` itself."""
    numbers = number if rows is None else number[rows]
    keys = numbers + most * np.arange(len(numbers))[:, None]
    return np.bincount(keys.reshape(-1), minlength=most * len(numbers)).reshape(len(numbers), most)


def expected_x_log_x(
    of_codes: Int[np.ndarray, "R C"], of_labels: Int[np.ndarray, "R L"], *, total: int
) -> Float[np.ndarray, " R"]:
    """sum_ij E[X_ij log X_ij] of R tables of `total` documents with these sizes and chance alone within."""
    grids = [_grid(sizes) for sizes in (of_codes, of_labels)]
    terms = _hypergeometric(*grids, total=total)
    left, right = (_weights(sizes, grid) for sizes, grid in zip((of_codes, of_labels), grids))
    return np.einsum("rg,rg->r", left @ terms, right)


def _grid(sizes: Int[np.ndarray, "R C"]) -> Int[np.ndarray, " G"]:
    """All sizes of one table; of several, those up to a bound and then ever fewer."""
    there = np.unique(sizes[sizes > 0])
    if len(sizes) == 1 or len(there) <= _DENSE or there[-1] <= _DENSE:
        return there
    points = _DENSE * _RATIO ** np.arange(np.ceil(np.log(there[-1] / _DENSE) / np.log(_RATIO)) + 1)
    return np.unique(np.r_[np.arange(1, _DENSE + 1), np.ceil(points)].astype(np.int64).clip(max=there[-1]))


def _weights(sizes: Int[np.ndarray, "R C"], grid: Int[np.ndarray, " G"]) -> Float[np.ndarray, "R G"]:
    """How much every grid point counts in each table."""
    from scipy.interpolate import CubicSpline

    there, place = np.unique(sizes, return_inverse=True)
    counts = counts_by_row(place.reshape(sizes.shape), None, len(there)).astype(np.float64)
    counts, there = (counts[:, 1:], there[1:]) if there[0] == 0 else (counts, there)
    if np.isin(there, grid).all():
        out = np.zeros((len(sizes), len(grid)))
        out[:, np.searchsorted(grid, there)] = counts
        return out
    return counts @ CubicSpline(grid, np.eye(len(grid)))(there)


def _hypergeometric(a: Int[np.ndarray, " A"], b: Int[np.ndarray, " B"], *, total: int) -> Float[np.ndarray, "A B"]:
    """E[X log X] for every pair of sizes, X ~ Hypergeometric(total, a, b)."""
    logs = _log_factorial(total)
    first, second = (side.reshape(-1).astype(np.int64) for side in np.meshgrid(a, b, indexing="ij"))
    mean = first * second / total
    # Beyond this distance the tails weigh less than 1e-15 (Bernstein's inequality).
    away = 8.3 * np.sqrt(mean) + 24
    low = np.maximum(2, np.maximum(first + second - total, np.floor(mean - away))).astype(np.int64)
    high = np.minimum(np.minimum(first, second), np.ceil(mean + away)).astype(np.int64)
    length = np.maximum(0, high - low + 1)
    base = logs[first] + logs[total - first] + logs[second] + logs[total - second] - logs[total]
    out = np.zeros(len(first))
    cuts = np.searchsorted(np.cumsum(length), np.arange(_TERMS, int(length.sum()) + _TERMS, _TERMS), side="left")
    for start, stop in zip(np.r_[0, cuts + 1], np.r_[cuts + 1, len(first)]):
        pair = np.repeat(np.arange(start, min(stop, len(first))), length[start:stop])
        if not len(pair):
            continue
        ends = np.cumsum(length[start:stop])
        x = np.arange(len(pair)) - np.repeat(ends - length[start:stop], length[start:stop]) + low[pair]
        one, two = first[pair], second[pair]
        log = base[pair] - logs[x] - logs[one - x] - logs[two - x] - logs[total - one - two + x]
        out[start:stop] = np.bincount(pair - start, np.exp(log) * _x_log_x(total)[x], minlength=len(out[start:stop]))
    return out.reshape(len(a), len(b))


def _share(part: Float[np.ndarray, " R"], whole: Float[np.ndarray, " R"], alike: bool) -> Float[np.ndarray, " R"]:
    """A quotient; where there is nothing to share, 1 if the partitions are alike and else 0."""
    nothing = np.abs(whole) < 1e-9
    return np.where(nothing, float(alike), part / np.where(nothing, 1.0, whole))


@functools.lru_cache(maxsize=8)
def _x_log_x(most: int) -> Float[np.ndarray, " most+1"]:
    x = np.arange(most + 1, dtype=np.float64)
    return x * np.log(np.maximum(x, 1.0))


@functools.lru_cache(maxsize=8)
def _log_factorial(most: int) -> Float[np.ndarray, " most+1"]:
    from scipy.special import gammaln

    return gammaln(np.arange(most + 1) + 1.0)
