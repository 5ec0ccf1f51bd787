"""How long rows are in tokens: from the tables of a run if they exist, else from the bytes of the raw texts.

The number of bytes per token is measured with the tokenizer on a random sample of the rows, or assumed if there is no
tokenizer. Single rows differ from this ratio, but the sum over many rows differs little. The bounds are two standard
errors of the ratio.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateau.schemas import INDEX, MIXTURE, TOKENS
from gateau.tables import open_table

_SAMPLED_ROWS, _SAMPLED_CHARACTERS = 48, 1 << 16
_LEAST_ERROR = 0.01
_SCORED = ("ok", "no_context")

Row = TypeVar("Row")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Bounds:
    """A quantity: its most likely value, and values that it will hardly fall below or exceed."""

    low: float
    likely: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Bounds:
        """Return bounds that are all the same value."""
        return cls(value, value, value)

    @classmethod
    def around(cls, low: float, likely: float, high: float) -> Bounds:
        """Return bounds in order. If over-long rows are dropped, the longest rows need not make the largest sum."""
        return cls(min(low, likely, high), likely, max(low, likely, high))

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.low + other.low, self.likely + other.likely, self.high + other.high)


# "low" gives the fewest tokens; the range covers Chinese and English text under vocabularies of 32 000
ASSUMED_BYTES_PER_TOKEN = Bounds(4.5, 3.7, 2.5)


@dataclass(frozen=True)
class BoundedRows(Generic[Row]):
    """Rows as they most likely are, and as short and as long as they can be."""

    low: Sequence[Row]
    likely: Sequence[Row]
    high: Sequence[Row]

    @classmethod
    def exact(cls, rows: Sequence[Row]) -> BoundedRows[Row]:
        """Return rows whose lengths are known."""
        return cls(rows, rows, rows)

    def each(self, change: Callable[[Sequence[Row]], Sequence[Other]]) -> BoundedRows[Other]:
        """Return the rows after ``change``, which is applied to each of the three lists."""
        if self.low is self.likely is self.high:
            return BoundedRows.exact(change(self.likely))
        return BoundedRows(change(self.low), change(self.likely), change(self.high))

    def __add__(self, other: BoundedRows[Row]) -> BoundedRows[Row]:
        return BoundedRows([*self.low, *other.low], [*self.likely, *other.likely], [*self.high, *other.high])

    def total(self, value: Callable[[Row], float], start: float = 0.0) -> Bounds:
        """Return bounds of the sum of ``value`` over all rows, plus ``start``."""
        if self.low is self.likely is self.high:
            return Bounds.exact(sum(map(value, self.likely)) + start)
        return Bounds.around(*(sum(map(value, rows)) + start for rows in (self.low, self.likely, self.high)))


@dataclass(frozen=True)
class SampleLength:
    """Tokens of one long sample as it is scored.

    ``frame`` is everything but the context, the response included. ``truncated`` context tokens were cut before
    scoring. ``scored`` is False if the lengths alone forbid scoring.
    """

    context: int
    frame: int
    response: int
    truncated: int = 0
    scored: bool = True

    @property
    def total(self) -> int:
        """Tokens of the whole scored sequence."""
        return self.context + self.frame


@dataclass(frozen=True)
class TrainingRow:
    """Tokens of one training row, and how many of them are targets."""

    tokens: int
    targets: int


@dataclass
class SourceBytes:
    """UTF-8 bytes of all rows of a source as (context, frame, response), and the texts of a random few.

    ``frame`` is everything but the context, the response included. Short chats have no context.
    """

    rows: list[tuple[int, int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str]]) -> SourceBytes:
        """Count rows of texts (context, all but context and response, response). One row is held at a time."""
        found, draw = cls(), random.Random(0)
        for number, (context, frame, response) in enumerate(rows):
            n_response = len(response.encode())
            found.rows.append((len(context.encode()), len(frame.encode()) + n_response, n_response))
            place = number if number < _SAMPLED_ROWS else draw.randrange(number + 1)
            if place < _SAMPLED_ROWS:
                found.texts[place : place + 1] = [(context + frame + response)[:_SAMPLED_CHARACTERS]]
        return found

    def bytes_per_token(self, count_tokens: Callable[[list[str]], list[int]] | None) -> Bounds:
        """Return the ratio measured on the sampled texts, or an assumed one without a tokenizer.

        ``low`` is the bound with the fewest tokens.
        """
        tokens = count_tokens(self.texts) if count_tokens and self.texts else []
        if not sum(tokens):
            return ASSUMED_BYTES_PER_TOKEN
        sizes = [len(text.encode()) for text in self.texts]
        ratio = sum(sizes) / sum(tokens)
        n, whole = len(tokens), len(self.rows)
        squares = sum((size - ratio * count) ** 2 for size, count in zip(sizes, tokens, strict=True))
        unseen = 1 - n / whole if whole > n else 0.0
        error = math.sqrt(squares * unseen / max(n * (n - 1), 1)) / (sum(sizes) / n)
        share = max(2 * error, _LEAST_ERROR)
        return Bounds(ratio * (1 + share), ratio, ratio * max(1 - share, 0.1))

    def samples(self, ratio: Bounds, max_length: int) -> BoundedRows[SampleLength]:
        """Return lengths of long samples, cut or left out at ``max_length`` tokens as rule index does."""

        def sample(row: tuple[int, int, int], each: float) -> SampleLength:
            response = max(round(row[2] / each), 1)
            frame, context = max(round(row[1] / each), response + 1), round(row[0] / each)
            kept = min(context, max(max_length - frame, 0))
            return SampleLength(
                kept, frame, response, context - kept, frame <= max_length and (kept > 0 or not context)
            )

        return BoundedRows(
            *([sample(row, each) for row in self.rows] for each in (ratio.low, ratio.likely, ratio.high))
        )

    def sequences(self, ratio: Bounds) -> BoundedRows[TrainingRow]:
        """Return training rows, with one token for the start and one for the end."""

        def sequence(row: tuple[int, int, int], each: float) -> TrainingRow:
            return TrainingRow(round((row[0] + row[1]) / each) + 2, round(row[2] / each) + 1)

        return BoundedRows(
            *([sequence(row, each) for row in self.rows] for each in (ratio.low, ratio.likely, ratio.high))
        )


def lengths_of_index(path: str | os.PathLike[str]) -> list[SampleLength]:
    """Return exact lengths from ``index.parquet``. Raises TableError for another file."""
    columns = ["status", "n_context", "n_response", "n_tokens", "truncated_tokens"]
    with open_table(path, INDEX) as file:
        table = file.read(columns).to_pydict()
    return [
        SampleLength(context, tokens - context, response, truncated, status in _SCORED)
        for status, context, response, tokens, truncated in zip(*(table[name] for name in columns), strict=True)
    ]


def sequences_of_samples(samples: Iterable[SampleLength]) -> list[TrainingRow]:
    """Return training rows of long samples: uncut, in a frame of about the same length, with an end token."""
    return [TrainingRow(one.total + one.truncated, one.response + 1) for one in samples]


def sequences_of_tokens(path: str | os.PathLike[str]) -> list[TrainingRow]:
    """Return exact training rows from a token table. Raises TableError for another file."""
    with open_table(path, TOKENS) as file:
        table = file.read(["n_tokens", "n_targets"]).to_pydict()
    return [TrainingRow(*pair) for pair in zip(table["n_tokens"], table["n_targets"], strict=True)]


def sequences_of_mixture(path: str | os.PathLike[str]) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Return the exact rows that an experiment trains on, and its held-out rows, each in the mixture's order."""
    with open_table(path, MIXTURE) as file:
        table = file.read(["split", "n_tokens", "n_targets"]).to_pydict()
    parts: tuple[list[TrainingRow], list[TrainingRow]] = ([], [])
    for split, tokens, targets in zip(table["split"], table["n_tokens"], table["n_targets"], strict=True):
        parts[split != "train"].append(TrainingRow(tokens, targets))
    return parts


def fitted(rows: Iterable[TrainingRow], max_length: int, over_long: str) -> list[TrainingRow]:
    """Return rows as rule tokens leaves them: over-long rows are cut, or dropped (``drop``, ``error``)."""
    kept = [one for one in rows if one.tokens <= max_length or over_long.startswith("truncate")]
    return [TrainingRow(min(one.tokens, max_length), min(one.targets, max_length)) for one in kept]


def spread(rows: Sequence[TrainingRow], count: int) -> list[TrainingRow]:
    """Return ``count`` rows whose lengths are distributed like those of all: every k-th by length; at most all."""
    ordered = sorted(rows, key=lambda one: one.tokens)
    if count >= len(ordered):
        return ordered
    return [ordered[int((number + 0.5) * len(ordered) / count)] for number in range(count)]


def extremes(rows: Sequence[TrainingRow], count: int) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Return the ``count`` shortest and the ``count`` longest rows, the bounds of an unknown selection."""
    ordered = sorted(rows, key=lambda one: one.tokens)
    return ordered[:count], ordered[max(len(ordered) - count, 0) :]
