"""What a benchmark says about itself, and what benchmarks share.

The workflow reads the records of all benchmarks whenever a cluster job starts. This module and the modules that hold a
record therefore import neither numpy nor a model library; the functions of a record import what they need when called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.errors import DataError
from gateau.evaluation.answering.questions import Question, check_items
from gateau.files import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gateau.evaluation.judging.ratings import Rating
    from gateau.evaluation.judging.requests import JudgeRequest

Options = Mapping[str, Any]


def predictions_in_one_file(model: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return ``predictions.jsonl``: the record of each question with the answer as ``pred``."""
    return {"predictions.jsonl": [{**row["record"], "pred": row["turns"][0]["text"]} for row in rows]}


@dataclass(frozen=True)
class PinnedFiles:
    """The released files of a benchmark, which are fetched and verified.

    Attributes:
        data: what the released data is called in ``source.json``, given the benchmark's options.
        files: the pinned asset behind each canonical file name, given the benchmark's options.
        unpacked: further assets that ``unpack`` puts into the folder.
        unpack: writes ``unpacked`` into the folder, given the place of each asset by name.
        options: names of the options that ``data`` and ``files`` read.
    """

    data: Callable[[Options], str]
    files: Callable[[Options], Mapping[str, str]]
    unpacked: tuple[str, ...] = ()
    unpack: Callable[[Mapping[str, Path], Path], None] | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedTurn:
    """The lengths of one answer that follow from the options alone, in tokens.

    Attributes:
        least_prompt: length of the shortest prompt that there can be.
        most_prompt: length of the longest prompt that there can be.
        most_new: largest number of new tokens.
    """

    least_prompt: int
    most_prompt: int
    most_new: int


@dataclass(frozen=True)
class Benchmark:
    """All that the rest of the project knows about a benchmark.

    Attributes:
        name: as in the configuration and in the names of rules and folders; the module has the same name.
        titles: what the leaderboard calls each benchmark that its measures name, the benchmark itself among them.
        data: what tables of scores call the released items.
        own_data: what ``source.json`` calls this project's own small set.
        questions: what a model is asked, given the folder of assets, the options and the model's tokenizer. The
            tokenizer may be None unless there is ``planned_turns``.
        pinned: the released files; None where there is only an own small set.
        prediction_files: rows of each prediction file, given the model's name and its answers of all shards.
        judge_requests: what a judge is asked, given the folders of predictions and assets; None without a judge.
        ratings: how each kind of rating is read from a judge's answer, by name.
        has_own_scores: whether the benchmark has scores without a judge.
        is_rated: whether a judge rates anything under these options.
        score_options: names of options that decide scores only, so that changing them asks no model again.
        score_arguments: further arguments of its scorer, given the options.
        check: raises SettingsError for options that cannot work.
        cut_advice: what to change if a question does not fit, for a benchmark that must not cut its texts; None where
            cut texts are answered.
        known_count: number of questions of the released benchmark, if known.
        planned_turns: lengths of all answers, for a benchmark whose options give them.
        left_out_by: field of a question's record under these options, such as a length: if a question does not fit,
            all questions with the same value are left out. None if it is an error then.
        within: the options without what cannot fit into a window or into ``evaluate.generate.max_length``, both in
            tokens, for a benchmark with ``left_out_by``. Raises SettingsError if nothing is left.
        published: (measure, score, headline) of one model's published scores; None where there are none.
        parts: names of the measures whose items a measure is the mean of; each part weighs the same.
        expected: fields of a question's record that may hold the right answer, or several, for the report.
    """

    name: str
    titles: Mapping[str, str]
    data: str
    own_data: str
    questions: Callable[[Path, Options, PreTrainedTokenizerBase], Iterable[Question]]
    pinned: PinnedFiles | None = None
    prediction_files: Callable[[str, Sequence[Row]], Mapping[str, Sequence[Row]]] = predictions_in_one_file
    judge_requests: Callable[[Path, Path], list[JudgeRequest]] | None = None
    ratings: Mapping[str, Rating] = field(default_factory=dict)
    has_own_scores: bool = False
    is_rated: Callable[[Options], bool] = lambda options: True
    score_options: tuple[str, ...] = ()
    score_arguments: Callable[[Options], Sequence[str]] = lambda options: ()
    check: Callable[[Options], None] = lambda options: None
    cut_advice: str | None = None
    known_count: int | None = None
    planned_turns: Callable[[Options], list[PlannedTurn]] | None = None
    left_out_by: Callable[[Options], str | None] = lambda options: None
    within: Callable[[Options, int, int], Options] = lambda options, window, max_length: options
    published: Callable[[Any], list[tuple[str, float, bool]]] | None = None
    parts: Callable[[str], Sequence[str]] = lambda measure: (measure,)
    expected: tuple[str, ...] = ("answers", "answer")

    def ask(self, assets: str | Path, options: Options, tokenizer: PreTrainedTokenizerBase) -> list[Question]:
        """Return all questions, in order.

        Args:
            assets: the benchmark's folder of rule ``assets``.
            options: the benchmark's part of the configuration, ``evaluate.<benchmark>``.
            tokenizer: the model's. It may be None unless the benchmark has ``planned_turns``.

        Raises:
            DataError: a file of the assets is missing or cannot be used, or two questions have the same item.
            SettingsError: the options give no questions.
        """
        found = list(self.questions(Path(assets), options, tokenizer))
        check_items(found)
        return found


def predictions_file(path: str | Path, name: str = "predictions.jsonl") -> Path:
    """Return the file itself, or the one of this name in a folder.

    Raises:
        DataError: there is no such file.
    """
    path = Path(path)
    found = path / name if path.is_dir() else path
    if not found.is_file():
        raise DataError(f"{found}: no such file; generate the predictions first")
    return found
