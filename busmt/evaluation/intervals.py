"""Confidence intervals and paired tests that resample groups, not images.

Images of one patient (or duplicates of one lesion) are not independent. Every resample therefore draws
whole groups with replacement. A resample is a vector of weights over the images: 0 for one that was not
drawn, 2 for one drawn twice. Statistics are functions of such weights, many resamples at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES: int = 2000
LEVEL: float = 0.95

Statistic = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Weights (B, N), float64, to named values (B,), float64; NaN where a value is undefined."""

_CELLS = 2_000_000  # weights held at a time: 16 MB, whatever the number of images


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. The bounds are NaN where no interval exists (a single group)."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Difference:
    """First minus second of a paired comparison.

    Attributes:
        first, second: the values of the two systems.
        difference: first - second, with its bootstrap interval.
        p_value: two-sided, of the permutation test that swaps the two systems' results group by group.
    """

    first: float
    second: float
    difference: Estimate
    p_value: float

    def to_dict(self) -> dict[str, float]:
        return {"first": self.first, "second": self.second, **self.difference.to_dict(), "p_value": self.p_value}


def bootstrap(
    statistic: Statistic,
    groups: Sequence[object] | np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    shares: Mapping[str, int] | None = None,
) -> dict[str, Estimate]:
    """Percentile bootstrap over groups (Efron and Tibshirani, 1993, chapter 13).

    A share of 0 or 1 looks the same in every resample, as if it were known exactly. The interval of such a
    share is that of Clopper and Pearson (1934), with groups as trials: 0 of 16 gives 0 to 0.21.

    Args:
        statistic: function of weights (B, N); see `Statistic`.
        groups: group of each of the N images.
        resamples: number of resamples.
        seed: of the resampling.
        level: coverage of the interval.
        shares: names of the values that are shares, with the number of groups that each is a share of.

    Returns:
        For each name the value on the images as they are, and its interval. Resamples on which a value is
        undefined (a class was not drawn) are left out of its interval.
    """
    groups = np.asarray(groups)
    values = {name: float(value[0]) for name, value in statistic(np.ones((1, len(groups)))).items()}
    drawn = _collect(statistic(weights) for weights in resample(groups, resamples, seed))
    single = len(np.unique(groups)) < 2
    estimates = {}
    for name, value in values.items():
        bounds = (np.nan, np.nan) if single else _bounds(drawn[name], level)
        if not single and value in (0, 1) and name in (shares or {}):
            bounds = _exact_bounds(value, (shares or {})[name], level)
        estimates[name] = Estimate(value, *bounds)
    return estimates


def paired_difference(
    statistic: Statistic,
    groups: Sequence[object] | np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Difference]:
    """Compare two systems on the same N images.

    Both systems are evaluated on the same resamples, which takes out what makes an image easy or hard for
    both; and on permutations that swap their results in a random half of the groups, which is what would
    be seen if they did not differ.

    Args:
        statistic: function of weights (B, 2 N): first the images as the first system sees them, then, in the
            same order, as the second does.
        groups: group of each of the N images.
        resamples: number of resamples and of permutations.
        seed: of both.
        level: coverage of the interval.
    """
    groups = np.asarray(groups)
    ones, none = np.ones((1, len(groups))), np.zeros((1, len(groups)))
    first = {name: float(value[0]) for name, value in statistic(np.hstack((ones, none))).items()}
    second = {name: float(value[0]) for name, value in statistic(np.hstack((none, ones))).items()}
    drawn = _collect(_differences(statistic, weights, weights * 0) for weights in resample(groups, resamples, seed))
    swapped = _collect(_differences(statistic, 1 - swap, swap) for swap in _swaps(groups, resamples, seed))
    single = len(np.unique(groups)) < 2
    result = {}
    for name in first:
        gap = first[name] - second[name]
        bounds = (np.nan, np.nan) if single else _bounds(drawn[name], level)
        result[name] = Difference(first[name], second[name], Estimate(gap, *bounds), _p_value(gap, swapped[name]))
    return result


def resample(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Weights of the resamples, some at a time: (B, N), float64. Each resample draws as many groups as there are."""
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    generator = np.random.default_rng(seed)
    for size in _chunks(resamples, len(groups)):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=size)
        yield drawn[:, member].astype(np.float64)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of values (N,) under weights (B, N): (B,); NaN values are left out."""
    known = np.isfinite(values)
    total = weights[:, known].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights[:, known] @ values[known] / total


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median of values (N,) under weights (B, N): (B,); NaN values are left out.

    Equals `numpy.median` of the values repeated as often as their weight says.
    """
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    if not order.size:
        return np.full(len(weights), np.nan)
    below = np.cumsum(weights[:, order], axis=1)
    half = below[:, -1:] / 2
    lower = values[order][(below >= half).argmax(axis=1)]
    upper = values[order][(below > half).argmax(axis=1)]
    return np.where(below[:, -1] > 0, (lower + upper) / 2, np.nan)


def _swaps(groups: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    _, member = np.unique(groups, return_inverse=True)
    generator = np.random.default_rng((seed, 1))
    for size in _chunks(count, len(groups)):
        yield generator.integers(0, 2, size=(size, int(member.max()) + 1))[:, member].astype(np.float64)


def _differences(statistic: Statistic, own: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    first = statistic(np.hstack((own, other)))
    second = statistic(np.hstack((other, own)))
    return {name: first[name] - second[name] for name in first}


def _chunks(total: int, images: int) -> Iterator[int]:
    step = max(1, min(total, _CELLS // max(1, images)))
    for start in range(0, total, step):
        yield min(step, total - start)


def _collect(parts: Iterator[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    kept: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name, values in part.items():
            kept.setdefault(name, []).append(np.asarray(values, dtype=np.float64))
    return {name: np.concatenate(values) for name, values in kept.items()}


def _bounds(values: np.ndarray, level: float) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not values.size:
        return np.nan, np.nan
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _exact_bounds(value: float, trials: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of 0 or of all of the trials."""
    reach = 1 - ((1 - level) / 2) ** (1 / trials)
    return (0.0, reach) if value == 0 else (1 - reach, 1.0)


def _p_value(gap: float, swapped: np.ndarray) -> float:
    """Share of permutations with at least this gap, the observed one counted in (Phipson and Smyth, 2010)."""
    swapped = swapped[np.isfinite(swapped)]
    if not np.isfinite(gap):
        return float("nan")
    return float((1 + (np.abs(swapped) >= abs(gap) - 1e-12).sum()) / (1 + swapped.size))
