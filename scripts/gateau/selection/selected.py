"""The selected rows, in LongAlign's format, best first, their messages untouched."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gateau.errors import ScoreError
from gateau.files import atomic_path
from gateau.schemas import SAMPLES
from gateau.tables import iterate_rows


def write_selected(samples: str | os.PathLike[str], ids: Sequence[str], output: str | os.PathLike[str]) -> pd.Series:
    """Write the rows of ``ids`` as jsonl in that order; return every sample's data set label by id.

    The rows pass through an unnamed file in the order of the table and are then fetched by offset, so that memory holds
    no more text than one row group.

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
            raise ScoreError(f"{samples}: {len(absent)} ranked samples are missing, e.g. {min(absent)}; rerun samples")
        with atomic_path(output) as temporary, temporary.open("wb") as selected:
            for row_id in ids:
                pool.seek(places[row_id])
                selected.write(pool.readline())
    return pd.Series(labels, dtype="object")


def _longalign(row: dict[str, Any]) -> str:
    given = {name: row[name] for name in ("id", "dataset", "length") if row[name] is not None}
    return json.dumps({**given, "messages": json.loads(row["messages"])}, ensure_ascii=False)
