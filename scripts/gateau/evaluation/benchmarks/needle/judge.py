"""What a judge is asked about the needle test: how far an answer agrees with the sentence that was hidden.

The steps of the scale are those of the usual needle test (1, 3, 5, 7, 10). The wording is this project's own.
"""

from __future__ import annotations

from pathlib import Path

from gateau.errors import DataError
from gateau.evaluation.benchmarks.base import predictions_file
from gateau.evaluation.benchmarks.needle.predictions import read_predictions
from gateau.evaluation.judging.requests import JudgeRequest, request

RATING = "needle"
SYSTEM = "You are a helpful assistant."

RUBRIC = """\
A sentence was hidden in a long document. A model read the document and was asked about that sentence. Say how far the \
model's answer agrees with the sentence. What the sentence does not speak of counts neither for nor against the \
answer, and neither do its length and its style.

Give one of these five ratings:
10: everything that the sentence says in reply to the question is there, and nothing contradicts it
7: the main point is there, but a smaller part is missing or wrong
5: one half is there, the other is missing or wrong
3: the subject is the right one, but what is said of it is not what the sentence says
1: the answer is about something else, knows nothing, or is empty

The question:
{question}

The hidden sentence:
{needle}

The model's answer:
{prediction}

Give your reason in one sentence. Then write the rating's number between double square brackets, for example: [[5]]"""


def judge_requests(predictions: Path, assets: Path) -> list[JudgeRequest]:
    """Return one request for each prediction. The rubric is in this module, so ``assets`` are not read.

    Raises:
        DataError: a row has no needle or no question.
    """
    path = predictions_file(predictions)
    requests = []
    for one in read_predictions(path):
        if one.needle is None or one.question is None:
            raise DataError(f"{path}: id {one.id!r} has no needle or no question; both are shown to the judge")
        user = RUBRIC.format(question=one.question, needle=one.needle, prediction=one.pred)
        requests.append(request(one.id, RATING, SYSTEM, user))
    return requests
