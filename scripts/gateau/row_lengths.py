"""How long rows are in tokens: from the tables of a run where there are some, else from the bytes of the raw texts.

Bytes become tokens by the bytes of one token, measured with the tokenizer on a random sample of the rows, or assumed
where no tokenizer is at hand. Single rows differ from that ratio; the sum over many does so by little, and the bounds
are two standard errors of the ratio.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from gateau.estimates import Bounds, SampleLength
from gateau.schemas import INDEX, MIXTURE, TOKENS
from gateau.tables import open_table

ASSUMED_BYTES_PER_TOKEN = Bounds(
    4.5, 3.7, 2.5
)  # low: few tokens; between Chinese and English text, of 32k vocabularies
_SAMPLED_ROWS, _SAMPLED_CHARACTERS = 48, 1 << 16
_LEAST_ERROR = 0.01
_SCORED = ("ok", "no_context")


@dataclass(frozen=True)
class TrainingRow:
    """Tokens of one training row, and those of them that are learnt."""

    tokens: int
    targets: int


@dataclass(frozen=True)
class RowBytes:
    """UTF-8 bytes of a row's parts. Short chats have no context."""

    context: int
    frame: int  # all but the context, the response included
    response: int

    @property
    def total(self) -> int:
        """Of all parts."""
        return self.context + self.frame


@dataclass
class Bytes:
    """Bytes of all rows of a source, and the texts of a random few of them."""

    rows: list[RowBytes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str]]) -> Bytes:
        """Of rows as (context, all but context and response, response). One row is held at a time."""
        found, draw = cls(), random.Random(0)
        for number, (context, frame, response) in enumerate(rows):
            n_response = len(response.encode())
            found.rows.append(RowBytes(len(context.encode()), len(frame.encode()) + n_response, n_response))
            place = number if number < _SAMPLED_ROWS else draw.randrange(number + 1)
            if place < _SAMPLED_ROWS:
                text = (context + frame + response)[:_SAMPLED_CHARACTERS]
                found.texts[place : place + 1] = [text]
        return found

    def bytes_per_token(self, count_tokens: Callable[[list[str]], list[int]] | None) -> Bounds:
        """Measured on the sampled texts, or assumed without a tokenizer. ``low`` gives the fewest tokens."""
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


@dataclass(frozen=True)
class LongLengths:
    """Lengths of all long samples, likely and at both bounds, and where they come from."""

    low: Sequence[SampleLength]
    likely: Sequence[SampleLength]
    high: Sequence[SampleLength]
    source: str
    exact: bool


def lengths_of_index(path: str | os.PathLike[str]) -> LongLengths:
    """Exact lengths from ``index.parquet``. Raises TableError when it is none."""
    columns = ["status", "n_context", "n_response", "n_tokens", "truncated_tokens"]
    with open_table(path, INDEX) as file:
        table = file.read(columns).to_pydict()
    samples = [
        SampleLength(context, tokens - context, response, truncated, status in _SCORED)
        for status, context, response, tokens, truncated in zip(*(table[name] for name in columns), strict=True)
    ]
    return LongLengths(samples, samples, samples, f"{path}, exact", True)


def lengths_of_bytes(found: Bytes, ratio: Bounds, max_length: int, source: str) -> LongLengths:
    """Lengths by bytes per token; samples are cut or left out as rule index does at ``max_length``."""

    def at(bytes_per_token: float) -> list[SampleLength]:
        return [_scored(row, bytes_per_token, max_length) for row in found.rows]

    return LongLengths(at(ratio.low), at(ratio.likely), at(ratio.high), source, False)


def _scored(row: RowBytes, bytes_per_token: float, max_length: int) -> SampleLength:
    response = max(round(row.response / bytes_per_token), 1)
    frame = max(round(row.frame / bytes_per_token), response + 1)
    context = round(row.context / bytes_per_token)
    kept = min(context, max(max_length - frame, 0))
    return SampleLength(kept, frame, response, context - kept, frame <= max_length and (kept > 0 or context == 0))


def sequences_of_samples(samples: Iterable[SampleLength]) -> list[TrainingRow]:
    """Training rows of long samples: uncut, in a frame that is about as long, with an end after the response."""
    return [TrainingRow(one.total + one.truncated, one.response + 1) for one in samples]


def sequences_of_bytes(found: Bytes, bytes_per_token: float) -> list[TrainingRow]:
    """Training rows by bytes per token, with a start and an end."""
    return [
        TrainingRow(round(row.total / bytes_per_token) + 2, round(row.response / bytes_per_token) + 1)
        for row in found.rows
    ]


def sequences_of_tokens(path: str | os.PathLike[str]) -> list[TrainingRow]:
    """Exact, from a token table."""
    with open_table(path, TOKENS) as file:
        table = file.read(["n_tokens", "n_targets"]).to_pydict()
    return [TrainingRow(*pair) for pair in zip(table["n_tokens"], table["n_targets"], strict=True)]


def sequences_of_mixture(path: str | os.PathLike[str]) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Exact: what an experiment trains on, and its held-out rows, each in the order of the mixture."""
    with open_table(path, MIXTURE) as file:
        table = file.read(["split", "n_tokens", "n_targets"]).to_pydict()
    rows = list(zip(table["split"], table["n_tokens"], table["n_targets"], strict=True))
    train = [TrainingRow(tokens, targets) for split, tokens, targets in rows if split == "train"]
    return train, [TrainingRow(tokens, targets) for split, tokens, targets in rows if split != "train"]


def fitted(sequences: Iterable[TrainingRow], max_length: int, over_long: str) -> list[TrainingRow]:
    """As rule tokens leaves them: over-long rows dropped (``drop``, ``error``) or cut."""
    rows = [one for one in sequences if one.tokens <= max_length or over_long.startswith("truncate")]
    return [TrainingRow(min(one.tokens, max_length), min(one.targets, max_length)) for one in rows]


def spread(sequences: Sequence[TrainingRow], count: int) -> list[TrainingRow]:
    """So many rows with the lengths of all: every k-th by length. All rows where there are no more."""
    ordered = sorted(sequences, key=lambda one: one.tokens)
    if count >= len(ordered):
        return ordered
    return [ordered[int((number + 0.5) * len(ordered) / count)] for number in range(count)]


def extremes(sequences: Sequence[TrainingRow], count: int) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """The shortest and the longest so many rows: what a selection that is not known yet lies between."""
    ordered = sorted(sequences, key=lambda one: one.tokens)
    return ordered[:count], ordered[max(len(ordered) - count, 0) :]
