"""All answers of all models as rows of one table, with digests of their prompts and, where known, their scores."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gateau.evaluation.results.measures import read_measures
from gateau.files import Row

Files = Mapping[str, Mapping[str, Sequence[str]]]
_TURN = (
    "prompt_sha256", "prompt_tokens", "truncated_tokens", "control_tokens", "reasoning", "new_tokens", "finish_reason",
)  # fmt: skip


def answer_rows(answers: Files, scores: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """Yield one row of :data:`gateau.schemas.ANSWERS` for each answered turn, in the order of the questions.

    One answer is in memory at a time, and the scores of one model on one benchmark. The scores of an item with several
    turns are those of the items ``<item>-<turn>``.

    Args:
        answers: files of rule ``generate``, by model and benchmark.
        scores: folders of a model's scorers, which hold ``scores.json`` and ``items.jsonl``, by model.
    """
    for model, of_model in answers.items():
        folders = {Path(folder).parent.name.removeprefix("score_"): Path(folder) for folder in scores.get(model, ())}
        for benchmark, paths in of_model.items():
            folder = folders.get(benchmark)
            known = _scores(folder) if folder else {}
            for row in heapq.merge(*map(_lines, paths), key=lambda row: row["number"]):
                for number, turn in enumerate(row["turns"], start=1):
                    item = f"{row['item']}-{number}" if len(row["turns"]) > 1 else row["item"]
                    yield {
                        "model": model,
                        "benchmark": benchmark,
                        "item": row["item"],
                        "turn": number,
                        "answer": turn["text"],
                        "record": json.dumps(row["record"], ensure_ascii=False, sort_keys=True),
                        **{name: turn[name] for name in _TURN},
                        **dict.fromkeys(("score", "protocol", "rating", "judge")),
                        **known.get(item, {}),
                    }


def _scores(folder: Path) -> dict[str, Row]:
    """Return the columns of the scores that are known, by item."""
    judge_of = {measure.protocol: measure.judge for measure in read_measures(folder / "scores.json")}
    found: dict[str, Row] = {}
    for row in _lines(folder / "items.jsonl"):
        protocol, score = row["protocol"], row["score"]
        judge = judge_of[protocol]
        columns = {"rating": score, "judge": judge} if judge else {"score": score, "protocol": protocol}
        found.setdefault(row["item"], {}).update(columns)
    return found


def _lines(path: str | Path) -> Iterator[Row]:
    with Path(path).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
