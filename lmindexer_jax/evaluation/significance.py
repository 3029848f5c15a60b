"""How sure is a number, and is a difference more than luck? Intervals and paired tests by resampling units.

A unit is what was drawn from the world: a document, a user, a query; never a token or a pair of one of them. There are
two kinds of measures, and each has its way.

*Means of scores per unit* (recall per query) have a randomisation test (Fisher 1935; for rankings Smucker, Allan and
Carterette 2007): of two systems that are alike, either might have had either score of a unit, so every sign of the
units' differences is as likely. The interval holds what the same test does not reject as the difference: its ends are
means of random subsets of the units (Hartigan 1969).

*Functions of all documents together* (mutual information, perplexity, lift) must not see a document twice: twins share
code and label and would pass for agreement, so that the AMI of random codes comes out far above 0 in a bootstrap. Nor
can two systems swap a document, since code 7 of one table has nothing to do with code 7 of the other. These functions
are computed on halves drawn without replacement (the delete-half jackknife, Shao and Wu 1989), the same ones for both
systems of a pair, so that what is hard for both cancels out. A half varies around the whole as the whole varies around
the world: in units of sigma^2 / n, a share f drawn without replacement has variance (1 - f) / f, and that is 1 at
f = 1/2. A half is also biased (fewer documents a code), so only the spread of the halves is used, around the measure of
the whole and with Student's t: it is an estimate of n - 1 degrees of freedom.

Few units say little. The signs of n differences give no p-value below 2^(1 - n); neither way claims a lower one, or gives
an interval of a level that such a p-value cannot reach: at 95 % it takes 6 units.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

LEVEL = 0.95
"""Coverage of an interval, where nothing else is asked for."""

_CHUNK = 1 << 22  # drawn numbers that are held at a time
_ROUNDING = 1e-12  # of what lies between equal systems


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measure and its interval; None where the units are too few for one."""

    value: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two systems on the same units; `difference` is second minus first, with its interval (None: too few units)."""

    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p_value: float  # two-sided: how often luck alone makes as large a difference; 1 for equal systems


def paired_test(
    per_unit_a: Float[np.ndarray, " N"],
    per_unit_b: Float[np.ndarray, " N"],
    *,
    replicates: int = 2000,
    level: float = LEVEL,
    seed: int = 0,
) -> Difference:
    """Compare the mean scores of two systems on the same units.

    The p-value is the share of signs of the differences by which their mean is as large as the one that was found: of
    all signs, or of R random ones and those that were found, and then at least 1 / (R + 1). It is `1 - level` or less
    where the interval leaves out 0.

    Args:
      per_unit_a: scores of the first system, one a unit (query, user, document).
      per_unit_b: scores of the second, in the same order.
      replicates: R, where there are more signs than that.
      level: of the interval.
      seed: of the signs; the same for every comparison on the same units.

    Raises:
      ValueError: different numbers of units, or none.
    """
    first, second = np.asarray(per_unit_a, np.float64), np.asarray(per_unit_b, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"scores of the same units are needed, not {first.shape} and {second.shape}")
    apart = second - first
    found, units = float(apart.mean()), len(apart)
    parts = [(kept @ apart, kept.sum(1)) for kept in _kept_signs(units, replicates=replicates, seed=seed)]
    sums, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    # As large up to rounding: equal systems must not be told apart by it.
    as_large = np.abs(2 * sums / units - found) >= abs(found) * (1 - 1e-9) - _ROUNDING
    p_value = float((1 + as_large.sum()) / (1 + len(sums)))
    # The units that keep their sign, those that do not, and all of them.
    means = np.sort(np.concatenate([sums / counts, (apart.sum() - sums) / (units - counts), [found]]))
    means[np.abs(means) <= _ROUNDING] = 0.0
    outside = int((1 - level) * (1 + len(sums)) + 1e-9)  # at either end; the end itself is still within
    low, high = (float(means[outside - 1]), float(means[-outside])) if outside else (None, None)
    return Difference(float(first.mean()), float(second.mean()), found, low, high, p_value)


def _kept_signs(units: int, *, replicates: int, seed: int) -> Iterator[Bool[np.ndarray, "R N"]]:
    """Which units keep the sign of their difference, a few patterns at a time: all patterns, or random ones.

    The first unit always does, since a pattern and its opposite give the same mean but for the sign; some other never does.
    """
    if units <= np.log2(replicates + 1) + 1:
        patterns = np.arange(2 ** (units - 1) - 1)[:, None] >> np.arange(units - 1) & 1
        yield np.insert(patterns.astype(bool), 0, True, axis=1)
        return
    rng, step = np.random.default_rng(seed), max(1, _CHUNK // units)
    for first in range(0, replicates, step):
        kept = rng.integers(2, size=(min(step, replicates - first), units), dtype=bool)
        kept[:, 0] = True
        yield kept[~kept.all(1)]


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


def half_sample_estimate(values: Float[np.ndarray, " R+1"], *, units: int, level: float = LEVEL) -> Estimate:
    """The measure and its interval from what `half_sampled` gives for so many units."""
    value = float(values[0])
    return Estimate(value, *t_interval(value, *half_sample_error(values, units=units), units=units, level=level))


def half_sample_difference(
    first: Float[np.ndarray, " R+1"], second: Float[np.ndarray, " R+1"], *, units: int, level: float = LEVEL
) -> Difference:
    """Compare two systems by what `half_sampled` gives for each, with the same units, replicates and seed.

    The p-value is at least 1 / (R + 1).
    """
    apart = second - first
    found, (error, freedom) = float(apart[0]), half_sample_error(apart, units=units)
    interval = t_interval(found, error, freedom, units=units, level=level)
    p_value = max(1 / len(apart), t_p_value(found, error, freedom, units=units))
    return Difference(float(first[0]), float(second[0]), found, *interval, p_value)


def half_sample_error(values: Float[np.ndarray, " R+1"], *, units: int) -> tuple[float, int]:
    """Standard error of a measure by its halves, and its degrees of freedom: 0 of either where there are no two halves."""
    if len(values) < 3:
        return 0.0, 0
    half = units // 2
    return float(values[1:].std(ddof=1)) * (half / (units - half)) ** 0.5, min(len(values) - 1, units) - 1


def t_interval(
    found: float, error: float, freedom: float, *, units: int, level: float = LEVEL
) -> tuple[float | None, float | None]:
    """Around what was found on so many units with this standard error; None where they are too few, or the error is unknown."""
    from scipy.stats import t as student

    if not freedom or _least_p_value(units) > 1 - level:
        return None, None
    away = float(student.ppf((1 + level) / 2, freedom)) * error
    return found - away, found + away


def t_p_value(found: float, error: float, freedom: float, *, units: int) -> float:
    """Two-sided, of a difference on so many units with this standard error; 1 where the error is unknown (no `freedom`)."""
    from scipy.stats import t as student

    if not freedom or abs(found) <= _ROUNDING:
        return 1.0
    return max(_least_p_value(units), float(2 * student.sf(abs(found) / max(error, _ROUNDING), freedom)))


def _least_p_value(units: int) -> float:
    """Of a two-sided test by signs: all of them alike."""
    return 2.0 ** (1 - units)
