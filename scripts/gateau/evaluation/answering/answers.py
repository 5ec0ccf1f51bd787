"""One shard's answers: what is stored is read, the rest is asked for, and the shard's whole result is written.

Each answered batch is one small file under a folder that is named by all that decides an answer apart from the
question: written whole or not at all, so nothing has to be repaired after ``kill -9``, and any number of jobs may share
it. A batch counts only as the whole that was planned, so that a rerun gives the very same answers.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateau.errors import DataError
from gateau.evaluation.answering.questions import AnsweredTurn, Generation, Question
from gateau.files import write_json, write_text

logger = logging.getLogger(__name__)

Answers = Callable[[Sequence[Question]], list[Generation]]
Watch = Callable[[Iterable[list[int]], int], Iterator[list[int]]]


class AnswerStore:
    """Answers of one model under one set of ``settings``, by batch."""

    def __init__(self, directory: str | Path, settings: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.directory = Path(directory) / digest[:24]
        if not (self.directory / "settings.json").exists():
            write_json(self.directory / "settings.json", dict(settings))

    def get(self, batch: Sequence[Question]) -> list[Generation] | None:
        """The answers to a batch, None when it has not been answered."""
        path = self._path(batch)
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            return [read_generation(row) for row in rows]
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError) as error:
            logger.warning("%s is damaged (%s); its questions are asked again", path, type(error).__name__)
            return None

    def put(self, batch: Sequence[Question], generations: Sequence[Generation]) -> None:
        """Keep the answers; on return they are on the disk."""
        write_json(self._path(batch), [asdict(generation) for generation in generations])

    def _path(self, batch: Sequence[Question]) -> Path:
        digest = hashlib.sha256("".join(question.digest for question in batch).encode()).hexdigest()
        return self.directory / digest[:2] / f"{digest}.json"


def read_generation(row: Mapping[str, Any]) -> Generation:
    """A generation from its JSON. Raises LookupError or TypeError for something else."""
    return Generation(row["benchmark"], row["item"], tuple(AnsweredTurn(**turn) for turn in row["turns"]))


def deal_batches(batches: Sequence[list[int]], costs: Sequence[int], shards: int) -> list[list[list[int]]]:
    """Batches of each shard: the costliest first, each to the shard that has least to do."""
    shares: list[list[list[int]]] = [[] for _ in range(shards)]
    loads = [0] * shards
    order = sorted(range(len(batches)), key=lambda number: (-sum(costs[p] for p in batches[number]), number))
    for number in order:
        shard = loads.index(min(loads))
        shares[shard].append(batches[number])
        loads[shard] += sum(costs[p] for p in batches[number])
    return shares


def answer_shard(
    questions: Sequence[Question],
    batches: Sequence[list[int]],
    store: AnswerStore,
    load: Callable[[], Answers],
    watch: Watch,
) -> dict[int, Generation]:
    """Answers by position. ``load`` is called only when something is missing."""
    done: dict[int, Generation] = {}
    missing = []
    for batch in batches:
        stored = store.get([questions[position] for position in batch])
        if stored is None:
            missing.append(batch)
        else:
            done.update(zip(batch, stored, strict=True))
    logger.info(
        "%d questions in %d batches, %d answered before (%s)",
        sum(map(len, batches)), len(batches), len(done), store.directory,
    )  # fmt: skip
    if missing:
        answer = load()
        for batch in watch(missing, len(missing)):
            asked = [questions[position] for position in batch]
            generations = answer(asked)
            store.put(asked, generations)
            done.update(zip(batch, generations, strict=True))
    return done


def write_answers(path: str | Path, questions: Sequence[Question], answers: Mapping[int, Generation]) -> None:
    """A shard's rows, by position: ``number`` of ``of`` questions, benchmark, item, record, and the answered turns."""
    lines = [
        json.dumps(
            {"number": number, "of": len(questions), "record": questions[number].record, **asdict(answers[number])},
            ensure_ascii=False,
        )
        for number in sorted(answers)
    ]
    write_text(path, "".join(line + "\n" for line in lines))


def read_answers(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """All shards' rows in the questions' order. Raises DataError unless each question is there exactly once."""
    rows: dict[int, dict[str, Any]] = {}
    of: set[int] = set()
    for path in paths:
        for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            if row["number"] in rows:
                raise DataError(f"{path}: item {row['item']} is answered twice; remove the shards and run again")
            rows[row["number"]] = row
            of.add(row["of"])
    if len(of) != 1 or sorted(rows) != list(range(*of)):
        raise DataError(
            f"{len(rows)} answers where {' or '.join(map(str, sorted(of)))} questions were asked: the shards do not "
            "belong together; remove them and run again"
        )
    return [rows[number] for number in sorted(rows)]


def summarise(answers: Iterable[Generation]) -> dict[str, int]:
    """What a reader of the log should know: how answers ended and what of the questions was lost."""
    counts: dict[str, int] = {}
    for turn in (turn for answer in answers for turn in answer.turns):
        for name, hit in (
            ("turns", True),
            (f"ended by {turn.finish_reason}", True),
            ("with a cut text", turn.truncated_tokens > 0),
            ("with broken-up control tokens", turn.control_tokens > 0),
            ("empty", not turn.text.strip()),
        ):
            if hit:
                counts[name] = counts.get(name, 0) + 1
    return counts
