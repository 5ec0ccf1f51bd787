"""Answers of a model in process: prompts as in training, decoding with explicit settings, batches of similar lengths.

Batches are planned over all questions of a benchmark and then assigned to shards, so answers do not depend on the
number of shards. A batch holds questions with the same decoding, padded on the left to the longest prompt. Prompts that
are too long to share ``batch_tokens`` are asked alone, without padding. Questions that are sampled are asked alone too,
so that their seed always gives the same answer.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from gateau.errors import SettingsError
from gateau.evaluation.answering.prompting import Prompt, Prompter
from gateau.evaluation.answering.questions import AnsweredTurn, Generation, Question
from gateau.models import input_device
from gateau.templates import control_tokens


def prompt_sha256(ids: Sequence[int]) -> str:
    """Return the SHA-256 of a prompt's token ids, separated by commas."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()


def plan_batches(questions: Sequence[Question], prompter: Prompter, batch_tokens: int) -> list[list[int]]:
    """Return the positions of the questions of each batch, in a fixed order.

    Args:
        questions: all questions of the benchmark.
        prompter: makes the model's prompts.
        batch_tokens: largest (longest prompt + new tokens) × number of questions of a batch. A single question may
            exceed it.
    """
    groups: defaultdict[Hashable, list[tuple[int, int, int]]] = defaultdict(list)
    for position, question in enumerate(questions):
        prompt = prompter.prompt(question)
        alone = position if question.temperature > 0 else None
        decoding = (prompt.max_new_tokens, question.stop_at_newline, len(question.users), question.wrapped, alone)
        # batches do not mix data sets, so that adding one leaves the batches of the others as they are
        kind = question.item.rpartition("/")[0]
        groups[(kind, *decoding)].append((len(prompt.ids), position, prompt.max_new_tokens))
    batches: list[list[int]] = []
    for group in groups.values():
        batch: list[int] = []
        for n_tokens, position, n_new in sorted(group):
            if batch and (n_tokens + n_new) * (len(batch) + 1) > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(position)
        batches.append(batch)
    return batches


class Generator:
    """A model that answers questions.

    Args:
        model: the model, whose generation config is replaced.
        prompter: makes its prompts.
    """

    def __init__(self, model: PreTrainedModel, prompter: Prompter) -> None:
        self._model, self._prompter = model, prompter
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
        """Return the new token ids of each prompt, with the stop token, decoded with the settings of ``question``."""
        longest = max(map(len, prompts))
        config = self._decoding(question, max_new_tokens)
        inputs = torch.tensor([[config.pad_token_id] * (longest - len(ids)) + ids for ids in prompts])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
        torch.manual_seed(question.seed)
        model: Any = self._model  # its generate is a mixin's, which the type checker does not find
        device = input_device(self._model)
        try:
            output = model.generate(inputs.to(device), attention_mask=mask.to(device), generation_config=config)
        except torch.OutOfMemoryError as error:
            raise SettingsError(
                f"{question.benchmark}: {len(prompts)} prompts of up to {longest} tokens exceed the device's memory "
                f"({error}); lower evaluate.generate.batch_tokens or max_length; finished answers are kept"
            ) from error
        stops = self._stops(question)
        return [_until_stop(row, stops) for row in output[:, longest:].tolist()]

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


def _until_stop(ids: list[int], stops: set[int]) -> list[int]:
    """Return the ids up to and including the first stop token. What follows is padding."""
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in stops), ids)
