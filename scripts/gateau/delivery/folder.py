"""The folder of a data set: rows, card, and configurations of trainers. It can be used and uploaded as it is."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gateau.delivery.card import Contents, data_card
from gateau.delivery.trainers import TEMPLATE_FILE, TrainingSettings, axolotl, dataset_info, llamafactory, trl
from gateau.errors import DataError
from gateau.files import new_folder, write_json, write_text
from gateau.schemas import CHATS, MIXED_CHATS, SAMPLES, SELECTED, SELECTED_BY_RANK
from gateau.tables import Row, rows_in_order, write_rows

LONG, SHORT = "selected.parquet", "chats.parquet"
TRAINERS = ("llamafactory.yaml", "axolotl.yaml", "trl.py")
_LONG_ROWS, _SHORT_ROWS = 64, 1024  # in a row group: 64 rows of 64k tokens are about 16 MB


@dataclass(frozen=True)
class ChosenRows:
    """Rows of a table, in the order in which they are written.

    Attributes:
        table: samples.parquet or chats.parquet.
        ids: the chosen ones.
        ranks: rank and score by id, with NaN for a sample without a score; None if the rows have none.
    """

    table: str
    ids: Sequence[str]
    ranks: Mapping[str, tuple[int, float]] | None = None


def write_data_set(
    output: Path,
    card: Mapping[str, Any],
    long: ChosenRows,
    short: ChosenRows,
    settings: TrainingSettings,
    template: str | None,
    plot: str | None,
) -> dict[str, int]:
    """Write the folder of a data set, which appears only once it is complete. Return the number of rows by file.

    Args:
        output: the folder.
        card: the fields of :class:`Contents` that do not follow from the rows.
        long: the selected samples.
        short: the chats that are mixed with them.
        settings: for the configurations of trainers.
        template: a chat template in Jinja that takes the place of the tokenizer's own; None if it is not replaced.
        plot: distributions.png of the ranking, if there is one.

    Raises:
        DataError: there are no rows at all.
    """
    if not long.ids and not short.ids:
        raise DataError(f"experiment {card['experiment']} selects no row; raise n_long or n_short")
    labels: Counter[str] = Counter()
    files: dict[str, int] = {}
    with new_folder(output) as folder:
        if long.ids:
            schema = SELECTED if long.ranks is None else SELECTED_BY_RANK
            files[LONG] = write_rows(folder / LONG, schema, _long_rows(long, folder, labels), row_group_size=_LONG_ROWS)
        if short.ids:
            rows = _rows(short, CHATS, MIXED_CHATS.names, folder)
            files[SHORT] = write_rows(folder / SHORT, MIXED_CHATS, rows, row_group_size=_SHORT_ROWS)
        if plot:
            shutil.copyfile(plot, folder / "distributions.png")
        contents = Contents(**card, by_label=dict(sorted(labels.items())), files=files, has_plot=bool(plot))
        write_text(folder / "README.md", data_card(contents))
        names = {file: f"gateau_{file.removesuffix('.parquet')}" for file in files}
        write_json(folder / "dataset_info.json", dataset_info(names))
        if template is not None:
            write_text(folder / TEMPLATE_FILE, template)
        write_text(folder / "llamafactory.yaml", llamafactory(settings, list(names.values())))
        write_text(folder / "axolotl.yaml", axolotl(settings, list(files)))
        write_text(folder / "trl.py", trl(settings, list(files)))
    return files


def _long_rows(long: ChosenRows, folder: Path, labels: Counter[str]) -> Iterator[Row]:
    for row in _rows(long, SAMPLES, SELECTED.names, folder):
        labels[row["dataset"] or "(no label)"] += 1
        if long.ranks is not None:
            rank, score = long.ranks[row["id"]]
            row |= {"rank": rank, "score": None if math.isnan(score) else score}
        yield row


def _rows(chosen: ChosenRows, schema: pa.Schema, columns: Sequence[str], folder: Path) -> Iterator[Row]:
    for row in rows_in_order(chosen.table, schema, columns, chosen.ids, folder):
        messages = json.loads(row["messages"])
        row["messages"] = [{"role": one["role"], "content": one["content"]} for one in messages]
        yield row
