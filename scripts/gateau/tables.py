"""Parquet tables between stages. Each has one documented schema, which is checked when writing and reading."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gateau.errors import TableError
from gateau.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Row = dict[str, Any]
_GROUP_CHARACTERS = 4 * 10**6


def table_schema(**columns: tuple[pa.DataType, str]) -> pa.Schema:
    """Return a schema made from ``name=(type, description)``. Descriptions are stored in the file as field metadata."""
    return pa.schema([pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in columns.items()])


def write_rows(
    path: str | os.PathLike[str],
    schema: pa.Schema,
    rows: Iterable[Mapping[str, Any]],
    *,
    row_group_size: int = 1024,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write ``rows`` to a Parquet file with exactly ``schema``, atomically; return their number.

    A row group holds ``row_group_size`` rows, or fewer whose texts have four million characters. Only one is in memory
    at a time. Many small row groups would cost every reader of the table 600 bytes a column for each of them.

    Raises:
        TableError: a row lacks a column, has an additional one, or has a value of another type.
    """
    if metadata:
        schema = schema.with_metadata(dict(metadata))
    count = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for chunk in _chunks(rows, row_group_size):
            writer.write_table(_to_table(chunk, schema, path))
            count += len(chunk)
    return count


def write_table_stream(path: str | os.PathLike[str], schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write Arrow tables with exactly ``schema`` to one Parquet file, atomically. Each becomes one row group."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)


def write_frame(
    path: str | os.PathLike[str], schema: pa.Schema, frame: pd.DataFrame, row_group_size: int = 1024
) -> None:
    """Write a data frame with the columns of ``schema`` to a Parquet file, atomically, row group by row group."""
    starts = range(0, len(frame), row_group_size)
    write_frames(path, schema, (frame.iloc[start : start + row_group_size] for start in starts))


def write_frames(path: str | os.PathLike[str], schema: pa.Schema, frames: Iterable[pd.DataFrame]) -> None:
    """Write data frames with the columns of ``schema`` to one Parquet file, atomically. Each becomes one row group."""
    tables = (pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False) for frame in frames)
    write_table_stream(path, schema, tables)


def places_of(ids: Iterable[str], among: Iterable[str], together: int = 2**16) -> NDArray[Any]:
    """Return the place of each id among others, int64 ``[ids]``, -1 for one that is not there.

    Strings stay in Arrow's columns, where an id takes about 24 bytes. As a Python object it takes 70, and in a hash
    table 200. Only ``together`` ids are therefore hashed at a time.
    """
    wanted, given = (pa.array(one, pa.large_string()) for one in (ids, among))
    places: NDArray[Any] = pc.fill_null(pc.index_in(wanted, value_set=given[:together]), -1).to_numpy().astype("int64")
    for start in range(together, len(given), together):
        found = pc.fill_null(pc.index_in(wanted, value_set=given.slice(start, together)), -1).to_numpy()
        places[found >= 0] = found[found >= 0] + start
    return places


def lists_of(column: pa.ChunkedArray) -> list[NDArray[Any] | None]:
    """Return each list of a column of lists as an array, None where it is null."""
    lists: list[NDArray[Any] | None] = column.to_pandas().tolist()
    return lists


def write_tables(
    path: str | os.PathLike[str], schema: pa.Schema, tables: Iterable[pa.Table], *, metadata: Mapping[str, str]
) -> str:
    """Write Arrow tables with exactly ``schema`` to one file, atomically; return the digest of their content.

    Each table becomes one row group. The digest depends on the values and on how they are divided into tables. It is
    stored in the file's metadata as ``content``.
    """
    digest = hashlib.sha256()
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            for batch in table.combine_chunks().to_batches():
                digest.update(batch.serialize())
        writer.add_key_value_metadata({**metadata, "content": digest.hexdigest()})
    return digest.hexdigest()


def _chunks(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(chunk) == size or characters >= _GROUP_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, path: str | os.PathLike[str]) -> pa.Table:
    expected = set(schema.names)
    for row in rows:
        if set(row) != expected:
            raise TableError(f"{path}: a row has the columns {sorted(row)}, but {sorted(expected)} are expected")
    try:
        return pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TableError(f"{path}: a row does not fit the schema: {error}") from error


def open_table(path: str | os.PathLike[str], schema: pa.Schema) -> pq.ParquetFile:
    """Open a Parquet file and check its columns against ``schema``.

    Raises:
        TableError: the file cannot be read, or its columns differ from ``schema``.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise TableError(
            f"{path}: not a readable Parquet table ({error}); delete it and run the workflow again"
        ) from error
    found = file.schema_arrow
    if found.names != schema.names or found.types != schema.types:
        raise TableError(
            f"{path}: has the columns {_columns(found)}, but {_columns(schema)} are expected; another version wrote "
            "this file: delete it and run the workflow again"
        )
    return file


def count_rows(path: str | os.PathLike[str]) -> int:
    """Return the number of rows of a Parquet file, reading only its footer."""
    return int(pq.read_metadata(path).num_rows)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in zip(schema.names, schema.types, strict=True))


def iterate_rows(
    path: str | os.PathLike[str],
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    ids: Collection[str] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a table one by one, with one row group in memory at a time.

    Args:
        path: the table.
        schema: its schema.
        columns: the columns to read; None reads all.
        ids: yield only rows whose column ``id``, which must be read, is among these; None yields all.
    """
    wanted = None if ids is None else pa.array(list(ids), pa.string())
    with open_table(path, schema) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(columns) if columns else None)
            if wanted is not None:
                table = table.filter(pc.is_in(table["id"], value_set=wanted))
            yield from table.to_pylist()


def rows_in_order(
    path: str | os.PathLike[str],
    schema: pa.Schema,
    columns: Sequence[str],
    ids: Sequence[str],
    folder: str | os.PathLike[str],
) -> Iterator[Row]:
    """Yield the rows with these ids in the order of ``ids``, with one row group in memory at a time.

    The rows are first written to an unnamed file in the order of the table, and then fetched from there.

    Args:
        path: the table.
        schema: its schema, with a column ``id``.
        columns: the columns to read, ``id`` among them.
        ids: which rows, without repetition.
        folder: where there is space for the unnamed file.

    Raises:
        TableError: an id is not in the table.
    """
    wanted = set(ids)
    places: dict[str, int] = {}
    with tempfile.TemporaryFile(dir=folder) as pool:
        for row in iterate_rows(path, schema, columns, wanted):
            places[row["id"]] = pool.tell()
            pool.write(json.dumps(row).encode() + b"\n")
        if absent := wanted - places.keys():
            raise TableError(
                f"{path}: {len(absent)} of the chosen rows are missing, for example {min(absent)}; delete the file and "
                "run the workflow again"
            )
        for row_id in ids:
            pool.seek(places[row_id])
            yield json.loads(pool.readline())


def read_rows(path: str | os.PathLike[str], schema: pa.Schema) -> list[Row]:
    """Return all rows of a table, in the order of the file."""
    return list(iterate_rows(path, schema))


def read_table(path: str | os.PathLike[str], schema: pa.Schema) -> pa.Table:
    """Return the whole table in Arrow's columns."""
    with open_table(path, schema) as file:
        return file.read()


def read_metadata(path: str | os.PathLike[str], schema: pa.Schema) -> dict[str, str]:
    """Return the key-value metadata that was given to :func:`write_rows` or :func:`write_tables`."""
    with open_table(path, schema) as file:
        entries = file.metadata.metadata or {}
        return {key.decode(): value.decode() for key, value in entries.items() if key != b"ARROW:schema"}
