"""LongBench's 12 data sets of questions and summaries, rated by a judge (arXiv 2410.15633): 1 to 3, and 1 to 5.

A data set's score is the sum of its ratings in percent of the largest there could be, so its least is not 0 but 33.3 or
20. LongBench-E's files are passed over: the judge was never asked about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gateau.errors import DataError
from gateau.evaluation.benchmarks.longbench.data_sets import (
    DATA_SETS,
    Category,
    DataSet,
    category_means,
    data_set_of,
    item_id,
    prediction_files,
    read_predictions,
)
from gateau.evaluation.benchmarks.longbench.scores import Scores, percent, percent_interval
from gateau.evaluation.judging.join import EVALUATOR, Ratings, fill, one_line, request
from gateau.evaluation.judging.judge import JudgeRequest
from gateau.evaluation.judging.ratings import RATINGS
from gateau.evaluation.results.intervals import bootstrap_interval
from gateau.files import read_text

PROTOCOL = "judge"

RATED_CATEGORIES: dict[Category, str] = {
    "single-doc QA": "longbench_qa",
    "multi-doc QA": "longbench_qa",
    "summarisation": "longbench_summary",
}
_TEMPLATES = {"longbench_qa": "prompt_for_qa.txt", "longbench_summary": "prompt_for_sum.txt"}


def judge_requests(predictions: Path, assets: Path) -> list[JudgeRequest]:
    """A request per prediction of the 12 data sets, file by file; ids are ``<data set>/<_id or line>``.

    ``prompt_for_qa.txt`` has slots for question, answers (as Python prints a list) and prediction,
    ``prompt_for_sum.txt`` for answers and prediction.

    Raises DataError for files that cannot be used, a question that is missing, and predictions of none of the 12.
    """
    requests = []
    for path, _, rating in _judged_files(predictions):
        template_path = Path(assets) / _TEMPLATES[rating]
        template = read_text(template_path)
        for one in read_predictions(path):
            if rating == "longbench_qa" and one.query is None:
                raise DataError(f"{path}, line {one.line}: no query; the judge is shown the question")
            asked = [one.query] if rating == "longbench_qa" else []
            user = fill(template, template_path, *asked, one.answers, one_line(one.text))
            requests.append(request(item_id(path, one), rating, EVALUATOR, user))
    return requests


def judged_items(predictions: str | Path) -> dict[str, str]:
    """Every row's id, and how it is rated (a key of ``RATINGS``)."""
    return {
        item_id(path, one): rating for path, _, rating in _judged_files(predictions) for one in read_predictions(path)
    }


def judged_scores(predictions: str | Path, ratings: Ratings) -> list[Scores]:
    """Each file's ratings as shares of the largest there could be, and how many rows have none."""
    files = []
    for path, data_set, rating in _judged_files(predictions):
        ids = [item_id(path, one) for one in read_predictions(path)]
        rated = {item: value / RATINGS[rating].highest for item in ids if (value := ratings[item]) is not None}
        files.append(Scores(data_set, False, list(rated.values()), (), 0, list(rated), nulls=len(ids) - len(rated)))
    return files


def judged_report(files: Sequence[Scores], judge: str) -> dict[str, Any]:
    """Data sets and categories as they stand in the output; scores and intervals in percent."""
    found = {scores.data_set.name: scores for scores in files if scores.items}
    data_sets = {
        name: {
            "score": percent(found[name].items),
            "interval": percent_interval(bootstrap_interval(found[name].items)),
            "n": len(found[name].items),
            "nulls": found[name].nulls,
        }
        for name in DATA_SETS
        if name in found
    }
    return {"judge": judge, "data_sets": data_sets, "categories": category_means(data_sets, extended=False)}


def _judged_files(predictions: str | Path) -> Iterator[tuple[Path, DataSet, str]]:
    files = [(path, *data_set_of(path)) for path in prediction_files(predictions)]
    judged = [
        (path, one, RATED_CATEGORIES[one.category])
        for path, one, e in files
        if one.category in RATED_CATEGORIES and not e
    ]
    if not judged:
        names = ", ".join(one.name for one in DATA_SETS.values() if one.category in RATED_CATEGORIES)
        raise DataError(f"{predictions}: no file of a data set that is judged ({names}); generate one of them")
    yield from judged
