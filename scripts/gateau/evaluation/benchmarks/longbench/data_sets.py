"""LongBench's 21 data sets (arXiv 2308.14508), and predictions of them, one file per data set.

:mod:`gateau.evaluation.benchmarks.longbench.scores` has the automatic scores,
:mod:`gateau.evaluation.benchmarks.longbench.judge_scores` those of a judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateau.errors import DataError
from gateau.files import Row, read_jsonl

Category = Literal["single-doc QA", "multi-doc QA", "summarisation", "few-shot", "synthetic", "code"]

CATEGORIES: tuple[Category, ...] = (
    "single-doc QA", "multi-doc QA", "summarisation", "few-shot", "synthetic", "code",
)  # fmt: skip


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        name: as in its file's name.
        category: the group of data sets that it belongs to.
        language: of its texts.
        metric: name of its automatic metric.
        new_tokens: largest number of tokens of an answer.
        first_line: whether only the first line of a prediction is scored.
        extended: whether LongBench-E has it too.
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

# categories that a judge can rate, and the kind of rating; there are rubrics for questions and summaries alone
RATED_CATEGORIES: dict[Category, str] = {
    "single-doc QA": "longbench_qa",
    "multi-doc QA": "longbench_qa",
    "summarisation": "longbench_summary",
}


@dataclass(frozen=True)
class Prediction:
    """One row of a prediction file.

    Attributes:
        line: its line in the file, from 1.
        text: the answer.
        answers: the right answers.
        classes: all classes that an answer can have, if the data set has classes.
        length: length of the context in words (Chinese: characters) as LongBench counts, or None.
        id: names the row within its data set: its ``_id`` or, without one, its line.
        query: the question, which only a judge needs.
        context: digest of the context, which other rows may share, or None if unknown.
    """

    line: int
    text: str
    answers: Sequence[str]
    classes: Sequence[str]
    length: int | None
    id: str = ""
    query: str | None = None
    context: str | None = None

    @property
    def cluster(self) -> str:
        """What is resampled together: the rows of one context; each row alone if the contexts are unknown."""
        return self.context or self.id


def prediction_files(path: str | Path) -> list[Path]:
    """Return the file itself, or the ``*.jsonl`` of a folder sorted by name. Raises DataError if there is none."""
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
    """Return the data set that a file is named after, and whether it is LongBench-E's (``_e``).

    Raises:
        DataError: the name is not a data set's, or LongBench-E does not have the data set.
    """
    name = path.name.removesuffix(".jsonl")
    base = name.removesuffix("_e")
    data_set = DATA_SETS.get(base)
    if data_set is None:
        raise DataError(
            f"{path}: {base!r} is not a data set of LongBench; rename or remove it ({', '.join(DATA_SETS)})"
        )
    if name != base and not data_set.extended:
        raise DataError(f"{path}: LongBench-E has no {base}; rename the file to {base}.jsonl if it is LongBench's")
    return data_set, name != base


def read_predictions(path: Path) -> Iterator[Prediction]:
    """Yield rows as the released code writes them: ``pred``, ``answers``, ``all_classes``, and perhaps ``length``.

    Rows of this project also have ``context_sha256``, so that rows about the same context are known.

    Raises:
        DataError: a row cannot be used, or two rows have the same ``_id``. The message names file and line.
    """
    first_line: dict[str, int] = {}
    for where, row in read_jsonl(path):
        number = int(where.rpartition(" ")[2])
        try:
            prediction = _prediction(number, row)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if prediction.id in first_line:
            raise DataError(
                f"{where}: id {prediction.id!r} is also in line {first_line[prediction.id]}; keep one of the two rows"
            )
        first_line[prediction.id] = number
        yield prediction


def item_id(path: Path, prediction: Prediction) -> str:
    """Return the name of a row among all of LongBench and LongBench-E: ``<file's name>/<_id or line>``."""
    return f"{path.name.removesuffix('.jsonl')}/{prediction.id}"


def category_means(summaries: Mapping[str, Mapping[str, Any]], extended: bool) -> dict[str, dict[str, Any]]:
    """Return the mean of the data sets' scores in each category, with the names of missing data sets.

    Args:
        summaries: by data set (without ``_e``), each with its ``score``.
        extended: whether the categories are those of LongBench-E.

    Returns:
        By category, without those that have no data set.
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


def _prediction(number: int, row: Row) -> Prediction:
    missing = [name for name in ("pred", "answers", "all_classes") if name not in row]
    if missing:
        raise DataError(f"no {' and no '.join(missing)}; a row holds pred, answers and all_classes")
    if not isinstance(row["pred"], str):
        raise DataError('pred must be a text; use "" for an answer that was never generated, which scores 0')
    if not _is_texts(row["answers"]) or not row["answers"]:
        raise DataError("answers must be a list of one or more texts")
    if row["all_classes"] is not None and not _is_texts(row["all_classes"]):
        raise DataError("all_classes must be null or a list of texts")
    length = row.get("length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 0):
        raise DataError("length must be a whole number of 0 or more")
    identifier, query, context = row.get("_id"), row.get("query"), row.get("context_sha256")
    if not isinstance(identifier, str | int | None) or isinstance(identifier, bool):
        raise DataError("_id must be a text or a whole number")
    if not isinstance(query, str | None) or not isinstance(context, str | None):
        raise DataError("query and context_sha256 must be texts")
    name = str(identifier or number)
    return Prediction(number, row["pred"], row["answers"], row["all_classes"] or (), length, name, query, context)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
