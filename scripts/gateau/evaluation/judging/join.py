"""Ratings of the judged benchmarks: joined to the items that they rate, and turned into measures.

Ratings and items are joined by id. A missing judgment, a superfluous one, or a rating outside the scale is an error,
because a mean over an incomplete set would look like any other. Items without a rating are counted, and too many of
them are an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from gateau import reports
from gateau.errors import DataError, JudgeError, SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.judging.judge import Judgment, check_null_share, read_judgments
from gateau.evaluation.results.measures import Measure, ScoredItem, measure_items

logger = logging.getLogger(__name__)

Ratings = Mapping[str, float | None]


def read_ratings(path: str | Path, items: Mapping[str, str], max_null_share: float) -> dict[str, float | None]:
    """Return the rating of every item in the order of ``items``. It is None if the judge gave none.

    Args:
        path: judgments, see :func:`gateau.evaluation.judging.judge.read_judgments`.
        items: kind of rating of each item by id, a name in :func:`gateau.evaluation.benchmarks.ratings`.
        max_null_share: largest share of judgments without a rating, from 0 to 1.

    Raises:
        DataError: a judgment is missing, appears twice or belongs to no item, or a rating is outside its scale.
        JudgeError: too many judgments have no rating, or none has one.
        SettingsError: ``max_null_share`` is not between 0 and 1.
    """
    if not 0 <= max_null_share <= 1:
        raise SettingsError(f"the allowed share of judgments without a rating is {max_null_share}, not from 0 to 1")
    judgments = read_judgments(path)
    _check_ids(path, items, judgments)
    for item, rating in items.items():
        value, scale = judgments[item].rating, benchmarks.ratings()[rating]
        if value is not None and not _on_scale(value, scale.lowest, scale.highest):
            raise DataError(
                f"{path}: id {item!r}: rating {value!r} is not on the scale from {scale.lowest:g} to "
                f"{scale.highest:g}; judge it again"
            )
    in_order = [judgments[item] for item in items]
    check_null_share(in_order, max_null_share)
    if in_order and all(judgment.rating is None for judgment in in_order):
        raise JudgeError(f"{path}: none of {len(in_order)} judgments has a rating, so there is no score; judge again")
    return {judgment.id: judgment.rating for judgment in in_order}


def _check_ids(path: str | Path, items: Mapping[str, str], judgments: Mapping[str, Judgment]) -> None:
    for what, ids in (
        ("predictions have no judgment", [item for item in items if item not in judgments]),
        ("judgments belong to no prediction", [item for item in judgments if item not in items]),
    ):
        if ids:
            raise DataError(
                f"{path}: {len(ids)} {what}: {', '.join(ids[:10])}{', …' if len(ids) > 10 else ''}; judge exactly the "
                "predictions that are scored"
            )


def _on_scale(value: object, lowest: float, highest: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def rated_groups(
    benchmark: str,
    protocol: str,
    groups: Iterable[tuple[str, bool, Ratings]],
    *,
    data: str,
    judge: str,
    clusters: Mapping[str, str] | None = None,
) -> tuple[list[Measure], list[ScoredItem]]:
    """Return the measures, in points from 1 to 10, and the items of groups of ratings.

    Args:
        benchmark: name of the benchmark.
        protocol: how the items are rated.
        groups: name, headline and ratings of each group. A group without items is left out. A group without ratings has
            no mean and is left out with a warning.
        data: the set of items.
        judge: who rated the items.
        clusters: what an item shares with other items, by id; None if no two items share anything.
    """
    measures: list[Measure] = []
    items: list[ScoredItem] = []
    for name, headline, ratings in groups:
        rated = [
            ScoredItem(benchmark, name, protocol, item, float(rating), (clusters or {}).get(item, ""))
            for item, rating in ratings.items()
            if rating is not None
        ]
        if rated:
            nulls = len(ratings) - len(rated)
            measures.append(measure_items(rated, unit="1-10", data=data, judge=judge, nulls=nulls, headline=headline))
            items += rated
        elif ratings:
            logger.warning("%s, %s: none of %d judgments has a rating, so no mean", benchmark, name, len(ratings))
    return measures, items


def markdown_table(title: str, measures: Iterable[Measure]) -> str:
    """Return a Markdown table of the measures of one benchmark and protocol, under the heading ``title``."""
    rows = [
        (one.name, reports.decimal(one.score), one.interval_text(), one.n, one.clusters, one.nulls) for one in measures
    ]
    titles = ["measure", "mean", "95 % interval", "n", "clusters", "without rating"]
    return f"## {title}\n\n{reports.markdown_table(titles, rows)}\n"
