"""What a model is asked and what it answers.

A question holds all that decides its answer, and what the scorer needs. The benchmarks make questions of their assets;
:mod:`gateau.evaluation.answering.generation` answers them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gateau.digests import settings_digest
from gateau.errors import DataError


@dataclass(frozen=True)
class Question:
    """One conversation that a model is asked to complete.

    Attributes:
        benchmark: name of the benchmark.
        item: names the question within the benchmark.
        users: messages of the user. Each is asked after the answer to the one before.
        system: the system line.
        wrapped: whether the model's chat format is used. Other questions are continued as they are (few-shot, code).
        max_new_tokens: largest number of tokens of an answer.
        temperature: of the decoding; 0 is greedy.
        seed: of the decoding.
        stop_at_newline: whether the answer ends with its first line, which then has at least one token.
        record: fields of the prediction row beside the answer. They do not decide the answer.
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
        """Digest of all that decides the answer, except the model."""
        return settings_digest({name: value for name, value in asdict(self).items() if name != "record"})


def check_items(questions: Sequence[Question]) -> None:
    """Raise DataError if there are no questions, or two of the same item."""
    if not questions:
        raise DataError("no questions: the benchmark's assets are empty, or no data set of it is chosen")
    seen: set[str] = set()
    for question in questions:
        if question.item in seen:
            raise DataError(f"{question.benchmark}: item {question.item} is asked twice; each item needs its own id")
        seen.add(question.item)


@dataclass(frozen=True)
class AnsweredTurn:
    """One answer, and how it was made.

    Attributes:
        text: the answer.
        prompt_sha256: SHA-256 of the prompt's token ids, separated by commas.
        prompt_tokens: length of the prompt in tokens.
        new_tokens: length of the answer in tokens.
        truncated_tokens: number of tokens of the question's text that were cut.
        control_tokens: number of control tokens in the texts that were broken up.
        finish_reason: ``stop``, ``length`` (``max_new_tokens`` is reached) or ``window`` (the model's window is full).
        reasoning: what the model wrote before the answer, with its marks.
    """

    text: str
    prompt_sha256: str
    prompt_tokens: int
    new_tokens: int
    truncated_tokens: int
    control_tokens: int
    finish_reason: str
    reasoning: str = ""


@dataclass(frozen=True)
class Generation:
    """The answers to a question, one for each message of its user."""

    benchmark: str
    item: str
    turns: tuple[AnsweredTurn, ...]
