"""Streaming readers of tables: Parquet, Arrow IPC (feather, and the files of the library datasets) and CSV.

Only the columns that hold fields are read. At most one row group of Parquet, one record batch of Arrow or one row of
CSV is in memory.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gateau.data.columns import Columns
from gateau.data.messages import InvalidRow
from gateau.errors import DataError

TABLES = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow_stream", b"FEA1": "feather_1"}
_BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError, EOFError)
_ROWS = 16  # that are Python objects at a time
_BUFFER = 1 << 20


def rows_of_table(path: str, kind: str, columns: Columns) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet or Arrow file.

    Null values inside lists of messages are left out: a table cannot tell them from absent ones.

    Args:
        path: the file.
        kind: a value of :data:`TABLES`.
        columns: which columns hold the fields.

    Raises:
        DataError: the file is damaged, or its columns make no row.
    """
    number = 0
    for batch in batches_of_table(path, kind, columns):
        for start in range(0, batch.num_rows, _ROWS):
            with _damage_explained(path, number):
                rows = batch.slice(start, _ROWS).to_pylist()
            for row in rows:
                number += 1
                yield {name: _without_nulls(value) for name, value in row.items()}


def batches_of_table(path: str, kind: str, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a Parquet or Arrow file, with the columns that hold fields.

    Raises:
        DataError: the file is damaged, or its columns make no row.
    """
    number = 0
    batches = (_parquet if kind == "parquet" else _arrow)(path, kind, columns)
    while True:
        with _damage_explained(path, number):
            batch = next(batches, None)
        if batch is None:
            break
        number += batch.num_rows
        yield batch


def schema_of_table(path: str, kind: str) -> pa.Schema:
    """Return the schema of a Parquet or Arrow file.

    Raises:
        DataError: the file is damaged.
    """
    with _damage_explained(path, 0):
        if kind == "parquet":
            return pq.read_schema(path)
        with pa.OSFile(path, "rb") as source, _open_reader(path, kind)(source) as reader:
            return reader.schema


@contextmanager
def _damage_explained(path: str, number: int) -> Iterator[None]:
    """Turn an error that damage causes into one that names the file, and the row after which it is damaged."""
    try:
        yield
    except _BROKEN as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise DataError(
            f"{path}: cannot be read after row {number} ({reason}); fetch or write the file again"
        ) from error


def _parquet(path: str, kind: str, columns: Columns) -> Iterator[pa.RecordBatch]:
    # by default, the columns of all row groups are read ahead, so that memory grows with the file
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER) as file:
        wanted = columns.of_table(path, _types(file.schema_arrow))
        yield from file.iter_batches(_ROWS, columns=wanted, use_threads=False)


def _arrow(path: str, kind: str, columns: Columns) -> Iterator[pa.RecordBatch]:
    open_reader = _open_reader(path, kind)
    with pa.OSFile(path, "rb") as source, open_reader(source) as reader:
        wanted = columns.of_table(path, _types(reader.schema))
        options = pa.ipc.IpcReadOptions(included_fields=[reader.schema.get_field_index(name) for name in wanted])
    with pa.OSFile(path, "rb") as source, open_reader(source, options=options) as reader:
        if kind == "arrow_stream":
            yield from reader
        else:
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))


def _open_reader(path: str, kind: str) -> Callable[..., Any]:
    """Return what opens an Arrow file of this kind."""
    if kind == "feather_1":
        raise DataError(f"{path}: feather version 1 is not read; write the table again as Parquet")
    return pa.ipc.open_stream if kind == "arrow_stream" else pa.ipc.open_file  # type: ignore[no-any-return]


def _types(schema: pa.Schema) -> dict[str, str]:
    return {one.name: str(one.type) for one in schema}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def rows_of_csv(
    path: str, lines: Iterable[bytes], columns: Columns
) -> Iterator[tuple[int, dict[str, Any] | InvalidRow]]:
    """Yield for each row of a CSV file with a header its first line and its cells, or why it cannot be read.

    An empty cell is a null value, and all others are text, except for whole numbers in the column of the length.

    Raises:
        DataError: the quotes are broken, or its columns make no row.
    """
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader((line.decode("utf-8", "surrogateescape") for line in lines), strict=True)
    header: list[str] = []
    wanted: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}: the quotes are broken in the row that begins at line {start} ({error}); put texts with "
                'commas or line ends in quotes, and write a quote inside as ""'
            ) from error
        if cells is None:
            break
        if not cells:  # a blank line
            continue
        if not header:
            header = cells
            wanted = columns.of_table(path, dict.fromkeys(header, "string"))
        elif len(cells) != len(header):
            yield (
                start,
                InvalidRow("wrong_cells", f"{len(cells)} cells, but the header has {len(header)}; check quotes"),
            )
        else:
            row: dict[str, Any] = {
                name: cell or None for name, cell in zip(header, cells, strict=True) if name in wanted
            }
            if columns.number is not None:
                digits = str(row.get(columns.number)).removesuffix(".0")  # as pandas writes it beside nulls
                row |= {columns.number: int(digits)} if digits.isdecimal() else {}
            yield start, row
