"""LongBench's automatic scores, as the released scorer computes them (arXiv 2308.14508), and measures of any scores.

The score of a sample is the best one over its answers. The score of a data set is the mean over its samples in percent;
LongBench-E also has one for each range of lengths. The score of a category is the mean of its data sets' scores.

There are two protocols, whose numbers must not be compared. ``strict`` agrees with the released scorer to the last
digit. ``fixed`` corrects the bugs that ``metrics.py`` names, and gives blank predictions 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gateau.errors import DataError
from gateau.evaluation.benchmarks.longbench import metrics as text_metrics
from gateau.evaluation.benchmarks.longbench.data_sets import (
    DATA_SETS,
    DataSet,
    Prediction,
    category_means,
    data_set_of,
    item_id,
    read_predictions,
)
from gateau.evaluation.results.intervals import Interval, bootstrap_interval, stratified_interval
from gateau.evaluation.results.measures import Measure, ScoredItem
from gateau.reports import UNKNOWN, decimal, markdown_table

logger = logging.getLogger(__name__)

Protocol = Literal["strict", "fixed"]

BENCHMARKS = (("longbench", False), ("longbench_e", True))
# prediction, answer, classes, strict
METRICS: dict[str, Callable[[str, str, Sequence[str], bool], float]] = {
    "qa_f1": lambda prediction, answer, _, __: text_metrics.qa_f1(prediction, answer),
    "qa_f1_zh": lambda prediction, answer, _, __: text_metrics.qa_f1_zh(prediction, answer),
    "rouge": lambda prediction, answer, _, strict: text_metrics.rouge_l(prediction, answer, strict=strict),
    "rouge_zh": lambda prediction, answer, _, strict: text_metrics.rouge_l_zh(prediction, answer, strict=strict),
    "classification": lambda prediction, answer, classes, strict: text_metrics.classification(
        prediction, answer, classes, strict=strict
    ),
    "count": lambda prediction, answer, _, __: text_metrics.count(prediction, answer),
    "retrieval_en": lambda prediction, answer, _, __: text_metrics.retrieval(prediction, answer, "Paragraph "),
    "retrieval_zh": lambda prediction, answer, _, __: text_metrics.retrieval(prediction, answer, "段落"),
    "code_sim": lambda prediction, answer, _, __: text_metrics.code_similarity(prediction, answer),
}


_BUCKETS = ("0-4k", "4-8k", "8k+")


@dataclass(frozen=True)
class Scores:
    """One file's scores.

    Attributes:
        data_set: the file's data set.
        extended: whether it is LongBench-E's.
        items: one score for each row, from 0 to 1.
        lengths: of the rows' contexts in words; empty if the rows have none.
        n_empty: number of predictions that are only white space.
        ids: of the rows.
        clusters: of the rows: those about the same context have the same one.
        nulls: number of further rows that a judge gave no rating.
    """

    data_set: DataSet
    extended: bool
    items: Sequence[float]
    lengths: Sequence[int]
    n_empty: int
    ids: Sequence[str]
    clusters: Sequence[str]
    nulls: int = 0


def score_prediction(data_set: DataSet, prediction: Prediction, protocol: Protocol) -> float:
    """Return the best score over all answers, from 0 to 1.

    Raises:
        DataError: an answer or the classes do not fit the metric.
    """
    if data_set.metric == "classification" and not prediction.classes:
        raise DataError(f"all_classes is empty, but {data_set.name} is scored by the classes an answer can have")
    strict, text = protocol == "strict", prediction.text
    if data_set.first_line:
        text = text.lstrip("\n").split("\n")[0]
    metric = METRICS[data_set.metric]
    scores = [metric(text, answer, prediction.classes, strict) for answer in prediction.answers]
    return max(scores) if strict or text.strip() else 0.0


def score_file(path: Path, protocol: Protocol) -> Scores:
    """Score every row of a file. A prediction of only white space counts in ``n_empty`` and in the mean.

    Raises:
        DataError: a row cannot be scored, or there is no row. The message names file and line.
    """
    data_set, extended = data_set_of(path)
    items: list[float] = []
    lengths: list[int] = []
    ids: list[str] = []
    clusters: list[str] = []
    n_empty = 0
    for prediction in read_predictions(path):
        where = f"{path}, line {prediction.line}"
        if prediction.length is not None:
            lengths.append(prediction.length)
        in_every_row = len(lengths) == len(items) + 1
        if not in_every_row and (lengths or extended):
            raise DataError(f"{where}: length must be in every row or, outside LongBench-E, in none")
        try:
            items.append(score_prediction(data_set, prediction, protocol))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        ids.append(item_id(path, prediction))
        clusters.append(prediction.cluster)
        n_empty += not prediction.text.strip()
    return Scores(data_set, extended, items, lengths, n_empty, ids, clusters)


def percent(scores: Sequence[float]) -> float:
    """Return the mean in percent with two decimals.

    Scores are summed from left to right like in the released scorer, so that ties are rounded alike.
    """
    total = 0.0
    for score in scores:
        total += score
    return round(100 * total / len(scores), 2)


def buckets(scores: Sequence[float], lengths: Sequence[int]) -> dict[str, dict[str, float | int | None]]:
    """Return score in percent (None without rows) and n of LongBench-E's ranges of length: < 4000, < 8000, others."""
    groups: dict[str, list[float]] = {name: [] for name in _BUCKETS}
    for score, length in zip(scores, lengths, strict=True):
        groups[_BUCKETS[(length >= 4000) + (length >= 8000)]].append(score)
    # the released scorer uses NumPy's mean and rounding here, but not in the total
    return {
        name: {"score": float(round(100 * np.mean(group), 2)) if group else None, "n": len(group)}
        for name, group in groups.items()
    }


def percent_interval(interval: Interval | None) -> list[float] | None:
    """Return both ends in percent with two decimals, or None if there is no interval."""
    return [round(100 * interval.low, 2), round(100 * interval.high, 2)] if interval else None


def summary(scores: Scores) -> dict[str, Any]:
    """Return one data set as it stands in the output; scores and interval are in percent."""
    result: dict[str, Any] = {
        "category": scores.data_set.category,
        "language": scores.data_set.language,
        "metric": scores.data_set.metric,
        "score": percent(scores.items),
        "interval": percent_interval(bootstrap_interval(scores.items, clusters=scores.clusters)),
        "n": len(scores.items),
        "empty_predictions": scores.n_empty,
    }
    if scores.lengths:
        result["buckets"] = buckets(scores.items, scores.lengths)
    return result


def report(files: Sequence[Scores], protocol: Protocol) -> dict[str, Any]:
    """Return what ``scores.json`` holds: the protocol, and data sets and categories of LongBench and LongBench-E."""
    result: dict[str, Any] = {"protocol": protocol}
    for benchmark, extended in BENCHMARKS:
        summaries = {scores.data_set.name: summary(scores) for scores in files if scores.extended == extended}
        if summaries:
            ordered = {name: summaries[name] for name in DATA_SETS if name in summaries}
            result[benchmark] = {"data_sets": ordered, "categories": category_means(ordered, extended)}
    return result


def longbench_measures(
    files: Sequence[Scores], protocol: str, *, data: str, judge: str | None = None
) -> tuple[list[Measure], list[ScoredItem]]:
    """Return measures in percent of every data set and, as headlines, of every category; and the data sets' items.

    Rows about the same context are resampled together. For the interval of a category, the rows of each data set are
    resampled separately, so that each data set keeps its weight. Its items are those of its data sets. A data set
    without any rating has no mean and is left out with a warning.
    """
    measures: list[Measure] = []
    items: list[ScoredItem] = []
    for benchmark, extended in BENCHMARKS:
        found = {scores.data_set.name: scores for scores in files if scores.extended == extended}
        means = {}
        for name in (name for name in DATA_SETS if name in found):
            scores = found[name]
            if not scores.items:
                logger.warning("%s, %s: none of %d judgments has a rating, so no mean", benchmark, name, scores.nulls)
                continue
            means[name] = {"score": percent(scores.items)}
            measures.append(_measure(benchmark, name, protocol, means[name]["score"], [scores], data, judge))
            items += [
                ScoredItem(benchmark, name, protocol, item, 100 * score, cluster)
                for item, score, cluster in zip(scores.ids, scores.items, scores.clusters, strict=True)
            ]
        for category, row in category_means(means, extended).items():
            members = [scores for scores in found.values() if scores.data_set.category == category]
            measures.append(_measure(benchmark, category, protocol, row["score"], members, data, judge, headline=True))
    return measures, items


def _measure(
    benchmark: str,
    name: str,
    protocol: str,
    score: float,
    members: Sequence[Scores],
    data: str,
    judge: str | None,
    headline: bool = False,
) -> Measure:
    scored, nulls = [scores for scores in members if scores.items], sum(scores.nulls for scores in members)
    clusters = [scores.clusters for scores in scored]
    found = percent_interval(stratified_interval([scores.items for scores in scored], clusters=clusters))
    low, high = found or (None, None)
    n, n_clusters = sum(len(scores.items) for scores in scored), sum(len(set(shared)) for shared in clusters)
    return Measure(benchmark, name, protocol, "%", score, low, high, n, data, judge, nulls, headline, n_clusters)


def _interval_text(interval: Sequence[float] | None) -> str:
    return "{:.2f} to {:.2f}".format(*interval) if interval else UNKNOWN


def markdown(result: Mapping[str, Any]) -> str:
    """Return the value of :func:`report` as tables, under one heading for each benchmark, which names the protocol."""
    parts = []
    for key, title in (("longbench", "LongBench"), ("longbench_e", "LongBench-E")):
        if key not in result:
            continue
        data_sets = [
            [
                name, row["metric"], decimal(row["score"]), _interval_text(row["interval"]), row["n"],
                row["empty_predictions"],
                *(decimal(row.get("buckets", {}).get(bucket, {}).get("score")) for bucket in _BUCKETS),
            ]
            for name, row in result[key]["data_sets"].items()
        ]  # fmt: skip
        categories = [
            [category, decimal(row["score"]), f"{row['n']} of {row['n'] + len(row['missing'])}"]
            for category, row in result[key]["categories"].items()
        ]
        titles = ["data set", "metric", "score", "95 % interval", "n", "empty", *_BUCKETS]
        parts += [f"## {title}, automatic metrics, protocol {result['protocol']}", ""]
        parts += [markdown_table(titles, data_sets, numbers=range(2, len(titles))), ""]
        parts += [markdown_table(["category", "mean", "data sets"], categories), ""]
    return "\n".join(parts)
