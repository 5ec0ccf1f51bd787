"""LongBench-Chat (arXiv 2401.18058): questions over long documents, rated by a judge that is shown three examples.

There are two protocols, which differ in what the model is asked. ``longalign`` sends the case's prompt, which ends with
the question. ``gateau`` removes the prompt's last line and asks in another form, as the code of arXiv 2410.15633 does.
The judge is asked the same in both. Numbers of different protocols must not be compared.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateau.errors import DataError, SettingsError
from gateau.evaluation.benchmarks.base import predictions_file
from gateau.evaluation.judging.requests import EVALUATOR, JudgeRequest, fill, one_line, request
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
    """One case. ``prompt`` is the document with the question at its end, ``answer`` is the reference answer."""

    idx: int
    query: str
    answer: str
    prompt: str

    @property
    def language(self) -> str:
        """The language of the question."""
        return language_of(self.query)

    @property
    def document_sha256(self) -> str:
        """Digest of the prompt without the question at its end, which is the same for cases about one document."""
        text = self.prompt.rstrip()
        document = text.removesuffix(self.query.strip())
        if document == text:  # the question is worded otherwise there, and it is the last line
            document = text.rpartition("\n")[0]
        return hashlib.sha256(document.strip().encode()).hexdigest()


@dataclass(frozen=True)
class ChatPrediction:
    """One answer of a model, ``pred``, with the question and the reference answer of its case.

    ``document_sha256`` is the same for cases about one document; it is None if the documents are unknown.
    """

    idx: int
    query: str
    answer: str
    pred: str
    document_sha256: str | None = None

    @property
    def id(self) -> str:
        """The case's number as text, which names its rating."""
        return str(self.idx)

    @property
    def language(self) -> str:
        """The language of the question."""
        return language_of(self.query)

    @property
    def cluster(self) -> str:
        """What is resampled together: the cases of one document."""
        return self.document_sha256 or self.id


def language_of(query: str) -> str:
    """Return Chinese if a question holds a Chinese character, else English."""
    return LANGUAGES[_CHINESE.search(query) is not None]


def read_cases(assets: Path) -> list[Case]:
    """Return the cases of ``test_cases.json``, in its order.

    Raises:
        DataError: a case cannot be used, two cases have the same idx, or there is none.
    """
    path = Path(assets) / "test_cases.json"
    cases: dict[int, Case] = {}
    for where, row in _objects(path):
        case = Case(_index(row, where), *(text_of(row, name, where) for name in ("query", "answer", "prompt")))
        if case.idx in cases:
            raise DataError(f"{where}: idx {case.idx} appears twice; fetch the file again")
        cases[case.idx] = case
    if not cases:
        raise DataError(f"{path}: no cases; fetch the file again")
    return list(cases.values())


def prompt(case: Case, protocol: Protocol) -> str:
    """Return what the model is asked.

    The ``gateau`` protocol finds the last line by its text. A prompt that ends with a line feed has an empty last line,
    so it loses nothing and contains the question twice. A prompt of a single line is lost completely. Both cases are
    kept with a warning, because the published numbers were made in this way.

    Raises:
        SettingsError: the protocol does not exist.
    """
    if protocol not in PROTOCOLS:
        raise SettingsError(f"LongBench-Chat has no protocol {protocol!r}; choose {' or '.join(PROTOCOLS)}")
    if protocol == "longalign":
        return case.prompt
    last_line = case.prompt.split("\n")[-1]
    kept = case.prompt[: case.prompt.rfind(last_line)]
    if not last_line:
        logger.warning(
            "LongBench-Chat %d: the prompt's last line is empty, so the prompt contains the question twice", case.idx
        )
    elif not kept:
        logger.warning("LongBench-Chat %d: the prompt is a single line, so nothing of it is left", case.idx)
    return f"{kept} ###Instruction: {case.query}\n\n\n ###Response: "


def read_predictions(path: str | Path) -> list[ChatPrediction]:
    """Return the rows of ``predictions.jsonl``, or of the folder that holds it.

    Raises:
        DataError: a row has no idx, query, answer or pred, or two rows have the same idx. The message names the line.
    """
    predictions: dict[int, ChatPrediction] = {}
    for where, row in read_jsonl(predictions_file(path)):
        query, answer, pred = (text_of(row, name, where) for name in ("query", "answer", "pred"))
        document = None if row.get("document_sha256") is None else text_of(row, "document_sha256", where)
        prediction = ChatPrediction(_index(row, where), query, answer, pred, document)
        if prediction.idx in predictions:
            raise DataError(f"{where}: idx {prediction.idx} appears twice; keep one of the two rows")
        predictions[prediction.idx] = prediction
    return list(predictions.values())


def judge_requests(predictions: Path, assets: Path) -> list[JudgeRequest]:
    """Return one request for each prediction.

    ``prompt_fs.txt`` is filled with question, reference answer, three rated examples, and prediction.

    Raises:
        DataError: a file cannot be used, or an idx has no examples.
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


def _objects(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: not a list of objects; fetch the file again")
    return [(f"{path}, case {number}", row) for number, row in enumerate(rows, start=1)]


def _index(row: dict[str, Any], where: str) -> int:
    idx = number_of(row, "idx", where)
    if idx < 1:
        raise DataError(f"{where}: idx is {idx}; cases count from 1")
    return idx


def _examples(path: Path) -> list[list[tuple[str, object]]]:
    """Return the three (answer, score) examples of each case; the first entry belongs to idx 1."""
    rows = read_json(path)
    try:
        examples = [[(example["answer"], example["score"]) for example in row] for row in rows]
    except (LookupError, TypeError) as error:
        raise DataError(f"{path}: not a list of lists of answer and score ({error!r}); fetch it again") from error
    for number, row in enumerate(examples, start=1):
        if len(row) != _EXAMPLES:
            raise DataError(f"{path}: entry {number} has {len(row)} examples instead of {_EXAMPLES}; fetch it again")
    return examples
