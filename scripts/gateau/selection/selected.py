"""Which samples of a ranking are selected, and the file of the selected rows in LongAlign's format."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gateau.errors import ScoreError, SettingsError
from gateau.files import atomic_path
from gateau.schemas import RANKING, SAMPLES
from gateau.tables import iterate_rows, open_table


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
    ids = ranking[is_selectable(ranking)].sort_values("rank")["id"].tolist()
    if n_long is not None and n_long > len(ids):
        raise SettingsError(
            f"n_long is {n_long}, but only {len(ids)} of {len(ranking)} ranked samples can be selected "
            f"({int((~is_distinct(ranking)).sum())} are near duplicates, {int(ranking['held_out'].sum())} are held "
            "out); lower it or add data"
        )
    return ids[:n_long]


def write_selected(samples: str | os.PathLike[str], ids: Sequence[str], output: str | os.PathLike[str]) -> pd.Series:
    """Write the rows of ``ids`` as JSONL in that order, messages unchanged, and return all data set labels by id.

    The rows are first written to an unnamed file in the order of the table and then fetched by offset, so that memory
    never holds more text than one row group.

    Raises:
        ScoreError: an id is not in the sample table.
    """
    wanted = set(ids)
    labels: dict[str, str | None] = {}
    places: dict[str, int] = {}
    with tempfile.TemporaryFile(dir=Path(output).parent) as pool:
        for row in iterate_rows(samples, SAMPLES, ["id", "dataset", "length", "messages"]):
            labels[row["id"]] = row["dataset"]
            if row["id"] in wanted:
                places[row["id"]] = pool.tell()
                pool.write(_longalign(row).encode("utf-8") + b"\n")
        if absent := wanted - places.keys():
            raise ScoreError(
                f"{samples}: {len(absent)} ranked samples are missing, for example {min(absent)}; rerun rule samples"
            )
        with atomic_path(output) as temporary, temporary.open("wb") as selected:
            for row_id in ids:
                pool.seek(places[row_id])
                selected.write(pool.readline())
    return pd.Series(labels, dtype="object")


def _longalign(row: dict[str, Any]) -> str:
    given = {name: row[name] for name in ("id", "dataset", "length") if row[name] is not None}
    return json.dumps({**given, "messages": json.loads(row["messages"])}, ensure_ascii=False)
