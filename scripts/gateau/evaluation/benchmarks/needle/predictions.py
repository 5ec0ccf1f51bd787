"""Answers to the needle test, as rule ``predictions`` or other code writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateau.errors import DataError
from gateau.files import Row, number_of, read_jsonl, text_of


@dataclass(frozen=True)
class NeedlePrediction:
    """One answer: ``length`` is in tokens, ``depth`` in percent. Only a judge needs needle and question."""

    id: str
    length: int
    depth: float
    pred: str
    needle: str | None = None
    question: str | None = None


def read_predictions(path: str | Path) -> list[NeedlePrediction]:
    """Return the rows of a jsonl file.

    A row has length, depth and pred. Needle and question are optional, and so is the id unless a cell has several rows.

    Raises:
        DataError: a row cannot be used, or a cell or id appears twice. The message names the line.
    """
    predictions: dict[str, NeedlePrediction] = {}
    first: dict[str, str] = {}
    for where, row in read_jsonl(path):
        prediction = _prediction(row, where)
        if prediction.id in predictions:
            raise DataError(
                f"{where}: {prediction.id!r} is also in {first[prediction.id]}; keep one of them, or give each row "
                "its own id where a cell has several answers"
            )
        first[prediction.id] = where.rpartition(", ")[2]
        predictions[prediction.id] = prediction
    return list(predictions.values())


def _prediction(row: Row, where: str) -> NeedlePrediction:
    length, depth, pred = number_of(row, "length", where), row.get("depth"), text_of(row, "pred", where)
    if length <= 0:
        raise DataError(f"{where}: length must be a whole number of tokens above 0; found {length!r}")
    if not isinstance(depth, int | float) or isinstance(depth, bool) or not 0 <= depth <= 100:
        raise DataError(f"{where}: depth must be a number of percent from 0 to 100; found {depth!r}")
    identifier = row.get("id", f"needle-{length}-{depth:g}")
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        raise DataError(f"{where}: id must be text or a whole number; found {identifier!r}")
    needle, question = (None if row.get(name) is None else text_of(row, name, where) for name in ("needle", "question"))
    return NeedlePrediction(str(identifier), length, depth, pred, needle, question)
