"""MT-Bench (arXiv 2306.05685): 80 questions of two turns, each answer rated alone, as FastChat's single mode does it.

Rows of answers and judgments have FastChat's fields, so that its own tools read them. Questions of three categories are
judged beside reference answers, which come from their own file and never from the questions' field of that name. Of
several choices of a model the first is judged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateau.errors import DataError
from gateau.evaluation.judging.join import Ratings, fill, rated_groups, request
from gateau.evaluation.judging.judge import JudgeRequest, Judgment
from gateau.evaluation.results.measures import Measure, ScoredItem
from gateau.files import number_of, read_jsonl, text_of

PROTOCOL = "fastchat single"
RATING = "mt_bench"
TURNS = (1, 2)

_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
_REFERENCED = ("math", "reasoning", "coding")
_NULL_SCORE = -1

Turns = tuple[str, str]


@dataclass(frozen=True)
class Question:
    """Two turns of a user; ``reference`` are the two answers to judge beside, None where the category has none."""

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
    """The temperature at which a question of this category is answered."""
    return _TEMPERATURES.get(category, 0.0)


def read_questions(assets: Path) -> list[Question]:
    """The questions of ``question.jsonl``, in its order, with those references that they are judged beside.

    Raises DataError for a row that cannot be used, a question that stands twice, and a missing reference.
    """
    path, references = Path(assets) / "question.jsonl", Path(assets) / "reference_answer.jsonl"
    questions: dict[int, Question] = {}
    reference: dict[int, Turns] | None = None
    for where, row in read_jsonl(path):
        question_id, category = number_of(row, "question_id", where), text_of(row, "category", where)
        if question_id in questions:
            raise DataError(f"{where}: question {question_id} stands twice; fetch the file again")
        beside = None
        if category in _REFERENCED:
            if reference is None:
                reference = {answer.question_id: answer.turns for answer in read_answers(references)}
            beside = reference.get(question_id)
            if beside is None:
                raise DataError(f"{references}: no answer to question {question_id} ({category}); fetch it again")
        questions[question_id] = Question(question_id, category, _turns(row.get("turns"), where), beside)
    return list(questions.values())


def read_answers(path: str | Path) -> list[ModelAnswer]:
    """One model's answers: FastChat's file, a folder with just this one ``*.jsonl``, or one with ``model_answer/``.

    Raises DataError for a row that cannot be used, a question answered twice, and rows of several models.
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
    """Names a rating: turn 1 or 2 of a question."""
    return f"{question_id}-{turn}"


def prompt_name(category: str, turn: int) -> str:
    """Which row of ``judge_prompts.jsonl`` judges a turn."""
    return f"single{'-math' if category in _REFERENCED else ''}-v1{'-multi-turn' if turn == 2 else ''}"


def judge_requests(predictions: Path, assets: Path) -> list[JudgeRequest]:
    """Two requests per question, in the questions' order.

    Raises DataError for files that cannot be used, and unless exactly the questions of the assets are answered.
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
    """Questions with their answers. Raises DataError for a question without one, and an answer without a question."""
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


def mt_bench_scores(
    questions: Sequence[Question], ratings: Ratings, *, data: str, judge: str
) -> tuple[list[Measure], list[ScoredItem]]:
    """The mean rating, in points from 1 to 10, over all rows, of each turn and of each category; and their items.

    Rows are resampled as if a question's two turns had nothing in common, so the intervals over both are narrow.
    """
    groups: list[tuple[str, bool, Ratings]] = [("average", True, ratings)]
    for turn in TURNS:
        ids = [item_id(question.question_id, turn) for question in questions]
        groups.append((f"turn {turn}", False, {item: ratings[item] for item in ids}))
    for category in dict.fromkeys(question.category for question in questions):
        ids = [item_id(one.question_id, turn) for one in questions if one.category == category for turn in TURNS]
        groups.append((category, False, {item: ratings[item] for item in ids}))
    return rated_groups("mt_bench", PROTOCOL, groups, data=data, judge=judge)


def answer_row(question_id: int, model: str, turns: Sequence[str], tstamp: float = 0.0) -> dict[str, Any]:
    """An answer as FastChat stores it. Its id is a digest, and the time 0, so that a rerun writes the same bytes."""
    digest = hashlib.sha256(json.dumps([question_id, model, list(turns)]).encode()).hexdigest()
    return {
        "question_id": question_id,
        "answer_id": digest[:22],  # as long as FastChat's
        "model_id": model,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": float(tstamp),
    }


def judgment_rows(
    questions: Sequence[Question],
    model: str,
    requests: Sequence[JudgeRequest],
    judgments: Mapping[str, Judgment],
    judge: str,
    tstamp: float = 0.0,
) -> list[dict[str, Any]]:
    """Judgments as FastChat's single mode stores them; a null is -1, which its readers leave out."""
    asked = {one.id: one.messages[-1]["content"] for one in requests}
    rows = []
    for question in questions:
        for turn in TURNS:
            item = item_id(question.question_id, turn)
            rating = judgments[item].rating
            rows.append(
                {
                    "question_id": question.question_id,
                    "model": model,
                    "judge": [judge, prompt_name(question.category, turn)],
                    "user_prompt": asked[item],
                    "judgment": judgments[item].text,
                    "score": _NULL_SCORE if rating is None else _plain(rating),
                    "turn": turn,
                    "tstamp": float(tstamp),
                }
            )
    return rows


def _plain(rating: float) -> int | float:
    """A whole rating as a whole number, which is how FastChat reads it from the judge's text."""
    return int(rating) if float(rating).is_integer() else rating
