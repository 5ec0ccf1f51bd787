"""Which samples of a ranking are selected, and the file of the selected rows in LongAlign's format."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gateau.errors import SettingsError
from gateau.files import write_jsonl
from gateau.schemas import RANKING, SAMPLES
from gateau.tables import open_table, rows_in_order


def is_distinct(ranking: pd.DataFrame) -> pd.Series:
    """Return for each row of a ranking whether it does not nearly repeat a better ranked one."""
    return ranking["duplicate_of"].isna()


def is_selectable(ranking: pd.DataFrame) -> pd.Series:
    """Return for each row of a ranking whether it may be selected: neither a near duplicate nor held out."""
    return is_distinct(ranking) & ~ranking["held_out"]


def distinct_ids(ranking: pd.DataFrame) -> list[str]:
    """Return the ids that are not near duplicates, best first.

    Args:
        ranking: columns id, rank and duplicate_of, in any order of rows.
    """
    return ranking[is_distinct(ranking)].sort_values("rank")["id"].tolist()


def read_distinct_ids(path: str | os.PathLike[str]) -> list[str]:
    """Return :func:`distinct_ids` of a ranking.parquet, of which only the needed columns are read."""
    with open_table(path, RANKING) as file:
        return distinct_ids(file.read(columns=["id", "rank", "duplicate_of"]).to_pandas())


def selected_ids(ranking: pd.DataFrame, n_long: int | None) -> list[str]:
    """Return the ids that an experiment selects, best first. Rules selection and mixture both ask this function.

    Args:
        ranking: columns id, rank, duplicate_of and held_out, in any order of rows.
        n_long: how many; None takes all that may be selected.

    Raises:
        SettingsError: ``n_long`` is larger than the number of samples that can be selected.
    """
    selectable = ranking.loc[is_selectable(ranking), ["id", "rank"]]
    ids = selectable if selectable["rank"].is_monotonic_increasing else selectable.sort_values("rank")
    if n_long is not None and n_long > len(ids):
        raise SettingsError(
            f"n_long is {n_long}, but only {len(ids)} of {len(ranking)} ranked samples can be selected "
            f"({int((~is_distinct(ranking)).sum())} are near duplicates, {int(ranking['held_out'].sum())} are held "
            "out); lower it or add data"
        )
    chosen: list[str] = ids["id"].iloc[:n_long].tolist()
    return chosen


def write_selected(samples: str | os.PathLike[str], ids: Sequence[str], output: str | os.PathLike[str]) -> None:
    """Write the rows of ``ids`` as JSONL in that order, messages unchanged.

    Raises:
        TableError: an id is not in the sample table.
    """
    rows = rows_in_order(samples, SAMPLES, ["id", "dataset", "length", "messages"], ids, Path(output).parent)
    write_jsonl(output, map(_longalign, rows))


def _longalign(row: dict[str, Any]) -> dict[str, Any]:
    given = {name: row[name] for name in ("id", "dataset", "length") if row[name] is not None}
    return {**given, "messages": json.loads(row["messages"])}
