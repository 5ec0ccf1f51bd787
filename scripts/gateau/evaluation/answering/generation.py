"""Answers of a model in process: prompts as in training, decoding with explicit settings, batches of similar lengths.

Batches are planned over all questions of a benchmark and then assigned to shards, so answers do not depend on the
number of shards. A batch holds questions with the same decoding, padded on the left to the longest prompt. Prompts that
are too long to share ``batch_tokens`` are asked alone, without padding. Questions that are sampled are asked alone too,
so that their seed always gives the same answer.

Questions whose prompts begin alike form a batch of their own, whatever its size, see
:mod:`gateau.evaluation.answering.prefixes`. Their common beginning is read once, and they are then answered in parts
that fit ``batch_tokens``. What is read once depends on the batch alone, so a rerun gives the same answers.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import GenerationConfig, PreTrainedModel

from gateau.errors import SettingsError
from gateau.evaluation.answering.prefixes import Prefix, can_share, encoded, families, shared_length
from gateau.evaluation.answering.prompting import Prompt, Prompter
from gateau.evaluation.answering.questions import AnsweredTurn, Generation, Question
from gateau.models import input_device
from gateau.templates import control_tokens

logger = logging.getLogger(__name__)

_NO_LIMIT = 1 << 62


def prompt_sha256(ids: Sequence[int]) -> str:
    """Return the SHA-256 of a prompt's token ids, separated by commas."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()


def plan_batches(
    questions: Sequence[Question], prompter: Prompter, batch_tokens: int, *, share: bool = False
) -> list[list[int]]:
    """Return the positions of the questions of each batch, in a fixed order.

    Args:
        questions: all questions of the benchmark.
        prompter: makes the model's prompts.
        batch_tokens: largest (longest prompt + new tokens) × number of questions of a batch. A single question may
            exceed it, and so may questions whose prompts begin alike.
        share: whether questions whose prompts begin alike are answered together.
    """
    groups: defaultdict[Hashable, list[tuple[int, int, int]]] = defaultdict(list)
    beginnings: dict[int, bytes] = {}
    for position, question in enumerate(questions):
        prompt = prompter.prompt(question)
        alone = position if question.temperature > 0 else None
        decoding = (prompt.max_new_tokens, question.stop_at_newline, len(question.users), question.wrapped, alone)
        # batches do not mix data sets, so that adding one leaves the batches of the others as they are
        kind = question.item.rpartition("/")[0]
        groups[(kind, *decoding)].append((len(prompt.ids), position, prompt.max_new_tokens))
        if share and alone is None:
            beginnings[position] = encoded(prompt.ids)
    batches: list[list[int]] = []
    for group in groups.values():
        together = families({position: beginnings[position] for _, position, _ in group if position in beginnings})
        batches += together
        shared = {position for family in together for position in family}
        batch: list[int] = []
        for n_tokens, position, n_new in sorted(entry for entry in group if entry[1] not in shared):
            if batch and (n_tokens + n_new) * (len(batch) + 1) > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(position)
        batches += [batch] if batch else []
    return batches


class Generator:
    """A model that answers questions.

    Args:
        model: the model, whose generation config is replaced.
        prompter: makes its prompts.
        batch_tokens: largest (longest prompt + new tokens) × number of prompts that are answered at once; None for no
            limit. If the device runs out of memory, it becomes smaller for all later batches.
        share: whether the common beginning of many prompts is read once, if the model allows it.
    """

    def __init__(
        self, model: PreTrainedModel, prompter: Prompter, batch_tokens: int | None = None, *, share: bool = False
    ) -> None:
        self._model, self._prompter = model, prompter
        self._batch_tokens = batch_tokens or _NO_LIMIT
        self._share = share and can_share(model.config)
        self._tokenizer = prompter.tokenizer
        self._control = control_tokens(self._tokenizer)
        self._newline = self._tokenizer("\n", add_special_tokens=False).input_ids[-1]
        own = getattr(model.generation_config, "eos_token_id", None)
        self._own_stops = {self._tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
        # otherwise transformers would apply the model's own defaults, such as a repetition penalty, to every decoding
        model.generation_config = GenerationConfig(eos_token_id=sorted(self._own_stops) or None)

    def answer(self, questions: Sequence[Question]) -> list[Generation]:
        """Return the answers to one batch of :func:`plan_batches`, in its order.

        Raises:
            SettingsError: the device has too little memory.
        """
        turns: list[list[tuple[str, str]]] = [[] for _ in questions]
        answered: list[list[AnsweredTurn]] = [[] for _ in questions]
        for _ in questions[0].users:
            prompts = [self._prompter.prompt(question, said) for question, said in zip(questions, turns, strict=True)]
            for number, answer in enumerate(self._answer_turn(questions, prompts)):
                answered[number].append(answer)
                turns[number].append((prompts[number].user, answer.text))
        return [
            Generation(question.benchmark, question.item, tuple(mine))
            for question, mine in zip(questions, answered, strict=True)
        ]

    def _answer_turn(self, questions: Sequence[Question], prompts: Sequence[Prompt]) -> list[AnsweredTurn]:
        """Return the answers to one turn.

        In later turns, the window may leave different room for the answers, so rows with the same room are generated
        together.
        """
        by_room: defaultdict[int, list[int]] = defaultdict(list)
        for number, prompt in enumerate(prompts):
            by_room[prompt.max_new_tokens].append(number)
        new: dict[int, list[int]] = {}
        for room, numbers in by_room.items():
            rows = (
                self._generate([prompts[n].ids for n in numbers], questions[0], room) if room else [[]] * len(numbers)
            )
            new.update(zip(numbers, rows, strict=True))
        return [
            self._turn(question, prompt, new[number])
            for number, (question, prompt) in enumerate(zip(questions, prompts, strict=True))
        ]

    def _turn(self, question: Question, prompt: Prompt, new: list[int]) -> AnsweredTurn:
        stopped = bool(new) and new[-1] in self._stops(question)
        ended = "length" if prompt.max_new_tokens == self._prompter.max_new_tokens(question) else "window"
        reasoning, text = self._read(question, prompt, new[:-1] if stopped else new)
        return AnsweredTurn(
            text=text,
            prompt_sha256=prompt_sha256(prompt.ids),
            prompt_tokens=len(prompt.ids),
            new_tokens=len(new),
            truncated_tokens=prompt.truncated_tokens,
            control_tokens=prompt.control_tokens,
            finish_reason="stop" if stopped else ended,
            reasoning=reasoning,
        )

    def _read(self, question: Question, prompt: Prompt, new: list[int]) -> tuple[str, str]:
        """Return reasoning and answer as text. Marks of the reasoning may be control tokens."""
        marks = self._prompter.reasoning(question)
        if marks is None:
            return "", str(self._tokenizer.decode(new, skip_special_tokens=True))
        reasoning, text = marks.split(self._prompter.end_of(prompt), str(self._tokenizer.decode(new)))
        for token in self._control:
            text = text.replace(token, "")
        return reasoning, text

    @torch.no_grad()
    def _generate(self, prompts: Sequence[list[int]], question: Question, max_new_tokens: int) -> list[list[int]]:
        """Return the new token ids of each prompt, with the stop token, decoded with the settings of ``question``.

        If the device runs out of memory, the prompts are answered in smaller parts; a single prompt is then read as a
        whole, without the beginning that it shares with others.
        """
        waiting = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        shared, prefix = shared_length(prompts) if self._share else 0, None
        new: dict[int, list[int]] = {}
        while waiting:
            tokens = len(prompts[waiting[0]]) + max_new_tokens
            part = waiting[: max(self._batch_tokens // tokens, 1)]
            try:
                if shared and prefix is None:
                    prefix = Prefix(self._model, self._tensor([prompts[0][:shared]])[0])
                rows = self._decode([prompts[n] for n in part], prefix, question, max_new_tokens)
                new.update(zip(part, rows, strict=True))
                del waiting[: len(part)]
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1 and not shared:
                    raise SettingsError(
                        f"{question.benchmark}: a prompt of {tokens - max_new_tokens} tokens exceeds the device's "
                        f"memory ({error}); lower evaluate.generate.max_length, or raise gpus_per_job; finished "
                        "answers are kept"
                    ) from error
            # outside the except clause, which keeps the tensors of the attempt
            prefix = None
            if len(part) > 1:
                self._batch_tokens = len(part) // 2 * tokens
                logger.warning(
                    "out of memory with %d prompts of up to %d tokens; going on with half of them at once: lower "
                    "evaluate.generate.batch_tokens to avoid the failed attempt", len(part), tokens - max_new_tokens,
                )  # fmt: skip
            else:
                shared = 0
            torch.cuda.empty_cache()
        return [new[number] for number in range(len(prompts))]

    def _decode(
        self, prompts: Sequence[list[int]], prefix: Prefix | None, question: Question, max_new_tokens: int
    ) -> list[list[int]]:
        """Return the new token ids of prompts that are answered at once. Their beginning is ``prefix``, if given."""
        longest = max(map(len, prompts))
        config = self._decoding(question, max_new_tokens)
        padding = [longest - len(ids) for ids in prompts]
        inputs = self._tensor([[config.pad_token_id] * n + ids for n, ids in zip(padding, prompts, strict=True)])
        mask = self._tensor([[0] * n + [1] * (longest - n) for n in padding])
        cached = {"past_key_values": prefix.rows(padding)} if prefix else {}
        torch.manual_seed(question.seed)
        model: Any = self._model  # its generate is a mixin's, which the type checker does not find
        output = model.generate(inputs, attention_mask=mask, generation_config=config, **cached)
        if prefix:
            prefix.restore()
        stops = self._stops(question)
        return [_until_stop(row, stops) for row in output[:, longest:].tolist()]

    def _tensor(self, rows: Sequence[list[int]]) -> torch.Tensor:
        return torch.tensor(rows, device=input_device(self._model))

    def _stops(self, question: Question) -> set[int]:
        return self._own_stops | {self._newline} if question.stop_at_newline else self._own_stops

    def _decoding(self, question: Question, max_new_tokens: int) -> GenerationConfig:
        """Return a generation config that takes only the stop tokens from the model's own."""
        stops = sorted(self._stops(question))
        sampled = {"temperature": question.temperature, "top_p": 1.0, "top_k": 0} if question.temperature > 0 else {}
        padding = self._tokenizer.pad_token_id
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            min_new_tokens=1 if question.stop_at_newline else None,
            do_sample=bool(sampled),
            eos_token_id=stops or None,
            pad_token_id=padding if padding is not None else min(stops, default=0),
            **sampled,
        )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a device, or this machine, has too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _until_stop(ids: list[int], stops: set[int]) -> list[int]:
    """Return the ids up to and including the first stop token. What follows is padding."""
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in stops), ids)
