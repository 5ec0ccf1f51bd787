"""Which segments of a sample the segment pass reads, if it does not read all: the most attended ones, and drawn ones.

The attention from the long pass says where the response looks. The drawn segments stand for all others, so that medians
and sums over all segments can be estimated. They lie at even distances in the context. Where the first one lies follows
from the content of the sample, so that the choice depends neither on shards nor on other samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from gateau.attention_profiles import Array, segment_means
from gateau.digests import meaning_digest, settings_digest
from gateau.schemas import LONG_RESULT, SCREEN, SCREENED_OUT, shard_schema
from gateau.tables import lists_of, open_table

if TYPE_CHECKING:
    from gateau.scoring.shards import SampleReader

Row = dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """The segments of one sample.

    Attributes:
        weights: how many segments each one stands for, 0 for one that is not read.
        about: a digest of how they were chosen, for the key of stored results.
    """

    weights: tuple[float, ...]
    about: str


@dataclass(frozen=True)
class Choice:
    """How segments are chosen.

    Attributes:
        attended: share of the segments that are read because of their attention.
        drawn: share of the segments that are drawn from the others, at least one.
        segment_length: tokens of a segment.
        attention_block: tokens of a block of stored attention.
    """

    attended: float
    drawn: float
    segment_length: int
    attention_block: int

    @cached_property
    def about(self) -> str:
        """Return a digest of the settings and of this module."""
        return settings_digest({**asdict(self), "code": meaning_digest([Path(__file__)])}, 16)

    def of(self, blocks: Array, peak: float, n_context: int, digest: str) -> Chosen:
        """Return the segments of a sample, by its stored attention and the digest of its content."""
        attention = segment_means(blocks, peak, n_context, self.attention_block, self.segment_length)
        return Chosen(tuple(self.weights(attention, int(digest[:13], 16) / 16**13).tolist()), self.about)

    def weights(self, attention: Array, place: float) -> Array:
        """Return how many segments each one stands for, float ``[segments]``, 0 for one that is not read.

        Args:
            attention: of each segment, float ``[segments]``.
            place: of the first drawn segment among those that it stands for, in [0, 1).
        """
        count = len(attention)
        order = np.argsort(-attention, kind="stable")
        attended = round(self.attended * count)
        others = np.sort(order[attended:])
        weights = np.zeros(count)
        weights[order[:attended]] = 1.0
        if len(others):
            drawn = min(max(round(self.drawn * count), 1), len(others))
            weights[others[((np.arange(drawn) + place) * len(others) / drawn).astype(int)]] = len(others) / drawn
        return weights


@dataclass(frozen=True)
class Screen:
    """Which samples of a shard the segment pass reads in part, or not at all.

    Attributes:
        admitted: screen.parquet of rule screen, which names the samples that are read as a whole.
        long: the shard's file of the long pass, if the others are read in part.
        choice: how the segments of the others are chosen; None leaves these samples out.
    """

    admitted: str
    long: str | None = None
    choice: Choice | None = None

    def apply(self, index: list[Row], samples: SampleReader) -> list[Row]:
        """Return a shard's rows of the index, with what becomes of samples that are not read as a whole.

        Without a choice, their status is ``screened_out``. With a choice, ``chosen`` holds a :class:`Chosen`.
        """
        with open_table(self.admitted, SCREEN) as file:
            table = file.read(columns=["id", "admitted"])
        others = set(table.filter(pc.invert(table["admitted"]))["id"].to_pylist())
        rows = {row["id"]: row for row in index if row["id"] in others}
        if self.choice is None or self.long is None:
            return [{**row, "status": SCREENED_OUT} if row["id"] in rows else row for row in index]
        digests = dict(zip(rows, samples.digests([row["row"] for row in rows.values()]), strict=True))
        found = {}
        with open_table(self.long, shard_schema(LONG_RESULT)) as file:
            for group in range(file.num_row_groups):
                part = file.read_row_group(group, columns=["id", "attention", "attention_peak"])
                columns = part["id"].to_pylist(), lists_of(part["attention"]), part["attention_peak"].to_pylist()
                for row_id, blocks, peak in zip(*columns, strict=True):
                    if row_id in rows and blocks is not None:
                        found[row_id] = self.choice.of(blocks, peak, rows[row_id]["n_context"], digests[row_id])
        return [{**row, "chosen": found[row["id"]]} if row["id"] in rows else row for row in index]
