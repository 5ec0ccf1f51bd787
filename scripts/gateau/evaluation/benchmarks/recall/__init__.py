"""Exact recall of generated notes: each question asks for another note, which is far back in a context of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from gateau.errors import DataError, SettingsError
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.benchmarks.base import Benchmark, Options
from gateau.planted import PlantedShape, planted_row

_PROMPT = "prompt.txt"


def _questions(assets: Path, options: Options, tokenizer: object) -> Iterator[Question]:
    """Yield the questions. Their random numbers differ from those of planted training rows, whatever the seeds are."""
    try:
        prompt = (assets / _PROMPT).read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise DataError(f"{assets}: no {_PROMPT} there; set evaluate.assets.source: own") from error
    rng = random.Random(f"recall {options['seed']}")
    shape = PlantedShape(min_lines=options["min_lines"], max_lines=options["max_lines"])
    for number in range(options["questions"]):
        context, question, answer = planted_row("far", rng, shape)
        yield Question(
            benchmark="recall",
            item=f"{number:05d}",
            users=(prompt.format(context=context, question=question),),
            max_new_tokens=options["max_new_tokens"],
            record={"id": f"{number:05d}", "answer": answer},
        )


def _check(options: Options) -> None:
    if options["min_lines"] > options["max_lines"]:
        raise SettingsError(
            f"evaluate.recall.min_lines is {options['min_lines']}, which is more than max_lines, {options['max_lines']}"
        )


BENCHMARK = Benchmark(
    name="recall",
    titles={"recall": "Far recall"},
    data="note recall",
    own_data="own small prompt for generated questions",
    questions=_questions,
    has_own_scores=True,
    check=_check,
    # without the middle of its context, a question may have lost its note
    cut_advice="lower evaluate.recall.max_lines",
)
