"""Confidence intervals of means: percentile bootstrap over clusters (Efron 1979), for one model or two compared.

A cluster is a set of items that share something, such as a document or a needle. Their scores are not independent, so
whole clusters are drawn with replacement, all equally likely. The items' mean is taken afterwards. Items that share
nothing are clusters of one. The mean of several means keeps its weights: the clusters of each stratum are drawn from
that stratum alone. The same scores and seed give the same numbers.

With few clusters, resampled means vary too little. The quantiles are therefore those of Student's distribution with as
many degrees of freedom as there are clusters beyond the first of each stratum (Hesterberg 2015). One cluster says
nothing of others, so it has no interval. The intervals do not cover what another judge, prompt or decoding would
change. An interval of no width means that all clusters have the same mean.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateau.errors import ScoreError

RESAMPLES = 10_000
SEED = 0
_DRAWN_AT_ONCE = 1_000_000  # scores, which bounds the memory


Clusters = Sequence[Sequence[Hashable]]


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of resampled means, in the unit of the scores."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The first model's mean minus the second's on the same items.

    Attributes:
        n: number of items.
        clusters: number of clusters.
        difference: in the unit of the scores.
        interval: 95 % interval of the difference; None if a stratum has a single cluster.
        p_value: two-sided, from the share of resampled differences that are at most 0, or at least 0, whichever is
            smaller. One is added to the count and to the total, so that it is never 0. None without an interval.
    """

    n: int
    clusters: int
    difference: float
    interval: Interval | None
    p_value: float | None


def bootstrap_interval(
    scores: Sequence[float],
    resamples: int = RESAMPLES,
    seed: int = SEED,
    *,
    clusters: Sequence[Hashable] | None = None,
) -> Interval | None:
    """Return the 95 % interval of the mean of ``scores``, or None if they are a single cluster.

    Raises:
        ScoreError: there are no scores, or one is not finite.
    """
    return stratified_interval([scores], resamples, seed, clusters=None if clusters is None else [clusters])


def stratified_interval(
    strata: Sequence[Sequence[float]],
    resamples: int = RESAMPLES,
    seed: int = SEED,
    *,
    clusters: Clusters | None = None,
) -> Interval | None:
    """Return the 95 % interval of the mean of the strata's means. Each stratum weighs the same, whatever its size.

    Args:
        strata: scores by stratum.
        resamples: number of bootstrap samples.
        seed: of the bootstrap samples.
        clusters: the cluster of each score; None if no two scores share one.

    Returns:
        The interval, or None if a stratum has a single cluster.

    Raises:
        ScoreError: there are no strata, one is empty, or a score is not finite.
    """
    drawn = _Clustered.of(strata, clusters)
    return drawn.interval(drawn.means(resamples, seed)) if drawn.has_interval else None


def stratified_difference(
    strata: Sequence[Sequence[float]],
    resamples: int = RESAMPLES,
    seed: int = SEED,
    *,
    clusters: Clusters | None = None,
) -> Comparison:
    """Compare two models by the differences of their paired items. Each stratum weighs the same.

    Args:
        strata: differences by stratum, in the unit of the scores.
        resamples, seed, clusters: see :func:`stratified_interval`.

    Raises:
        ScoreError: there are no strata, one is empty, or a difference is not finite.
    """
    drawn = _Clustered.of(strata, clusters)
    interval = p_value = None
    if drawn.has_interval:
        means = drawn.means(resamples, seed)
        wrong_side = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
        interval, p_value = drawn.interval(means), drawn.p_value((wrong_side + 1) / (resamples + 1))
    difference = float(np.mean([np.mean(stratum) for stratum in strata]))
    return Comparison(sum(map(len, strata)), drawn.count, difference, interval, p_value)


@dataclass(frozen=True)
class _Clustered:
    """The sum of each cluster's scores and their number, by stratum."""

    sums: list[NDArray[np.float64]]
    sizes: list[NDArray[np.float64]]

    @classmethod
    def of(cls, strata: Sequence[Sequence[float]], clusters: Clusters | None) -> _Clustered:
        values = _all_finite(strata)
        sums: list[NDArray[np.float64]] = []
        sizes: list[NDArray[np.float64]] = []
        for stratum, shared in zip(values, clusters or map(range, map(len, values)), strict=True):
            places: dict[Hashable, int] = {}
            members = [places.setdefault(cluster, len(places)) for cluster in shared]
            sums.append(np.bincount(members, stratum).astype(np.float64))
            sizes.append(np.bincount(members).astype(np.float64))
        return cls(sums, sizes)

    @property
    def count(self) -> int:
        return sum(map(len, self.sums))

    @property
    def has_interval(self) -> bool:
        return min(map(len, self.sums)) > 1

    def means(self, resamples: int, seed: int) -> NDArray[np.float64]:
        """Return the mean of the strata's means for each bootstrap sample."""
        random = np.random.default_rng(seed)
        total = np.zeros(resamples)
        for sums, sizes in zip(self.sums, self.sizes, strict=True):
            step = max(1, _DRAWN_AT_ONCE // len(sums))
            for start in range(0, resamples, step):
                part = total[start : start + step]
                drawn = random.integers(len(sums), size=(len(part), len(sums)))
                part += sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        return total / len(self.sums)

    def interval(self, means: NDArray[np.float64]) -> Interval:
        from scipy.special import ndtr, stdtrit

        tail = float(ndtr(stdtrit(self._freedom, 0.025) * self._widening))
        low, high = np.quantile(means, (tail, 1 - tail))
        return Interval(float(low), float(high))

    def p_value(self, tail: float) -> float:
        """Return the two-sided p-value whose interval would end at 0, given the share of means beyond 0."""
        from scipy.special import ndtri, stdtr

        return 2 * float(stdtr(self._freedom, ndtri(min(tail, 0.5)) / self._widening))

    @property
    def _freedom(self) -> int:
        return self.count - len(self.sums)

    @property
    def _widening(self) -> float:
        return math.sqrt(self.count / self._freedom)


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
