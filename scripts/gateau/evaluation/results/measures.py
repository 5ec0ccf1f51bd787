"""What every scorer writes beside its own report: measures with their intervals, and the items they are means of.

A measure is named by benchmark, name and protocol; numbers of different protocols, data or judges never share one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateau.errors import DataError
from gateau.evaluation.results.intervals import bootstrap_interval
from gateau.files import write_json, write_text


@dataclass(frozen=True)
class Measure:
    """One number of one model: ``score`` with its 95 % interval, in ``unit``.

    ``data`` says whose items they are, ``judge`` who rated them (None: nobody), ``nulls`` how many of the ``n`` + nulls
    items have no rating. ``headline`` measures stand in the leaderboard, the others in the benchmark's own table.
    """

    benchmark: str
    name: str
    protocol: str
    unit: str
    score: float
    low: float
    high: float
    n: int
    data: str
    judge: str | None = None
    nulls: int = 0
    headline: bool = False


@dataclass(frozen=True)
class ScoredItem:
    """One item's score in the unit of its measure; items of one id are compared between models."""

    benchmark: str
    name: str
    protocol: str
    item: str
    score: float


def measure_items(
    items: Sequence[ScoredItem],
    *,
    unit: str,
    data: str,
    judge: str | None = None,
    nulls: int = 0,
    headline: bool = False,
    round_to: Callable[[float], float] | None = None,
) -> Measure:
    """The mean of ``items``, all of one measure, with its bootstrap interval.

    Raises DataError without items, or for an item that comes twice.
    """
    if not items:
        raise DataError("a measure without items; generate answers first")
    first = items[0]
    if len({item.item for item in items}) < len(items):
        names = [item.item for item in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{first.benchmark}, {first.name}: item {twice!r} is scored twice; every item counts once")
    values = [item.score for item in items]
    interval = bootstrap_interval(values)
    score = sum(values) / len(values)
    return Measure(
        benchmark=first.benchmark,
        name=first.name,
        protocol=first.protocol,
        unit=unit,
        score=round_to(score) if round_to else score,
        low=interval.low,
        high=interval.high,
        n=len(values),
        data=data,
        judge=judge,
        nulls=nulls,
        headline=headline,
    )


def write_scores(path: str | Path, report: dict[str, Any], measures: Iterable[Measure]) -> None:
    """``scores.json``: the benchmark's own report, and under ``measures`` what the leaderboard reads."""
    write_json(path, {**report, "measures": [asdict(measure) for measure in measures]})


def write_items(path: str | Path, items: Iterable[ScoredItem]) -> None:
    """One line of JSON per item."""
    write_text(path, "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items))


def read_measures(path: str | Path) -> list[Measure]:
    """The measures of a ``scores.json``."""
    return [Measure(**row) for row in json.loads(Path(path).read_text(encoding="utf-8"))["measures"]]


def read_items(path: str | Path) -> list[ScoredItem]:
    """The items of :func:`write_items`."""
    return [ScoredItem(**json.loads(line)) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]
