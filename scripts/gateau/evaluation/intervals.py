"""How sure a mean is: percentile bootstrap over the items (Efron 1979), for one model and for two on the same items.

Items are drawn with replacement, all equally likely. The same scores and seed give the same numbers. What is not
covered: a different judge, prompt or decoding.
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
    return _middle(_resampled_means(_finite(scores), resamples, seed))


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
    items = sorted(first)
    differences = _finite([first[item] for item in items]) - _finite([second[item] for item in items])
    means = _resampled_means(differences, resamples, seed)
    wrong_side = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p_value = min(1.0, 2 * float(wrong_side + 1) / (resamples + 1))
    return Comparison(len(items), float(differences.mean()), _middle(means), p_value)


def _finite(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 0:
        raise ScoreError("no scores, so no mean; evaluate at least one item")
    if not np.isfinite(values).all():
        place = int(np.argmin(np.isfinite(values))) + 1
        raise ScoreError(f"score {place} of {len(values)} is not finite; score that item again")
    return values


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _DRAWN_AT_ONCE // len(values))
    for start in range(0, resamples, step):
        part = means[start : start + step]
        part[:] = values[random.integers(len(values), size=(len(part), len(values)))].mean(axis=1)
    return means


def _middle(means: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(low), float(high))
