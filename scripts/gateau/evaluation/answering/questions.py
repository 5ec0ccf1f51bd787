"""What a model is asked and what it answers: a question has all that decides the answer, and what the scorer needs.

:mod:`gateau.evaluation.benchmarks.catalogue` turns assets into questions, :mod:`gateau.evaluation.answering.generation` answers them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gateau.errors import DataError


@dataclass(frozen=True)
class Question:
    """One conversation that is asked for: ``users`` are the messages of its user, each asked after the answer before.

    ``wrapped`` questions go through the model's chat format; the others are continued as they are (few-shot and code).
    ``stop_at_newline`` ends the answer at its first line, which must then hold at least one token. ``record`` holds the
    fields of the prediction row beside the answer; it does not decide the answer.
    """

    benchmark: str
    item: str
    users: tuple[str, ...]
    system: str | None = None
    wrapped: bool = True
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    stop_at_newline: bool = False
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of all that decides the answer, the model apart."""
        asked = {name: value for name, value in asdict(self).items() if name != "record"}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def check_items(questions: Sequence[Question]) -> None:
    """Raises DataError when there are no questions, or two of one item."""
    if not questions:
        raise DataError("no questions: the benchmark's assets are empty, or no data set of it is chosen")
    seen: set[str] = set()
    for question in questions:
        if question.item in seen:
            raise DataError(
                f"{question.benchmark}: item {question.item} is asked twice; every item needs an id of its own"
            )
        seen.add(question.item)


@dataclass(frozen=True)
class AnsweredTurn:
    """One answer and how it came about."""

    text: str
    prompt_sha256: str  # of the token ids, comma-separated
    prompt_tokens: int
    new_tokens: int
    truncated_tokens: int
    control_tokens: int
    finish_reason: str  # stop, length, or window: the model's window ended it


@dataclass(frozen=True)
class Generation:
    """A conversation: one answer for each message of the question's user."""

    benchmark: str
    item: str
    turns: tuple[AnsweredTurn, ...]
