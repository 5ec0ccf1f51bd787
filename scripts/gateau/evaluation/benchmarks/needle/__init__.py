"""Needle in a haystack: a sentence hidden in long texts, scored by key phrases and, if wished, by a judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gateau.errors import SettingsError
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.benchmarks.base import Benchmark, Options, PinnedFiles, PlannedTurn
from gateau.evaluation.benchmarks.needle.judge import RATING, judge_requests
from gateau.evaluation.benchmarks.needle.settings import (
    NeedleSettings,
    answer_room,
    check_keys,
    grid_lengths,
    leaves_out,
    needles_of,
)
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
        for _ in needles_of(options)
        for length in grid_lengths(options)
        for _ in options["depths"]
    ]


def _within(options: Options, window: int, max_length: int) -> Options:
    """Return the options without lengths whose shortest prompt is longer than the window or ``max_length``.

    Raises:
        SettingsError: no length is left.
    """
    lengths = grid_lengths(options)
    room = min(window - answer_room(options, window), max_length)
    fitting = [length for length in lengths if length - options["reserve"] <= room]
    if not fitting:
        raise SettingsError(
            f"evaluate.needle.lengths: none of {list(lengths)} fits a window of {window} tokens with an answer of "
            f"{answer_room(options, window)}; add a shorter length, as in {{auto: [250, …]}}"
        )
    return {**options, "lengths": {"auto": fitting}}


def _score_arguments(options: Options) -> list[str]:
    """Return what a right answer about each needle holds, and the lengths of which some may be left out."""
    needles = [{"needle": one["needle"], "keys": list(one["keys"])} for one in needles_of(options)]
    lengths = ["--lengths", *map(str, grid_lengths(options))] if leaves_out(options) else []
    return ["--needles", json.dumps(needles), *lengths]


def _check(options: Options) -> None:
    settings = NeedleSettings.from_options(options)
    for needle in needles_of(options):
        check_keys(settings.with_needle(needle), needle["keys"])


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
    score_arguments=_score_arguments,
    check=_check,
    # without its middle, a haystack may have lost its needle, and the score would be the window's, not the model's
    cut_advice="lower evaluate.needle.lengths, or set them to auto",
    planned_turns=_planned_turns,
    left_out_by=lambda options: "length" if leaves_out(options) else None,
    within=_within,
)
