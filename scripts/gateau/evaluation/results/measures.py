"""Measures with their intervals, and the scores of single items. Every scorer writes both beside its own report.

A measure is identified by benchmark, name and protocol. Numbers of different protocols, data or judges are never part
of the same measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateau.errors import DataError
from gateau.evaluation.results.intervals import bootstrap_interval
from gateau.files import read_json, read_jsonl, write_json, write_jsonl
from gateau.reports import UNKNOWN

OWN_UNIT = "the task's own unit"  # of numbers that another program computes in a unit that only its task knows


@dataclass(frozen=True)
class Measure:
    """One number of one model: a mean over items with its 95 % interval.

    Attributes:
        benchmark: name of the benchmark.
        name: name of the measure, such as a category.
        protocol: how the items are scored.
        unit: unit of ``score``, ``low`` and ``high``, such as "%" or "1-10".
        score: the mean.
        low: lower end of the interval; None if the items are a single cluster, which has no interval.
        high: upper end of the interval, or None.
        n: number of items that have a score.
        data: the set of items.
        judge: who rated the items, or None if the scores need no judge.
        nulls: number of further items that have no rating.
        headline: whether the measure is shown at the top of the leaderboard. The others are shown in its details.
        clusters: number of clusters that the interval resamples, such as documents; ``n`` if no two items share one.
        note: a remark for the tables, or an empty text.
    """

    benchmark: str
    name: str
    protocol: str
    unit: str
    score: float
    low: float | None
    high: float | None
    n: int
    data: str
    judge: str | None = None
    nulls: int = 0
    headline: bool = False
    clusters: int = 0
    note: str = ""

    def interval_text(self, places: int = 2) -> str:
        """Return the interval for a table, with this many decimals."""
        if self.low is None or self.high is None:
            return UNKNOWN
        return f"{self.low:.{places}f} to {self.high:.{places}f}"


@dataclass(frozen=True)
class ScoredItem:
    """One item's score, in the unit of its measure.

    Attributes:
        benchmark, name, protocol: see :class:`Measure`.
        item: its id, which says which items of two models are compared.
        score: the score.
        cluster: what it shares with other items, such as a document; empty if it shares nothing.
        part: the part of the benchmark that a model may leave out as a whole, such as a length; empty if there is none.
    """

    benchmark: str
    name: str
    protocol: str
    item: str
    score: float
    cluster: str = ""
    part: str = ""

    @property
    def shared(self) -> str:
        """What is resampled with this item: its cluster, or the item itself."""
        return self.cluster or self.item


def measure_items(
    items: Sequence[ScoredItem],
    *,
    unit: str,
    data: str,
    judge: str | None = None,
    nulls: int = 0,
    headline: bool = False,
    note: str = "",
    round_to: Callable[[float], float] | None = None,
) -> Measure:
    """Return the mean of ``items`` with its bootstrap interval, which resamples their clusters.

    Args:
        items: scored items, all of the same measure.
        unit, data, judge, nulls, headline, note: see :class:`Measure`.
        round_to: rounds the mean; the interval is never rounded.

    Raises:
        DataError: there are no items, or two items share an id.
    """
    if not items:
        raise DataError("a measure has no items; generate answers first")
    first = items[0]
    if len({item.item for item in items}) < len(items):
        names = [item.item for item in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{first.benchmark}, {first.name}: item {twice!r} is scored twice; every item counts once")
    values = [item.score for item in items]
    clusters = [item.shared for item in items]
    interval = bootstrap_interval(values, clusters=clusters)
    score = sum(values) / len(values)
    return Measure(
        benchmark=first.benchmark,
        name=first.name,
        protocol=first.protocol,
        unit=unit,
        score=round_to(score) if round_to else score,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n=len(values),
        data=data,
        judge=judge,
        nulls=nulls,
        headline=headline,
        clusters=len(set(clusters)),
        note=note,
    )


def write_scores(path: str | Path, report: dict[str, Any], measures: Iterable[Measure]) -> None:
    """Write ``scores.json``: the benchmark's own report, and below ``measures`` what the leaderboard reads."""
    write_json(path, {**report, "measures": [asdict(measure) for measure in measures]})


def write_items(path: str | Path, items: Iterable[ScoredItem]) -> None:
    """Write one line of JSON per item."""
    write_jsonl(path, map(asdict, items))


def read_measures(path: str | Path) -> list[Measure]:
    """Return the measures of a ``scores.json``."""
    return [Measure(**row) for row in read_json(path)["measures"]]


def read_items(path: str | Path) -> list[ScoredItem]:
    """Return the items that :func:`write_items` wrote; none if no measure is a mean of items, such as a perplexity."""
    if not Path(path).stat().st_size:
        return []
    return [ScoredItem(**row) for _, row in read_jsonl(path)]
