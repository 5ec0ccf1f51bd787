"""What a judge is asked about LongBench's 12 data sets of questions and summaries (arXiv 2410.15633).

Answers to questions are rated from 1 to 3, summaries from 1 to 5. LongBench-E's files are left out, because the paper's
judge was never asked about them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateau.errors import DataError
from gateau.evaluation.benchmarks.longbench.data_sets import (
    DATA_SETS,
    RATED_CATEGORIES,
    DataSet,
    data_set_of,
    item_id,
    prediction_files,
    read_predictions,
)
from gateau.evaluation.judging.requests import EVALUATOR, JudgeRequest, fill, one_line, request
from gateau.files import read_text

_TEMPLATES = {"longbench_qa": "prompt_for_qa.txt", "longbench_summary": "prompt_for_sum.txt"}


def judge_requests(predictions: Path, assets: Path) -> list[JudgeRequest]:
    """Return one request for each prediction of the 12 data sets, file by file.

    ``prompt_for_qa.txt`` has slots for question, answers (as Python prints a list) and prediction,
    ``prompt_for_sum.txt`` for answers and prediction. Ids are ``<data set>/<_id or line>``.

    Raises:
        DataError: a file cannot be used, a question is missing, or there are predictions of none of the 12 data sets.
    """
    requests = []
    for path, _, rating in judged_files(predictions):
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
    """Return the kind of rating of every judged prediction, by id."""
    return {
        item_id(path, one): rating for path, _, rating in judged_files(predictions) for one in read_predictions(path)
    }


def judged_files(predictions: str | Path) -> Iterator[tuple[Path, DataSet, str]]:
    """Yield each judged file of predictions, its data set, and its kind of rating.

    Raises:
        DataError: there is no file of a data set that is judged.
    """
    files = [(path, *data_set_of(path)) for path in prediction_files(predictions)]
    judged = [
        (path, one, RATED_CATEGORIES[one.category])
        for path, one, extended in files
        if one.category in RATED_CATEGORIES and not extended
    ]
    if not judged:
        names = ", ".join(one.name for one in DATA_SETS.values() if one.category in RATED_CATEGORIES)
        raise DataError(f"{predictions}: no file of a data set that is judged ({names}); generate one of them")
    yield from judged
