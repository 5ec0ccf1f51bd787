"""LongBench-Chat (arXiv 2401.18058): questions over long documents, rated by a judge that is shown three examples.

Two protocols differ in what the model is asked. ``longalign`` sends the case's prompt, which ends with the question.
``gateau`` takes its last line away and asks in another form, as the code of arXiv 2410.15633 does. The judge is asked
the same in both. Their numbers do not belong in one table.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateau.errors import DataError, SettingsError
from gateau.evaluation.benchmarks.base import predictions_file
from gateau.evaluation.judging.join import EVALUATOR, Ratings, fill, one_line, rated_groups, request
from gateau.evaluation.judging.judge import JudgeRequest
from gateau.evaluation.results.measures import Measure, ScoredItem
from gateau.files import number_of, read_json, read_jsonl, read_text, text_of

logger = logging.getLogger(__name__)

Protocol = Literal["gateau", "longalign"]
PROTOCOLS: tuple[Protocol, ...] = ("gateau", "longalign")
LANGUAGES = ("English", "Chinese")
RATING = "longbench_chat"

_EXAMPLES = 3
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Case:
    """One case: ``prompt`` is the document with the question at its end, ``answer`` the reference."""

    idx: int
    query: str
    answer: str
    prompt: str


@dataclass(frozen=True)
class ChatPrediction:
    """One answer of a model, ``pred``, beside its case's question and reference."""

    idx: int
    query: str
    answer: str
    pred: str

    @property
    def id(self) -> str:
        return str(self.idx)

    @property
    def language(self) -> str:
        """Chinese if the question holds a Chinese character, else English."""
        return LANGUAGES[_CHINESE.search(self.query) is not None]


def read_cases(assets: Path) -> list[Case]:
    """The cases of ``test_cases.json``, in its order. Raises DataError for one that cannot be used or comes twice."""
    path = Path(assets) / "test_cases.json"
    cases: dict[int, Case] = {}
    for where, row in _objects(path):
        case = Case(_index(row, where), *(text_of(row, name, where) for name in ("query", "answer", "prompt")))
        if case.idx in cases:
            raise DataError(f"{where}: idx {case.idx} stands twice; fetch the file again")
        cases[case.idx] = case
    if not cases:
        raise DataError(f"{path}: no cases; fetch the file again")
    return list(cases.values())


def prompt(case: Case, protocol: Protocol) -> str:
    """What the model is asked.

    The ``gateau`` protocol finds the last line by its text, so a prompt that ends with a line feed, whose last line is
    empty, loses nothing and asks twice; and of a prompt of one line nothing is left. Both are warned about and kept,
    because the published numbers were made so.

    Raises SettingsError for another protocol.
    """
    if protocol not in PROTOCOLS:
        raise SettingsError(f"LongBench-Chat has no protocol {protocol!r}; choose {' or '.join(PROTOCOLS)}")
    if protocol == "longalign":
        return case.prompt
    last_line = case.prompt.split("\n")[-1]
    kept = case.prompt[: case.prompt.rfind(last_line)]
    if not last_line:
        logger.warning("LongBench-Chat %d: the prompt's last line is empty, so the question stands twice", case.idx)
    elif not kept:
        logger.warning("LongBench-Chat %d: the prompt is one line, so nothing of it is left", case.idx)
    return f"{kept} ###Instruction: {case.query}\n\n\n ###Response: "


def read_predictions(path: str | Path) -> list[ChatPrediction]:
    """Rows of ``predictions.jsonl`` or of the folder that holds it.

    Raises DataError, naming the line, for a row without idx, query, answer or pred, and for an idx that stands twice.
    """
    predictions: dict[int, ChatPrediction] = {}
    for where, row in read_jsonl(predictions_file(path)):
        prediction = ChatPrediction(
            _index(row, where), *(text_of(row, name, where) for name in ("query", "answer", "pred"))
        )
        if prediction.idx in predictions:
            raise DataError(f"{where}: idx {prediction.idx} stands twice; keep one of the two rows")
        predictions[prediction.idx] = prediction
    return list(predictions.values())


def judge_requests(predictions: Path, assets: Path) -> list[JudgeRequest]:
    """A request per prediction: ``prompt_fs.txt`` filled with question, reference, three rated examples, prediction.

    Raises DataError for files that cannot be used and for an idx without examples.
    """
    template_path = Path(assets) / "prompt_fs.txt"
    template = read_text(template_path)
    examples = _examples(Path(assets) / "few_shots.json")
    requests = []
    for one in read_predictions(predictions):
        if one.idx > len(examples):
            raise DataError(
                f"{predictions}: idx {one.idx} has no examples: few_shots.json has {len(examples)}; take predictions "
                "and assets of the same benchmark"
            )
        shown = [part for example in examples[one.idx - 1] for part in example]
        user = fill(template, template_path, one.query, one.answer, *shown, one_line(one.pred))
        requests.append(request(one.id, RATING, EVALUATOR, user))
    return requests


def chat_scores(
    predictions: Sequence[ChatPrediction], ratings: Ratings, protocol: Protocol, *, data: str, judge: str
) -> tuple[list[Measure], list[ScoredItem]]:
    """The mean rating, in points from 1 to 10, of all cases, the English and the Chinese ones; and their items."""
    groups: list[tuple[str, bool, Ratings]] = [("all", True, ratings)]
    for language in LANGUAGES:
        ids = [one.id for one in predictions if one.language == language]
        groups.append((language, False, {item: ratings[item] for item in ids}))
    return rated_groups("longbench_chat", protocol, groups, data=data, judge=judge)


def _objects(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: not a list of objects; fetch the file again")
    return [(f"{path}, case {number}", row) for number, row in enumerate(rows, start=1)]


def _index(row: dict[str, Any], where: str) -> int:
    idx = number_of(row, "idx", where)
    if idx < 1:
        raise DataError(f"{where}: idx is {idx}; cases are counted from 1")
    return idx


def _examples(path: Path) -> list[list[tuple[str, object]]]:
    """Three (answer, score) of each case, by place."""
    rows = read_json(path)
    try:
        examples = [[(example["answer"], example["score"]) for example in row] for row in rows]
    except (LookupError, TypeError) as error:
        raise DataError(f"{path}: not a list of lists of answer and score ({error!r}); fetch it again") from error
    for number, row in enumerate(examples, start=1):
        if len(row) != _EXAMPLES:
            raise DataError(f"{path}: entry {number} has {len(row)} examples instead of {_EXAMPLES}; fetch it again")
    return examples
