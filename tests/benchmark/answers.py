"""Answers in process, in the ways that transformers offers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from gateau.chatting import choose_format
from gateau.evaluation.answering.generation import Generator, plan_batches
from gateau.evaluation.answering.prompting import Prompter
from gateau.evaluation.answering.questions import Question
from gateau.model_files import ModelSpec
from gateau.models import Runtime, config_window, load_config, load_model, load_tokenizer
from gateau.places import RESOURCES
from gateau.planted import SUBJECTS, filler_sentence

from benchmark.harness import Row, Settings, alternate

ALL_AT_ONCE = 1 << 20


class StaticCache(Generator):
    """The naive loop with a cache of a fixed size."""

    def _decoding(self, question, max_new_tokens):
        config = super()._decoding(question, max_new_tokens)
        config.cache_implementation = "static"
        return config


class PagedCache(Generator):
    """All prompts at once in the paged cache of transformers (continuous batching)."""

    def _decode(self, prompts, prefix, question, max_new_tokens):
        config = self._decoding(question, max_new_tokens)
        done = self._model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
        return [done[name].generated_tokens for name in sorted(done, key=lambda name: int(name.rpartition("_")[2]))]


OURS = "shared context, one batch"
WAYS = {  # the class, batch_tokens, and whether beginnings are shared
    "naive loop": (Generator, 1, False),
    "static cache": (StaticCache, 1, False),
    "paged cache": (PagedCache, ALL_AT_ONCE, False),
    "padded batch": (Generator, ALL_AT_ONCE, False),
    "shared context, one by one": (Generator, 1, True),
    OURS: (Generator, ALL_AT_ONCE, True),
}


def answers(settings: Settings) -> Iterator[Row]:
    """Answers to questions about one context: other ways against reading the context once, for all in one batch.

    The bound of the naive loop is to read the context once in place of once for each question. Equal answers
    are those of this way. ``--model`` and ``--context`` choose another model and length.
    """
    n_questions, n_new, context = (2, 4, 550) if settings.quick else (8, 32, settings.context)
    ways = ["naive loop", OURS] if settings.quick else list(WAYS)
    spec = ModelSpec.from_config(settings.model or str(RESOURCES / "tiny_pair/long"))
    tokenizer, config = load_tokenizer(spec), load_config(spec)
    model = load_model(spec, config, Runtime(settings.device))
    prompter = Prompter(tokenizer, choose_format("auto", spec, tokenizer), 64_000, config_window(config))
    questions = asked(tokenizer, context, n_questions, n_new)
    texts: dict[str, list[str]] = {}

    def answer(way: str) -> None:
        kind, batch_tokens, share = WAYS[way]
        generator, found = kind(model, prompter, batch_tokens, share=share), {}
        for batch in plan_batches(questions, prompter, batch_tokens, share=share):
            found.update(zip(batch, generator.answer([questions[n] for n in batch]), strict=True))
        texts[way] = [found[n].turns[0].text for n in range(n_questions)]

    taken = alternate({way: partial(answer, way) for way in ways}, settings.rounds, settings.device)
    for way in ways:
        if way != OURS:
            same = sum(one == other for one, other in zip(texts[way], texts[OURS], strict=True))
            limit = float(n_questions) if way == "naive loop" else None
            bound = f"the context is read once; {same} of {n_questions} answers equal"
            case = f"{n_questions} questions, {context} tokens"
            yield Row("answers", case, way, OURS, "s", taken[way], taken[OURS], bound, limit)


def asked(tokenizer: Any, n_tokens: int, n_questions: int, n_new: int) -> list[Question]:
    """Return questions about one context of about so many tokens."""
    rng, context = random.Random(0), ""
    while len(tokenizer(context).input_ids) < n_tokens:
        context += "".join(filler_sentence(rng) + "\n" for _ in range(8))
    # questions of different lengths, as in a benchmark
    texts = [
        f"{context}\n\n" + " ".join(filler_sentence(rng) for _ in range(number % 4)) + f" What does note {name} say?"
        for number, name in enumerate(SUBJECTS[:n_questions])
    ]
    return [Question("b", str(n), (text,), max_new_tokens=n_new) for n, text in enumerate(texts)]
