"""Confidence intervals of means: percentile bootstrap over the items (Efron 1979), for one model or two compared.

Items are drawn with replacement, all equally likely. The mean of several means keeps its weights: the items of each
stratum are drawn from that stratum alone. The same scores and seed give the same numbers. The intervals do not cover
what another judge, prompt or decoding would change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateau.errors import ScoreError

RESAMPLES = 10_000
SEED = 0
_DRAWN_AT_ONCE = 1_000_000  # scores, which bounds the memory


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of resampled means, in the unit of the scores.

    The interval of a single item is that item, which says nothing about its uncertainty.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The first model's mean minus the second's on the same items.

    Attributes:
        n: number of items.
        difference: in the unit of the scores.
        interval: 95 % interval of the difference.
        p_value: two-sided: twice the smaller share of resampled differences that are at most 0, or at least 0. One is
            added to the count and to the total, so that it is never 0. It is at most 1.
    """

    n: int
    difference: float
    interval: Interval
    p_value: float


def bootstrap_interval(scores: Sequence[float], resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Return the 95 % interval of the mean of ``scores``.

    Raises:
        ScoreError: there are no scores, or one is not finite.
    """
    return stratified_interval([scores], resamples, seed)


def stratified_interval(strata: Sequence[Sequence[float]], resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Return the 95 % interval of the mean of the strata's means. Each stratum weighs the same, whatever its size.

    Raises:
        ScoreError: there are no strata, one is empty, or a score is not finite.
    """
    return _middle(_resampled_means(_all_finite(strata), resamples, seed))


def stratified_difference(
    strata: Sequence[Sequence[float]], resamples: int = RESAMPLES, seed: int = SEED
) -> Comparison:
    """Compare two models by the differences of their paired items. Each stratum weighs the same.

    Args:
        strata: differences by stratum, in the unit of the scores.
        resamples: number of bootstrap samples.
        seed: of the bootstrap samples.

    Raises:
        ScoreError: there are no strata, one is empty, or a difference is not finite.
    """
    differences = _all_finite(strata)
    means = _resampled_means(differences, resamples, seed)
    wrong_side = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p_value = min(1.0, 2 * float(wrong_side + 1) / (resamples + 1))
    difference = float(np.mean([stratum.mean() for stratum in differences]))
    return Comparison(sum(map(len, differences)), difference, _middle(means), p_value)


def _all_finite(strata: Sequence[Sequence[float]]) -> list[NDArray[np.float64]]:
    if not len(strata):
        raise ScoreError("there are no scores to average; evaluate at least one item")
    return [_finite(stratum) for stratum in strata]


def _finite(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 0:
        raise ScoreError("there are no scores to average; evaluate at least one item")
    if not np.isfinite(values).all():
        place = int(np.argmin(np.isfinite(values))) + 1
        raise ScoreError(f"score {place} of {len(values)} is not finite; score that item again")
    return values


def _resampled_means(strata: Sequence[NDArray[np.float64]], resamples: int, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for values in strata:
        step = max(1, _DRAWN_AT_ONCE // len(values))
        for start in range(0, resamples, step):
            part = total[start : start + step]
            part += values[random.integers(len(values), size=(len(part), len(values)))].mean(axis=1)
    return total / len(strata)


def _middle(means: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(low), float(high))
