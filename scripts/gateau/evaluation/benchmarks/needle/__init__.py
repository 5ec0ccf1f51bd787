"""Needle in a haystack: a sentence hidden in long texts, scored by key phrases and, if wished, by a judge."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gateau.evaluation.answering.questions import Question
from gateau.evaluation.benchmarks.base import Benchmark, Options, PinnedFiles, PlannedTurn
from gateau.evaluation.benchmarks.needle.judge import RATING, judge_requests
from gateau.evaluation.benchmarks.needle.settings import NeedleSettings, check_keys
from gateau.evaluation.judging.ratings import Rating, first_double_brackets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ESSAYS = "needle_essays"


def _questions(assets: Path, options: Options, tokenizer: PreTrainedTokenizerBase) -> Iterable[Question]:
    from gateau.evaluation.benchmarks.needle.prompts import questions

    return questions(assets, options, tokenizer)


def _unpack(places: Mapping[str, Path], folder: Path) -> None:
    (folder / "haystack").mkdir()
    for path in places[_ESSAYS].glob("*.txt"):
        shutil.copyfile(path, folder / "haystack" / path.name)


def _planned_turns(options: Options) -> list[PlannedTurn]:
    return [
        PlannedTurn(max(length - options["reserve"], 1), length, options["max_new_tokens"])
        for length in options["lengths"]
        for _ in options["depths"]
    ]


BENCHMARK = Benchmark(
    name="needle",
    titles={"needle": "Needle in a haystack"},
    data="Needle",
    own_data="own small haystack",
    expected=("needle",),
    questions=_questions,
    pinned=PinnedFiles(
        data=lambda options: "Paul Graham's essays", files=lambda options: {}, unpacked=(_ESSAYS,), unpack=_unpack
    ),
    judge_requests=judge_requests,
    ratings={RATING: Rating(1, 10, first_double_brackets)},
    has_own_scores=True,
    score_options=("keys",),
    check=lambda options: check_keys(NeedleSettings.from_options(options), options["keys"]),
    # without its middle, a haystack may have lost its needle, and the score would be the window's, not the model's
    cut_advice="lower evaluate.needle.lengths",
    planned_turns=_planned_turns,
)
