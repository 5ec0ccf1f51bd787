"""How sure a mean is: percentile bootstrap over the items (Efron 1979), for one model and for two on the same items.

Items are drawn with replacement, all equally likely. A mean of several means keeps its weights: each stratum's items
are drawn from that stratum alone. The same scores and seed give the same numbers. What is not covered: a different
judge, prompt or decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateau.errors import ScoreError

RESAMPLES = 10_000
SEED = 0
_DRAWN_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of resampled means, in the unit of the scores. Of one item: that item, and no statement."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """First model less second on the same ``n`` items, in the unit of the scores.

    ``p_value`` is two-sided: twice the smaller share of resampled differences on the wrong side of zero or at it, one
    added to count and total so that it is never 0, and at most 1.
    """

    n: int
    difference: float
    interval: Interval
    p_value: float


def bootstrap_interval(scores: Sequence[float], resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """The 95 % interval of the mean of ``scores``. Raises ScoreError for none, or one that is not finite."""
    return stratified_interval([scores], resamples, seed)


def stratified_interval(strata: Sequence[Sequence[float]], resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """The 95 % interval of the mean of the strata's means, each of which weighs the same, whatever its size.

    Raises ScoreError for no stratum, an empty one, or a score that is not finite.
    """
    return _middle(_resampled_means(_all_finite(strata), resamples, seed))


def paired_bootstrap(
    first: Mapping[str, float], second: Mapping[str, float], resamples: int = RESAMPLES, seed: int = SEED
) -> Comparison:
    """Compare two models' scores by item id; both are resampled together.

    Raises ScoreError when an item has a score of one model only, when there is none, or one is not finite.
    """
    if unpaired := sorted(first.keys() ^ second.keys()):
        raise ScoreError(
            f"{len(unpaired)} items have a score of one model only ({', '.join(unpaired[:5])}); "
            "score both models on the same items"
        )
    return stratified_difference([[first[item] - second[item] for item in sorted(first)]], resamples, seed)


def stratified_difference(
    strata: Sequence[Sequence[float]], resamples: int = RESAMPLES, seed: int = SEED
) -> Comparison:
    """Compare two models by the ``strata`` of their paired items' differences; each stratum weighs the same.

    Raises ScoreError for no stratum, an empty one, or a difference that is not finite.
    """
    differences = _all_finite(strata)
    means = _resampled_means(differences, resamples, seed)
    wrong_side = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p_value = min(1.0, 2 * float(wrong_side + 1) / (resamples + 1))
    difference = float(np.mean([stratum.mean() for stratum in differences]))
    return Comparison(sum(map(len, differences)), difference, _middle(means), p_value)


def _all_finite(strata: Sequence[Sequence[float]]) -> list[NDArray[np.float64]]:
    if not len(strata):
        raise ScoreError("no scores, so no mean; evaluate at least one item")
    return [_finite(stratum) for stratum in strata]


def _finite(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 0:
        raise ScoreError("no scores, so no mean; evaluate at least one item")
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
