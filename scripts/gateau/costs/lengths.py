"""How long rows are in tokens: from the tables of a run if they exist, else estimated from the raw texts.

The estimate divides the bytes of each row by one number of bytes per token. This number is measured with the tokenizer
on a random sample of the rows, or assumed if there is no tokenizer. Single rows differ from it, but the sum over many
rows differs little.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateau.experiments import Configuration
from gateau.prompts import PromptTemplate

ASSUMED_BYTES_PER_TOKEN = 3.7  # between Chinese and English text under vocabularies of 32 000
_SAMPLED_ROWS, _SAMPLED_CHARACTERS = 48, 1 << 16
_SCORED = ("ok", "no_context")
_PARTS = ("context", "instruction", "response")


@dataclass(frozen=True)
class SampleLength:
    """Tokens of one long sample as it is scored.

    ``frame`` is everything but the context, the response included. ``truncated`` context tokens were cut before
    scoring.
    """

    context: int
    frame: int
    response: int
    truncated: int = 0

    @property
    def total(self) -> int:
        """Tokens of the whole scored sequence."""
        return self.context + self.frame


@dataclass(frozen=True)
class TrainingRow:
    """Tokens of one training row, and how many of them are targets."""

    tokens: int
    targets: int


def lengths_of_index(path: str | os.PathLike[str]) -> list[SampleLength]:
    """Return the lengths of all samples that are scored, from ``index.parquet``."""
    columns = ["status", "n_context", "n_response", "n_tokens", "truncated_tokens"]
    return [
        SampleLength(context, tokens - context, response, truncated)
        for status, context, response, tokens, truncated in _rows(path, "INDEX", columns)
        if status in _SCORED
    ]


def rows_of_tokens(path: str | os.PathLike[str]) -> list[TrainingRow]:
    """Return the training rows of a token table."""
    return [TrainingRow(*row) for row in _rows(path, "TOKENS", ["n_tokens", "n_targets"])]


def rows_of_mixture(path: str | os.PathLike[str]) -> list[TrainingRow]:
    """Return the rows that an experiment trains on, without those that are held out."""
    rows = _rows(path, "MIXTURE", ["split", "n_tokens", "n_targets"])
    return [TrainingRow(tokens, targets) for split, tokens, targets in rows if split == "train"]


def _rows(path: str | os.PathLike[str], schema: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Return some columns of a table, row by row. pyarrow is imported only here, so that help texts come at once."""
    from gateau import schemas
    from gateau.tables import open_table

    with open_table(path, getattr(schemas, schema)) as file:
        table = file.read(columns).to_pydict()
    return zip(*(table[name] for name in columns), strict=True)


def rows_of_samples(samples: Iterable[SampleLength]) -> list[TrainingRow]:
    """Return training rows of long samples: uncut, in a frame of about the same length, with an end token."""
    return [TrainingRow(one.total + one.truncated, one.response + 1) for one in samples]


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


@dataclass
class RawRows:
    """UTF-8 bytes of all rows of a source that can be used, and the texts of a random few.

    Attributes:
        sizes: bytes of each row as (context, frame, response); the frame is everything but the context.
        texts: the beginnings of a few rows.
        ids: of all rows, in the order of ``sizes``.
        n_read: rows that were read, also those that cannot be used.
        prompt: bytes of each frame that are not the row's own.
    """

    sizes: list[tuple[int, int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    n_read: int = 0
    prompt: int = 0

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str, str]], prompt: str = "") -> RawRows:
        """Count rows of texts: id, context, frame without the response, response. One row is held at a time.

        Args:
            rows: the texts.
            prompt: what each frame has in addition.
        """
        found, draw = cls(prompt=len(prompt.encode())), random.Random(0)
        for number, (row_id, context, frame, response) in enumerate(rows):
            n_response, frame = len(response.encode()), prompt + frame
            found.ids.append(row_id)
            found.sizes.append((len(context.encode()), len(frame.encode()) + n_response, n_response))
            place = number if number < _SAMPLED_ROWS else draw.randrange(number + 1)
            if place < _SAMPLED_ROWS:
                found.texts[place : place + 1] = [(context + frame + response)[:_SAMPLED_CHARACTERS]]
        return found

    @classmethod
    def read(cls, configuration: Configuration, source: str) -> RawRows:
        """Read the rows of ``long`` or ``short`` that can be used. Raises DataError for unusable files.

        Rows that are left out by their tokens or by a draw are among them, see :meth:`kept`.
        """
        from gateau.data.chats import short_intake
        from gateau.data.readers import Rejection
        from gateau.data.samples import long_intake

        keeps_duplicates = configuration.config["data"]["duplicate_content"] == "keep"
        make = long_intake if source == "long" else short_intake
        intake = make(configuration.intake_options(source), keeps_duplicates)
        read = intake.read_files(configuration.raw_files(source))
        rows = (row for row in read if not isinstance(row, Rejection))
        if source == "long":
            template = PromptTemplate.parse(configuration.config["scoring"]["prompt"])
            prompt = template.head + template.before_instruction + template.after_instruction
            found = cls.of(((one["id"], *(one[part] for part in _PARTS)) for one in rows), prompt)
        else:
            found = cls.of(_chats(rows))
        found.n_read = intake.n_rows
        return found

    def kept(self, ratio: float, options: Mapping[str, Any]) -> RawRows:
        """Return the rows that ``min_tokens``, ``max_tokens`` and then ``limit`` keep, by their estimated tokens.

        Args:
            ratio: bytes of a token.
            options: as :meth:`gateau.experiments.Configuration.intake_options` has them.

        Raises:
            DataError: there are fewer rows than the limit.
        """
        from gateau.data.limits import drawn_places

        least, most = (options.get(name) for name in ("min_tokens", "max_tokens"))
        tokens = [(context + frame - self.prompt) / ratio for context, frame, _ in self.sizes]
        places = [
            place for place, own in enumerate(tokens)
            if (least is None or own >= least) and (most is None or own <= most)
        ]  # fmt: skip
        if options.get("limit") is not None:
            about = "" if least is None and most is None else "about "
            available = f"{about}{len(places)} of the {self.n_read} rows of data.long can be used"
            places = [places[one] for one in drawn_places([self.ids[place] for place in places], options, available)]
        return replace(self, sizes=[self.sizes[one] for one in places], ids=[self.ids[one] for one in places])

    def bytes_per_token(self, count_tokens: Callable[[list[str]], list[int]] | None) -> float:
        """Return the ratio measured on the sampled texts, or an assumed one without a tokenizer."""
        tokens = sum(count_tokens(self.texts)) if count_tokens and self.texts else 0
        return sum(len(text.encode()) for text in self.texts) / tokens if tokens else ASSUMED_BYTES_PER_TOKEN

    def samples(self, ratio: float, max_length: int) -> list[SampleLength]:
        """Return the lengths of long samples, cut or left out at ``max_length`` tokens as rule index does."""
        found = []
        for context_bytes, frame_bytes, response_bytes in self.sizes:
            response = max(round(response_bytes / ratio), 1)
            frame, context = max(round(frame_bytes / ratio), response + 1), round(context_bytes / ratio)
            kept = min(context, max_length - frame)
            if kept > 0 or (kept == 0 and not context):
                found.append(SampleLength(kept, frame, response, context - kept))
        return found

    def training_rows(self, ratio: float) -> list[TrainingRow]:
        """Return training rows, with one token for the start and one for the end."""
        return [
            TrainingRow(round((context + frame) / ratio) + 2, round(response / ratio) + 1)
            for context, frame, response in self.sizes
        ]


def _chats(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    for row in rows:
        messages = json.loads(row["messages"])
        asked = [f"[INST]{one['content']}[/INST]" for one in messages if one["role"] != "assistant"]
        answers = [one["content"] for one in messages if one["role"] == "assistant"]
        yield row["id"], "", "\n\n".join(asked), "\n\n".join(answers)
