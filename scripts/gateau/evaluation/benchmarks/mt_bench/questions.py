"""MT-Bench (arXiv 2306.05685): 80 questions of two turns, each answer rated alone, as FastChat's single mode does it.

Rows of answers and judgments have FastChat's fields, so that FastChat's own tools can read them. Questions of three
categories are judged with reference answers, which come from their own file and not from the questions' field of that
name. If a model has several choices, the first one is judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateau.digests import settings_digest
from gateau.errors import DataError
from gateau.evaluation.judging.requests import JudgeRequest, fill, request
from gateau.files import Row, number_of, read_jsonl, text_of

PROTOCOL = "fastchat single"
RATING = "mt_bench"
TURNS = (1, 2)

_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
REFERENCED = ("math", "reasoning", "coding")

Turns = tuple[str, str]


@dataclass(frozen=True)
class Question:
    """Two turns of a user. ``reference`` holds the reference answers, or None if the category has none."""

    question_id: int
    category: str
    turns: Turns
    reference: Turns | None = None


@dataclass(frozen=True)
class ModelAnswer:
    """A model's answers to both turns of a question."""

    question_id: int
    model: str
    turns: Turns


def temperature(category: str) -> float:
    """Return the temperature at which a question of this category is answered."""
    return _TEMPERATURES.get(category, 0.0)


def read_questions(assets: Path) -> list[Question]:
    """Return the questions of ``question.jsonl``, in its order, with the reference answers that the judge needs.

    Raises:
        DataError: a row cannot be used, a question appears twice, or a reference answer is missing.
    """
    path, references = Path(assets) / "question.jsonl", Path(assets) / "reference_answer.jsonl"
    questions: dict[int, Question] = {}
    reference: dict[int, Turns] | None = None
    for where, row in read_jsonl(path):
        question_id, category = number_of(row, "question_id", where), text_of(row, "category", where)
        if question_id in questions:
            raise DataError(f"{where}: question {question_id} appears twice; fetch the file again")
        beside = None
        if category in REFERENCED:
            if reference is None:
                reference = {answer.question_id: answer.turns for answer in read_answers(references)}
            beside = reference.get(question_id)
            if beside is None:
                raise DataError(f"{references}: no answer to question {question_id} ({category}); fetch it again")
        questions[question_id] = Question(question_id, category, _turns(row.get("turns"), where), beside)
    return list(questions.values())


def read_answers(path: str | Path) -> list[ModelAnswer]:
    """Return one model's answers.

    Args:
        path: FastChat's file, a folder with only this ``*.jsonl``, or a folder with ``model_answer/``.

    Raises:
        DataError: a row cannot be used, a question is answered twice, or there are rows of several models.
    """
    path = _answers_file(Path(path))
    answers: dict[int, ModelAnswer] = {}
    models: set[str] = set()
    for where, row in read_jsonl(path):
        question_id, model = number_of(row, "question_id", where), text_of(row, "model_id", where)
        choices = row.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise DataError(f"{where}: choices must be a list of objects with turns; answer the question again")
        if question_id in answers:
            raise DataError(f"{where}: question {question_id} is answered twice; keep one of the two rows")
        models.add(model)
        answers[question_id] = ModelAnswer(question_id, model, _turns(choices[0].get("turns"), where))
    if len(models) > 1:
        raise DataError(f"{path}: answers of {', '.join(sorted(models))}; give each model a file of its own")
    return list(answers.values())


def _answers_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    folder = path / "model_answer" if (path / "model_answer").is_dir() else path
    files = sorted(folder.glob("*.jsonl"))
    if len(files) != 1:
        raise DataError(f"{folder}: {len(files)} *.jsonl there; name the one file of the model that is judged")
    return files[0]


def _turns(turns: Any, where: str) -> Turns:
    if not isinstance(turns, list) or len(turns) != len(TURNS) or not all(isinstance(turn, str) for turn in turns):
        raise DataError(f"{where}: turns must be two texts; found {str(turns)[:80]}")
    return turns[0], turns[1]


def item_id(question_id: int, turn: int) -> str:
    """Return the name of the rating of turn 1 or 2 of a question."""
    return f"{question_id}-{turn}"


def prompt_name(category: str, turn: int) -> str:
    """Return the name of the row of ``judge_prompts.jsonl`` that judges a turn."""
    return f"single{'-math' if category in REFERENCED else ''}-v1{'-multi-turn' if turn == 2 else ''}"


def judge_requests(predictions: Path, assets: Path) -> list[JudgeRequest]:
    """Return two requests for each question, one for each turn, in the questions' order.

    Raises:
        DataError: a file cannot be used, or the answered questions are not exactly those of the assets.
    """
    path = Path(assets) / "judge_prompts.jsonl"
    prompts = {text_of(row, "name", where): (where, row) for where, row in read_jsonl(path)}
    requests = []
    for question, answer in answered(read_questions(assets), read_answers(predictions)):
        for turn in TURNS:
            name = prompt_name(question.category, turn)
            if name not in prompts:
                raise DataError(f"{path}: no prompt {name}; fetch the file again")
            where, row = prompts[name]
            if (row.get("type"), row.get("output_format")) != ("single", "[[rating]]"):
                raise DataError(f"{where}: {name} does not ask for a single [[rating]]; fetch the file again")
            user = fill(text_of(row, "prompt_template", where), where, **_slots(question, answer, turn))
            system = text_of(row, "system_prompt", where)
            requests.append(request(item_id(question.question_id, turn), RATING, system, user))
    return requests


def answered(questions: Sequence[Question], answers: Sequence[ModelAnswer]) -> Iterator[tuple[Question, ModelAnswer]]:
    """Yield each question with its answer.

    Raises:
        DataError: a question has no answer, or an answer has no question.
    """
    by_question = {answer.question_id: answer for answer in answers}
    known = {question.question_id for question in questions}
    for what, ids in (
        ("questions are not answered", known - by_question.keys()),
        ("answers belong to no question", by_question.keys() - known),
    ):
        if ids:
            named = ", ".join(map(str, sorted(ids)[:10])) + (", …" if len(ids) > 10 else "")
            raise DataError(f"MT-Bench: {len(ids)} {what}: {named}; take answers and assets of the same benchmark")
    for question in questions:
        yield question, by_question[question.question_id]


def _slots(question: Question, answer: ModelAnswer, turn: int) -> dict[str, str]:
    slots = {"question": question.turns[0], "answer": answer.turns[0]}
    if turn == 2:
        slots = {
            f"{name}_{number}": texts[number - 1]
            for name, texts in (("question", question.turns), ("answer", answer.turns))
            for number in TURNS
        }
    if question.reference:
        slots |= {f"ref_answer_{number}": question.reference[number - 1] for number in TURNS}
    return slots


def prediction_rows(model: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of FastChat's file of answers; the white space around answers is removed."""
    answers = [
        answer_row(row["record"]["question_id"], model, [turn["text"].strip() for turn in row["turns"]]) for row in rows
    ]
    return {f"model_answer/{model}.jsonl": answers}


def answer_row(question_id: int, model: str, turns: Sequence[str], tstamp: float = 0.0) -> Row:
    """Return an answer as FastChat stores it. Its id is a digest and its time 0, so reruns write the same bytes."""
    return {
        "question_id": question_id,
        "answer_id": settings_digest([question_id, model, list(turns)], length=22),  # as long as FastChat's
        "model_id": model,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": float(tstamp),
    }
