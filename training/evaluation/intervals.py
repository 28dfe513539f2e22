"""95 % intervals and rank correlation, over inputs: answers to one input are no independent observations.

Means are resampled with replacement (percentile bootstrap, Efron 1979). What is counted over a set of texts
(distinct pairs, self-BLEU) can't be: a text drawn twice would count as a repetition. There, halves drawn without
replacement take the place of resamples, since the mean of a half varies about the whole's as the whole's about the
truth (balanced half-samples, McCarthy 1969).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
HALVES = 100
CONFIDENCE = 95
Z = 1.959964  # of the normal distribution, for 95 %

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float]:
        """Value, low, high; rounded."""
        return [round(each, 4) for each in (self.value, self.low, self.high)]

    @property
    def differs(self) -> bool:
        """Whether the interval leaves zero out; for differences."""
        return not self.low <= 0.0 <= self.high


def mean(values: ArrayLike, resamples: int = RESAMPLES) -> Estimate:
    """Mean of one value per input; inputs without a value (nan) are left out."""
    found = np.asarray(values, float)
    found = found[~np.isnan(found)]
    if not len(found):
        return Estimate(math.nan, math.nan, math.nan)
    return _estimate(float(found.mean()), found[_draws(len(found), resamples)].mean(axis=1))


def mean_of(groups: Sequence[ArrayLike], resamples: int = RESAMPLES) -> Estimate:
    """Mean of the means of several groups of inputs, each resampled by itself."""
    found = [np.asarray(group, float) for group in groups]
    draws = [each[_draws(len(each), resamples, salt)].mean(axis=1) for salt, each in enumerate(found)]
    return _estimate(float(np.mean([each.mean() for each in found])), np.mean(draws, axis=0))


def ratio(values: ArrayLike, base: ArrayLike, resamples: int = RESAMPLES) -> Estimate:
    """Ratio of two means over the same inputs, which are drawn together."""
    over, under = np.asarray(values, float), np.asarray(base, float)
    known = ~(np.isnan(over) | np.isnan(under))
    over, under = over[known], under[known]
    if not len(over) or not under.mean():
        return Estimate(math.nan, math.nan, math.nan)
    draws = _draws(len(over), resamples)
    return _estimate(float(over.mean() / under.mean()), over[draws].mean(axis=1) / under[draws].mean(axis=1))


Statistic = Callable[[Indices], float]  # of a sample of inputs, given as indices


def statistic(of: Sequence[tuple[Statistic, int]], resamples: int = RESAMPLES) -> Estimate:
    """Mean of a statistic over groups, each of so many inputs and resampled by itself."""
    whole = float(np.mean([find(np.arange(count)) for find, count in of]))
    found = [[find(draw) for draw in _draws(count, resamples, salt)] for salt, (find, count) in enumerate(of)]
    return _estimate(whole, np.mean(found, axis=0))


def of_set(of: Statistic, count: int, halves: int = HALVES) -> Estimate:
    """A statistic of a set of texts: the spread of halves without replacement, about the value of the whole."""
    whole = of(np.arange(count))
    if count < 4 or not halves:
        return Estimate(whole, math.nan, math.nan)
    rng = np.random.default_rng(count)
    found = np.array([of(np.sort(rng.permutation(count)[: count // 2])) for _ in range(halves)])
    # n/2 of n without replacement: variance (2/n - 1/n) s², which is the whole's own.
    return _estimate(whole, whole + found - found.mean())


def share(successes: int, count: int) -> Estimate:
    """A share and its Wilson interval (1927), which holds for small counts and shares near 0 and 1."""
    if not count:
        return Estimate(math.nan, math.nan, math.nan)
    found, squared = successes / count, Z * Z / count
    centre = (found + squared / 2) / (1 + squared)
    half = math.sqrt(found * (1 - found) * squared + squared * squared / 4) / (1 + squared)
    return Estimate(found, max(0.0, centre - half), min(1.0, centre + half))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation; equal values share their mean rank. Zero where one side has but one value."""
    left, right = ranks(first), ranks(second)
    left, right = left - left.mean(), right - right.mean()
    scale = math.sqrt(float(left @ left) * float(right @ right))
    return float(left @ right) / scale if scale else 0.0


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1 on, equal values the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    result: Floats = ((2 * last - counts + 1) / 2)[inverse]
    return result


def _draws(count: int, resamples: int, salt: int = 0) -> Indices:
    """(resamples, count), the same every time."""
    return np.random.default_rng((count, salt)).integers(0, count, (resamples, count))


def _estimate(value: float, found: NDArray[Any]) -> Estimate:
    tail = (100 - CONFIDENCE) / 2
    low, high = np.percentile(found[~np.isnan(found)], (tail, 100 - tail))
    return Estimate(value, float(low), float(high))
