"""How sure is a number, and is a difference more than luck? Intervals and paired tests by resampling units.

A unit is what was drawn from the world: a document, a user, a query; never a token or a pair of one of them. There are
two kinds of measures, and each has its way.

*Means of scores per unit* (recall per query, agreement with the neighbours per document) are bootstrapped: n units
drawn with replacement, BCa intervals (Efron 1987).

*Functions of all documents together* (mutual information, perplexity, lift) must not see a document twice: twins share
code and label and would pass for agreement, so that the AMI of random codes comes out far above 0 in a bootstrap.
They are computed on halves drawn without replacement instead (the delete-half jackknife, Shao and Wu 1989). A half
varies around the whole as the whole varies around the world: in units of sigma^2 / n, a share f drawn without
replacement has variance (1 - f) / f, and that is 1 at f = 1/2. A half is also biased (fewer documents a code), so
intervals are centred: whole - (half - mean of halves). What they cover is the measure at this number of documents.

A pair of systems is resampled together, so that what is hard for both cancels out. Systems are not swapped document by
document (a permutation test): code 7 of one table has nothing to do with code 7 of the other.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95
"""Coverage of an interval, where nothing else is asked for."""

_CHUNK = 1 << 22  # drawn numbers that are held at a time


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measure and its interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two systems on the same units; `difference` is second minus first, with its interval."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float  # two-sided: how often luck alone makes as large a difference; 1 for equal systems


def bootstrap(
    per_unit: Float[np.ndarray, " N"], *, replicates: int = 2000, level: float = LEVEL, seed: int = 0
) -> Estimate:
    """The mean of scores per unit, with its BCa interval."""
    per_unit = np.asarray(per_unit, np.float64)
    means = _bootstrap_means(per_unit, replicates=replicates, seed=seed)
    return Estimate(float(per_unit.mean()), *_bca(per_unit, means, level=level))


def paired_bootstrap(
    per_unit_a: Float[np.ndarray, " N"],
    per_unit_b: Float[np.ndarray, " N"],
    *,
    replicates: int = 2000,
    level: float = LEVEL,
    seed: int = 0,
) -> Difference:
    """Compare the mean scores of two systems on the same units.

    The interval is BCa. The p-value is the share of replicates whose difference, once centred at 0, is as large as the
    one that was found (Efron and Tibshirani 1993, section 16.4); with R replicates it is at least 1 / (R + 1).

    Args:
      per_unit_a: scores of the first system, one a unit (query, user, document).
      per_unit_b: scores of the second, in the same order.
      replicates: resamples of the units.
      level: of the interval.
      seed: of the draws; the same for every comparison on the same units.

    Raises:
      ValueError: different numbers of units, or none.
    """
    first, second = np.asarray(per_unit_a, np.float64), np.asarray(per_unit_b, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"scores of the same units are needed, not {first.shape} and {second.shape}")
    apart = second - first
    means = _bootstrap_means(apart, replicates=replicates, seed=seed)
    found = float(apart.mean())
    low, high = _bca(apart, means, level=level)
    return Difference(float(first.mean()), float(second.mean()), found, low, high, _p_value(found, means - found))


def half_samples(units: int, *, replicates: int, seed: int) -> Iterator[Int[np.ndarray, "R N//2"]]:
    """Random halves of the units, without replacement, a few at a time; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(1, units))
    for first in range(0, replicates, step):
        drawn = rng.random((min(step, replicates - first), units), np.float32)
        yield np.argpartition(drawn, units // 2, axis=1)[:, : units // 2]


def half_sampled(
    statistic: Callable[[Int[np.ndarray, "R M"]], dict[str, Float[np.ndarray, " R"]]],
    units: int,
    *,
    replicates: int,
    seed: int,
) -> dict[str, Float[np.ndarray, " R+1"]]:
    """Measures of all units, and after them those of random halves.

    Args:
      statistic: from subsets of the units (R of them, M units each) to R values of every measure.
      units: how many there are.
      replicates: halves; 0 measures the whole alone.
      seed: of the draws.
    """
    parts = [statistic(np.arange(units)[None, :])]
    if units > 1:
        parts += [statistic(rows) for rows in half_samples(units, replicates=replicates, seed=seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def half_sample_estimate(values: Float[np.ndarray, " R+1"], *, level: float = LEVEL) -> Estimate:
    """The measure and its interval from what `half_sampled` gives."""
    return Estimate(float(values[0]), *_basic(float(values[0]), _noise(values), level=level))


def half_sample_difference(
    first: Float[np.ndarray, " R+1"], second: Float[np.ndarray, " R+1"], *, level: float = LEVEL
) -> Difference:
    """Compare two systems by what `half_sampled` gives for each, with the same units, replicates and seed."""
    apart = second - first
    noise, found = _noise(apart), float(apart[0])
    return Difference(
        float(first[0]), float(second[0]), found, *_basic(found, noise, level=level), _p_value(found, noise)
    )


def _noise(values: Float[np.ndarray, " R+1"]) -> Float[np.ndarray, " R"]:
    """How halves vary around their mean. (An odd unit left out would ask for a factor sqrt(1 - 1/n): nothing.)"""
    return values[1:] - values[1:].mean() if len(values) > 1 else values[1:]


def _basic(value: float, noise: Float[np.ndarray, " R"], *, level: float) -> tuple[float, float]:
    if not len(noise):
        return value, value
    low, high = np.quantile(noise, [(1 - level) / 2, (1 + level) / 2])
    return float(value - high), float(value - low)


def _p_value(found: float, noise: Float[np.ndarray, " R"]) -> float:
    """Two-sided. The smallest rounding error must not tell equal systems apart, hence the tolerance."""
    at_least = np.abs(noise) >= abs(found) * (1 - 1e-9) - 1e-12
    return float((1 + at_least.sum()) / (1 + len(noise)))


def _bootstrap_means(per_unit: Float[np.ndarray, " N"], *, replicates: int, seed: int) -> Float[np.ndarray, " R"]:
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(per_unit))
    sizes = [min(step, replicates - first) for first in range(0, replicates, step)]
    return np.concatenate([per_unit[rng.integers(len(per_unit), size=(size, len(per_unit)))].mean(1) for size in sizes])


def _bca(per_unit: Float[np.ndarray, " N"], means: Float[np.ndarray, " R"], *, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated interval of a mean, whose jackknife has a closed form."""
    from scipy.special import ndtr, ndtri

    away = per_unit - per_unit.mean()
    square = float(np.sum(away**2))
    if square <= len(away) * np.finfo(float).eps * float(np.max(np.abs(per_unit), initial=0.0)) ** 2:
        return float(per_unit.mean()), float(per_unit.mean())  # all alike: nothing varies
    acceleration = np.sum(away**3) / (6 * square**1.5)
    below = np.mean(means < per_unit.mean()) + np.mean(means == per_unit.mean()) / 2
    bias = ndtri(np.clip(below, 1 / (len(means) + 1), 1 - 1 / (len(means) + 1)))
    ends = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(means, ndtr(bias + ends / (1 - acceleration * ends)))
    return float(low), float(high)
