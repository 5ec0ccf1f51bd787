"""LongBench's 21 data sets and their scores from prediction files, as the released scorer has them (arXiv 2308.14508).

A sample's score is the best over its answers, a data set's the mean over its samples in percent, LongBench-E's that of
each range of lengths. Two protocols: ``strict`` agrees with the released scorer to the last digit, ``fixed`` mends what
:mod:`gateau.evaluation.text_metrics` names and gives blank predictions 0. Their numbers do not belong in one table.
The 12 data sets that are also rated by a judge have those scores elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gateau.errors import DataError
from gateau.evaluation import text_metrics
from gateau.evaluation.intervals import bootstrap_interval

Protocol = Literal["strict", "fixed"]
Category = Literal["single-doc QA", "multi-doc QA", "summarisation", "few-shot", "synthetic", "code"]

CATEGORIES: tuple[Category, ...] = (
    "single-doc QA", "multi-doc QA", "summarisation", "few-shot", "synthetic", "code",
)  # fmt: skip
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


@dataclass(frozen=True)
class DataSet:
    """One data set. ``new_tokens``: most tokens of an answer. ``first_line``: only that of the prediction is scored.

    ``extended``: LongBench-E has it too.
    """

    name: str
    category: Category
    language: Literal["en", "zh", "code"]
    metric: str
    new_tokens: int
    first_line: bool = False
    extended: bool = False


DATA_SETS: dict[str, DataSet] = {
    item.name: item
    for item in (
        DataSet("narrativeqa", "single-doc QA", "en", "qa_f1", 128),
        DataSet("qasper", "single-doc QA", "en", "qa_f1", 128, extended=True),
        DataSet("multifieldqa_en", "single-doc QA", "en", "qa_f1", 64, extended=True),
        DataSet("multifieldqa_zh", "single-doc QA", "zh", "qa_f1_zh", 64),
        DataSet("hotpotqa", "multi-doc QA", "en", "qa_f1", 32, extended=True),
        DataSet("2wikimqa", "multi-doc QA", "en", "qa_f1", 32, extended=True),
        DataSet("musique", "multi-doc QA", "en", "qa_f1", 32),
        DataSet("dureader", "multi-doc QA", "zh", "rouge_zh", 128),
        DataSet("gov_report", "summarisation", "en", "rouge", 512, extended=True),
        DataSet("qmsum", "summarisation", "en", "rouge", 512),
        DataSet("multi_news", "summarisation", "en", "rouge", 512, extended=True),
        DataSet("vcsum", "summarisation", "zh", "rouge_zh", 512),
        DataSet("trec", "few-shot", "en", "classification", 64, first_line=True, extended=True),
        DataSet("triviaqa", "few-shot", "en", "qa_f1", 32, first_line=True, extended=True),
        DataSet("samsum", "few-shot", "en", "rouge", 128, first_line=True, extended=True),
        DataSet("lsht", "few-shot", "zh", "classification", 64, first_line=True),
        DataSet("passage_count", "synthetic", "en", "count", 32, extended=True),
        DataSet("passage_retrieval_en", "synthetic", "en", "retrieval_en", 32, extended=True),
        DataSet("passage_retrieval_zh", "synthetic", "zh", "retrieval_zh", 32),
        DataSet("lcc", "code", "code", "code_sim", 64, extended=True),
        DataSet("repobench-p", "code", "code", "code_sim", 64, extended=True),
    )
}
_BUCKETS = ("0-4k", "4-8k", "8k+")


@dataclass(frozen=True)
class Prediction:
    """One row of a prediction file. ``length``: of the context, in words (Chinese: characters) as LongBench counts."""

    line: int
    text: str
    answers: Sequence[str]
    classes: Sequence[str]
    length: int | None


@dataclass(frozen=True)
class Scores:
    """One file's scores: one per row in [0, 1], in its order. ``lengths`` is empty when the rows have none."""

    data_set: DataSet
    extended: bool
    items: Sequence[float]
    lengths: Sequence[int]
    n_empty: int


def prediction_files(path: str | Path) -> list[Path]:
    """The file itself, or the ``*.jsonl`` of a folder by name. Raises DataError when there is none."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; name a folder of <data set>.jsonl, or one such file")
    files = sorted(path.glob("*.jsonl"))
    if not files:
        raise DataError(f"{path}: no *.jsonl there; predictions are one <data set>.jsonl per data set")
    return files


def data_set_of(path: Path) -> tuple[DataSet, bool]:
    """The data set that a file is named after, and whether it is LongBench-E's (``_e``). Raises DataError."""
    name = path.name.removesuffix(".jsonl")
    base = name.removesuffix("_e")
    data_set = DATA_SETS.get(base)
    if data_set is None:
        raise DataError(f"{path}: {base!r} is no data set of LongBench; rename or remove it ({', '.join(DATA_SETS)})")
    if name != base and not data_set.extended:
        raise DataError(f"{path}: LongBench-E has no {base}; rename the file to {base}.jsonl if it is LongBench's")
    return data_set, name != base


def read_predictions(path: Path) -> Iterator[Prediction]:
    """Rows as the released code writes them: ``pred``, ``answers``, ``all_classes``, optionally ``length``.

    Raises DataError with file and line for a row that cannot be used.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield _prediction(number, line)
            except DataError as error:
                raise DataError(f"{path}, line {number}: {error}") from error


def score_prediction(data_set: DataSet, prediction: Prediction, protocol: Protocol) -> float:
    """The best over all answers, in [0, 1]. Raises DataError for an answer or classes that do not fit the metric."""
    if data_set.metric == "classification" and not prediction.classes:
        raise DataError(f"all_classes is empty, but {data_set.name} is scored by the classes an answer can have")
    strict, text = protocol == "strict", prediction.text
    if data_set.first_line:
        text = text.lstrip("\n").split("\n")[0]
    metric = METRICS[data_set.metric]
    scores = [metric(text, answer, prediction.classes, strict) for answer in prediction.answers]
    return max(scores) if strict or text.strip() else 0.0


def score_file(path: Path, protocol: Protocol) -> Scores:
    """Score every row of ``path``. An empty prediction, white space only, counts in ``n_empty`` and in the mean.

    Raises DataError with file and line for rows that cannot be scored, and for a file without rows.
    """
    data_set, extended = data_set_of(path)
    items: list[float] = []
    lengths: list[int] = []
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
        n_empty += not prediction.text.strip()
    if not items:
        raise DataError(f"{path}: no rows; generate the predictions of {data_set.name} again")
    return Scores(data_set, extended, items, lengths, n_empty)


def percent(scores: Sequence[float]) -> float:
    """Mean in percent, two decimals; summed from left to right like the released scorer, so that ties round alike."""
    total = 0.0
    for score in scores:
        total += score
    return round(100 * total / len(scores), 2)


def buckets(scores: Sequence[float], lengths: Sequence[int]) -> dict[str, dict[str, float | int | None]]:
    """LongBench-E's ranges of ``length`` (under 4000, under 8000, others): score in percent (None without rows), n."""
    groups: dict[str, list[float]] = {name: [] for name in _BUCKETS}
    for score, length in zip(scores, lengths, strict=True):
        groups[_BUCKETS[(length >= 4000) + (length >= 8000)]].append(score)
    # NumPy's mean and its rounding, as the released scorer has them here and not in the total
    return {
        name: {"score": float(round(100 * np.mean(group), 2)) if group else None, "n": len(group)}
        for name, group in groups.items()
    }


def summary(scores: Scores) -> dict[str, Any]:
    """One data set as it stands in the output; scores and interval in percent."""
    interval = bootstrap_interval(scores.items)
    result: dict[str, Any] = {
        "category": scores.data_set.category,
        "language": scores.data_set.language,
        "metric": scores.data_set.metric,
        "score": percent(scores.items),
        "interval": [round(100 * interval.low, 2), round(100 * interval.high, 2)],
        "n": len(scores.items),
        "empty_predictions": scores.n_empty,
    }
    if scores.lengths:
        result["buckets"] = buckets(scores.items, scores.lengths)
    return result


def category_means(summaries: Mapping[str, Mapping[str, Any]], extended: bool) -> dict[str, dict[str, Any]]:
    """Mean of the data sets' scores per category, of LongBench or of LongBench-E, and which data sets were missing.

    ``summaries``: by data set, without ``_e``. Categories without a data set are left out.
    """
    result: dict[str, dict[str, Any]] = {}
    for category in CATEGORIES:
        names = [
            item.name for item in DATA_SETS.values() if item.category == category and (item.extended or not extended)
        ]
        scored = [summaries[name]["score"] for name in names if name in summaries]
        if scored:
            missing = [name for name in names if name not in summaries]
            result[category] = {"score": round(sum(scored) / len(scored), 2), "n": len(scored), "missing": missing}
    return result


def report(files: Sequence[Scores], protocol: Protocol) -> dict[str, Any]:
    """What ``scores.json`` holds: the protocol and, for LongBench and LongBench-E apart, data sets and categories."""
    result: dict[str, Any] = {"protocol": protocol}
    for benchmark, extended in (("longbench", False), ("longbench_e", True)):
        summaries = {scores.data_set.name: summary(scores) for scores in files if scores.extended == extended}
        if summaries:
            ordered = {name: summaries[name] for name in DATA_SETS if name in summaries}
            result[benchmark] = {"data_sets": ordered, "categories": category_means(ordered, extended)}
    return result


def markdown(result: Mapping[str, Any]) -> str:
    """:func:`report` as tables, one per benchmark, each under a heading that names the protocol."""
    parts = []
    for key, title in (("longbench", "LongBench"), ("longbench_e", "LongBench-E")):
        if key not in result:
            continue
        parts += [f"## {title}, automatic metrics, protocol {result['protocol']}", ""]
        parts += ["| data set | metric | score | 95 % interval | n | empty | " + " | ".join(_BUCKETS) + " |"]
        parts += ["|---|---|--:|--:|--:|--:|--:|--:|--:|"]
        for name, row in result[key]["data_sets"].items():
            low, high = row["interval"]
            ranges = [_cell(row.get("buckets", {}).get(bucket, {}).get("score")) for bucket in _BUCKETS]
            parts += [
                f"| {name} | {row['metric']} | {_cell(row['score'])} | {low:.2f} to {high:.2f} | {row['n']} "
                f"| {row['empty_predictions']} | {' | '.join(ranges)} |"
            ]
        parts += ["", "| category | mean | data sets |", "|---|--:|--:|"]
        for category, row in result[key]["categories"].items():
            of = row["n"] + len(row["missing"])
            parts += [f"| {category} | {_cell(row['score'])} | {row['n']} of {of} |"]
        parts += [""]
    return "\n".join(parts)


def _cell(score: float | None) -> str:
    return "–" if score is None else f"{score:.2f}"


def _prediction(number: int, line: bytes) -> Prediction:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"not JSON in UTF-8 ({error}); write the row again") from error
    if not isinstance(row, dict):
        raise DataError("not a JSON object; a row holds pred, answers and all_classes")
    missing = [name for name in ("pred", "answers", "all_classes") if name not in row]
    if missing:
        raise DataError(f"no {' and no '.join(missing)}; a row holds pred, answers and all_classes")
    if not isinstance(row["pred"], str):
        raise DataError('pred must be a text; an answer that was never generated is "", and scores 0')
    if not _is_texts(row["answers"]) or not row["answers"]:
        raise DataError("answers must be a list of one or more texts")
    if row["all_classes"] is not None and not _is_texts(row["all_classes"]):
        raise DataError("all_classes must be null or a list of texts")
    length = row.get("length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 0):
        raise DataError("length must be a whole number of 0 or more")
    return Prediction(number, row["pred"], row["answers"], row["all_classes"] or (), length)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
