"""What methods measure in a sample's tokens and segments: one number of each sample.

The lists of a million samples do not fit into memory. :func:`read_scores` therefore reads them in batches, and keeps
only the measures that a method needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gateau.schemas import RANKED_STATUSES, SCORES
from gateau.selection.awareness import Array, contextual_awareness_rows, far_evidence_rows
from gateau.tables import lists_of, open_table

LAYERS = {"all": "segment_attention", "second_half": "segment_attention_second_half"}
_LISTS = {field.name for field in SCORES if pa.types.is_list(field.type)}
_STRINGS = ["id", "status"]
_NUMBERS = [name for name in SCORES.names if name not in {*_LISTS, *_STRINGS}]
_TOGETHER = 16  # row groups of 1 024 samples: about 40 MB at 20 000 tokens


@dataclass(frozen=True)
class Measure:
    """A number of each sample.

    Attributes:
        name: of its column.
        columns: of :data:`gateau.schemas.SCORES` that it is computed from.
        of: function from the lists of these columns, one array for each sample, to float ``[samples]``.
    """

    name: str
    columns: tuple[str, ...]
    of: Callable[..., Array]

    @property
    def statuses(self) -> tuple[str, ...]:
        """Statuses of the samples that have it. Those that are screened out lack what the segment pass computes."""
        return ("ok",) if "segment_nll" in self.columns else RANKED_STATUSES


def awareness_measure(importance: str, layers: str) -> Measure:
    """Return CAS before orientation, in [0, 1]."""

    def of(nll: Sequence[Array], attention: Sequence[Array], weight: Sequence[Array | None]) -> Array:
        return contextual_awareness_rows(nll, attention, weight, importance)

    return Measure(f"cas {importance} {layers}", ("segment_nll", LAYERS[layers], "segment_weight"), of)


def _far_attention(segment_attention: Sequence[Array]) -> Array:
    def one(attention: Array) -> float:
        mass = np.asarray(attention, dtype=np.float64)
        mass = mass / mass.sum() if mass.sum() > 0 else mass
        distance = 1 - (np.arange(len(mass)) + 0.5) / len(mass)
        return float(mass @ distance * mass.std())

    return np.array([one(row) for row in segment_attention])


def _key_token_gain(token_nll_short: Sequence[Array], token_nll_long: Sequence[Array]) -> Array:
    def one(short: Array, long: Array) -> float:
        gain, likely = np.subtract(short, long, dtype=np.float64), np.asarray(long) < 2
        return float(np.where(likely & (gain > 2), gain, 0).mean())

    return np.array([one(short, long) for short, long in zip(token_nll_short, token_nll_long, strict=True)])


FAR_EVIDENCE = Measure("far evidence", ("segment_nll", "segment_weight"), far_evidence_rows)
FAR_ATTENTION = Measure("attention to far segments", ("segment_attention",), _far_attention)
KEY_TOKEN_GAIN = Measure("gain on key tokens", ("token_nll_short", "token_nll_long"), _key_token_gain)


def measured(scores: pd.DataFrame, measure: Measure) -> Array:
    """Return the measure of each row, float ``[rows]``; NaN for a row whose status does not have it.

    Args:
        scores: rows of :data:`gateau.schemas.SCORES`, or of :func:`read_scores` with this measure.
        measure: what to return.
    """
    if measure.name in scores:
        values: Array = scores[measure.name].to_numpy(dtype=np.float64)
        return values
    found = np.full(len(scores), np.nan)
    known = scores["status"].isin(measure.statuses).to_numpy()
    found[known] = measure.of(*(scores.loc[known, name].tolist() for name in measure.columns))
    return found


def read_scores(path: str | os.PathLike[str], measures: Iterable[Measure] = ()) -> pd.DataFrame:
    """Return the columns of a table of scores that are no lists, and a column for each measure.

    Only the columns that are needed are read, in batches. A sample whose status does not have a measure has NaN there.

    Args:
        path: scores.parquet.
        measures: what to compute.
    """
    measures = {measure.name: measure for measure in measures}.values()
    lists = sorted({name for measure in measures for name in measure.columns})
    names = [SCORES.empty_table().select(_STRINGS)]
    with open_table(path, SCORES) as file:
        # of their full length from the start, because joining batches would take the memory twice
        columns = {
            name: np.empty(file.metadata.num_rows, SCORES.field(name).type.to_pandas_dtype()) for name in _NUMBERS
        }
        columns |= {measure.name: np.full(file.metadata.num_rows, np.nan) for measure in measures}
        groups, end = range(file.num_row_groups), 0
        for start in groups[::_TOGETHER]:
            table = file.read_row_groups(
                list(groups[start : start + _TOGETHER]), columns=[*_STRINGS, *_NUMBERS, *lists]
            )
            rows, end = slice(end, end + len(table)), end + len(table)
            for name in _NUMBERS:
                columns[name][rows] = table[name].to_numpy()
            for measure in measures:
                has = pc.is_in(table["status"], value_set=pa.array(measure.statuses))
                usable = table.select(measure.columns).filter(has)
                columns[measure.name][rows][has.to_numpy()] = measure.of(
                    *(lists_of(usable[name]) for name in measure.columns)
                )
            names.append(table.select(_STRINGS))
    strings = pa.concat_tables(names).to_pandas(categories=["status"])
    return pd.DataFrame({**{name: strings[name] for name in _STRINGS}, **columns}, copy=False)
