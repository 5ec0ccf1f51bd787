"""Answers of a model to a benchmark's questions, in process: the same prompts as training, explicit decoding, records.

Rows are keyed by benchmark and item. What is answered is appended to the output line by line, so that a rerun answers
only the rest; each row says what was asked (a digest), what was cut, and why the answer ended.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from gateau.chatting import prompt_ids
from gateau.errors import DataError


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    ``wrapped`` questions go through the model's chat format; the others are continued as they are (few-shot and code).
    ``stop_at_newline`` ends the answer at its first line, which must then hold at least one token.
    """

    benchmark: str
    item: str
    user: str
    turns: tuple[tuple[str, str], ...] = ()
    system: str | None = None
    wrapped: bool = True
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    stop_at_newline: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the question for one model."""
        return self.benchmark, self.item


@dataclass(frozen=True)
class Generation:
    """One answer and how it came about."""

    benchmark: str
    item: str
    text: str
    prompt_sha256: str  # of the token ids, comma-separated
    prompt_tokens: int
    new_tokens: int
    truncated_tokens: int
    finish_reason: str  # stop, or length


def truncate_middle(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> tuple[str, int]:
    """``text`` of at most ``max_length`` tokens, first and last half kept, and how many tokens were cut.

    As LongBench has it: the halves are decoded separately, without control tokens, and joined by nothing; the chat
    wrap comes after.
    """
    ids = tokenizer(text, verbose=False).input_ids
    if len(ids) <= max_length:
        return text, 0
    half = max_length // 2
    parts = [str(tokenizer.decode(part, skip_special_tokens=True)) for part in (ids[:half], ids[-half:])]
    return "".join(parts), len(ids) - 2 * half


class Generator:
    """Answers questions with one model.

    Args:
        chat_format: longalign, tokenizer_template or plain, see :func:`gateau.chatting.choose_format`.
        max_length: most tokens of a question's text; longer ones lose their middle.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chat_format: str, max_length: int
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._model, self._tokenizer = model, tokenizer
        self._format, self._max_length = chat_format, max_length
        self._newline = tokenizer("\n", add_special_tokens=False).input_ids[-1]

    def prompt(self, question: Question) -> tuple[list[int], int]:
        """Token ids of a question, and how many tokens of its text were cut."""
        text, cut = truncate_middle(self._tokenizer, question.user, self._max_length)
        if not question.wrapped:
            return list(self._tokenizer(text, verbose=False).input_ids), cut
        return prompt_ids(self._format, self._tokenizer, question.turns, text, question.system), cut

    @torch.no_grad()
    def answer(self, question: Question) -> Generation:
        """One answer. Drawn tokens depend on the question's seed alone, not on what was asked before."""
        ids, cut = self.prompt(question)
        config = self._decoding(question)
        stops = set(config.eos_token_id)
        torch.manual_seed(question.seed)
        inputs = torch.tensor([ids], device=self._model.device)
        model: Any = self._model  # its generate is a mixin's, which the type checker does not find
        output = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
        new = output[0, len(ids) :].tolist()
        stopped = bool(new) and new[-1] in stops
        text = str(self._tokenizer.decode(new[:-1] if stopped else new, skip_special_tokens=True))
        return Generation(
            benchmark=question.benchmark,
            item=question.item,
            text=text,
            prompt_sha256=hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest(),
            prompt_tokens=len(ids),
            new_tokens=len(new),
            truncated_tokens=cut,
            finish_reason="stop" if stopped else "length",
        )

    def _decoding(self, question: Question) -> GenerationConfig:
        """Nothing is left to the model's own generation config but its stop tokens."""
        own = getattr(self._model.generation_config, "eos_token_id", None)
        stops = {self._tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
        if question.stop_at_newline:
            stops.add(self._newline)
        padding = self._tokenizer.pad_token_id
        return GenerationConfig(
            max_new_tokens=question.max_new_tokens,
            min_new_tokens=1 if question.stop_at_newline else None,
            do_sample=question.temperature > 0,
            temperature=question.temperature or None,
            eos_token_id=sorted(stops),
            pad_token_id=padding if padding is not None else min(stops),
        )


def read_generations(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a file of generations; a last line that a kill has cut off is not there. Raises DataError otherwise."""
    file = Path(path)
    if not file.exists():
        return []
    rows: list[dict[str, Any]] = []
    content = file.read_bytes()
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{file} line {number}: not JSON ({error}); remove the line and run again") from error
    return rows


def answer_all(
    questions: Sequence[Question],
    answer: Callable[[Question], Generation],
    path: str | os.PathLike[str],
    watch: Callable[[Iterable[Question], int], Iterator[Question]],
) -> int:
    """Answer what ``path`` does not hold yet, appending; return how many were new.

    Raises:
        DataError: two questions of one key, or a file of other questions.
    """
    keys = [question.key for question in questions]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{twice[0]}: item {twice[1]} is asked twice; every item needs an id of its own")
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = read_generations(file)
    done = {(row["benchmark"], row["item"]) for row in rows}
    if foreign := done - set(keys):
        raise DataError(f"{file} holds answers to other questions, e.g. {min(foreign)}; remove it and run again")
    _drop_torn_line(file)
    todo = [question for question in questions if question.key not in done]
    with file.open("a", encoding="utf-8") as handle:
        for question in watch(todo, len(todo)):
            handle.write(json.dumps(asdict(answer(question)), ensure_ascii=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
    return len(todo)


def _drop_torn_line(file: Path) -> None:
    if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        with file.open("rb+") as handle:
            handle.truncate(content.rfind(b"\n") + 1)
