"""One shard's answers: stored ones are read, missing ones are generated, and the shard's whole result is written.

Each answered batch is a small file. Its folder is named by a digest of all settings that decide an answer. A file is
written whole or not at all, so nothing has to be repaired after ``kill -9``, and many jobs can share the folder. A
batch is stored under exactly the questions that were planned together, so a rerun gives identical answers.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateau.digests import settings_digest
from gateau.errors import DataError
from gateau.evaluation.answering.questions import AnsweredTurn, Generation, Question
from gateau.files import Row, read_jsonl, write_json, write_jsonl

logger = logging.getLogger(__name__)

Answers = Callable[[Sequence[Question]], list[Generation]]
Watch = Callable[[Iterable[list[int]], int], Iterator[list[int]]]


class AnswerStore:
    """Answers of one model under one set of settings, by batch.

    Args:
        directory: folder of all stores.
        settings: all that decides an answer, except the questions; a JSON-ready mapping.
    """

    def __init__(self, directory: str | Path, settings: Mapping[str, Any]) -> None:
        self.directory = Path(directory) / settings_digest(settings, length=24)
        if not (self.directory / "settings.json").exists():
            write_json(self.directory / "settings.json", dict(settings))

    def get(self, batch: Sequence[Question]) -> list[Generation] | None:
        """Return the answers to a batch, or None if they are not stored."""
        path = self._path(batch)
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            return [read_generation(row) for row in rows]
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError) as error:
            logger.warning("%s is damaged (%s); its questions are answered again", path, type(error).__name__)
            return None

    def put(self, batch: Sequence[Question], generations: Sequence[Generation]) -> None:
        """Store the answers to a batch. When this returns, they are on the disk."""
        write_json(self._path(batch), [asdict(generation) for generation in generations])

    def _path(self, batch: Sequence[Question]) -> Path:
        digest = hashlib.sha256("".join(question.digest for question in batch).encode()).hexdigest()
        return self.directory / digest[:2] / f"{digest}.json"


def read_generation(row: Mapping[str, Any]) -> Generation:
    """Return a generation from its JSON. Raises LookupError or TypeError for anything else."""
    return Generation(row["benchmark"], row["item"], tuple(AnsweredTurn(**turn) for turn in row["turns"]))


def deal_batches(batches: Sequence[list[int]], costs: Sequence[int], shards: int) -> list[list[list[int]]]:
    """Return the batches of each shard. The costliest batches go first, each to the shard with the least work so far.

    Args:
        batches: positions of the questions of each batch.
        costs: relative cost of each question.
        shards: number of shards.
    """
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
    """Return a shard's answers by the position of their question.

    Args:
        questions: all questions of the benchmark.
        batches: positions of the questions of each batch of this shard.
        store: where answers are stored.
        load: returns the function that answers a batch. It loads the model, so it is called only if some are missing.
        watch: yields the missing batches, whose number it is given, and reports progress.
    """
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
            generations = store.get(asked)  # another job may have answered them by now
            if generations is None:
                generations = answer(asked)
                store.put(asked, generations)
            done.update(zip(batch, generations, strict=True))
    return done


def write_answers(path: str | Path, questions: Sequence[Question], answers: Mapping[int, Generation]) -> None:
    """Write a shard's answers, one line each.

    A line holds the position of the question (``number``), the number of all questions (``of``), and benchmark, item,
    record and answered turns.
    """
    rows = (
        {"number": number, "of": len(questions), "record": questions[number].record, **asdict(answers[number])}
        for number in sorted(answers)
    )
    write_jsonl(path, rows)


def read_answers(paths: Iterable[str | Path]) -> list[Row]:
    """Return the rows of all shards in the questions' order.

    Raises:
        DataError: a question has no answer or several answers.
    """
    rows: dict[int, Row] = {}
    of: set[int] = set()
    for path in paths:
        # with more shards than batches, some shards have no answers
        for _, row in read_jsonl(path) if Path(path).stat().st_size else ():
            if row["number"] in rows:
                raise DataError(f"{path}: item {row['item']} is answered twice; remove the shards and run again")
            rows[row["number"]] = row
            of.add(row["of"])
    if len(of) != 1 or sorted(rows) != list(range(*of)):
        raise DataError(
            f"{len(rows)} answers were found, but {' or '.join(map(str, sorted(of)))} questions were asked. The shards "
            "do not belong together; remove them and run again"
        )
    return [rows[number] for number in sorted(rows)]


def summarise(answers: Iterable[Generation]) -> dict[str, int]:
    """Return counts for the log: how answers ended, and in how many turns a text was cut or changed."""
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
