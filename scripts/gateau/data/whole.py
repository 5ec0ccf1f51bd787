"""Raw rows with all their columns, in the order of the files, whether they can be used or not.

Columns of tables keep their types. For JSON, the files are read once more to find the type of each column. The rows of
files with different columns are united. A column without one common type holds JSON texts.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gateau.data.columns import Columns
from gateau.data.inference import Kind, arrow_type, can_be_encoded, common_kind, common_type, kind_of
from gateau.data.readers import Origin, Record, Rejection, read_file, table_kind
from gateau.data.tabular import batches_of_table, schema_of_table
from gateau.raw_files import named

_ROWS = 16  # that are held as Python objects


class AllColumns(Columns):
    """Takes every column of a table as it is."""

    @property
    def number(self) -> None:
        """No text is read as a number."""

    def of_table(self, path: str, types: Any) -> list[str]:
        """Return all columns."""
        return list(types)


@dataclass(frozen=True)
class WholeRows:
    """The rows of raw files, and the columns that they have together.

    Attributes:
        files: path and name of each file, in order. Both are the same, except for files of the hub.
        schema: the columns of all files.
        texts: the columns that hold each value as JSON, because the values have no common type.
    """

    files: Sequence[tuple[str, str]]
    schema: pa.Schema
    texts: frozenset[str]

    @classmethod
    def of(cls, entries: Sequence[str]) -> WholeRows:
        """Find the columns of raw files. JSON files are read in full for this, one row in memory at a time.

        Raises:
            DataError: a file is missing or damaged.
        """
        files = named(entries, "data.long")
        found: dict[str, list[pa.DataType | None]] = {}
        kinds: dict[str, Kind] = {}
        for path, _ in files:
            if kind := table_kind(path):
                for field in schema_of_table(path, kind):
                    found.setdefault(field.name, []).append(field.type)
                continue
            for record in read_file(path, path, AllColumns()):
                for name, value in _columns_of(record).items():
                    found.setdefault(name, [])
                    kinds[name] = common_kind(kinds.get(name), kind_of(value))
        for name, one in kinds.items():
            found[name].append(arrow_type(one) if one is not None or not found[name] else pa.null())
        types = {name: _one_type(several) for name, several in found.items()}
        schema = pa.schema([(name, pa.string() if one is None else one) for name, one in types.items()])
        return cls(files, schema, frozenset(name for name, one in types.items() if one is None))

    def batches(self) -> Iterator[tuple[list[Origin], pa.Table]]:
        """Yield the rows as small tables with the schema of all files, and the origin of each row.

        A row that cannot be read has nulls only.
        """
        for path, name in self.files:
            if kind := table_kind(path):
                yield from self._batches_of_table(path, name, kind)
                continue
            records = read_file(path, name, AllColumns())
            while some := list(islice(records, _ROWS)):
                rows = [_columns_of(record) for record in some]
                columns = {
                    field.name: self._array(field, [row.get(field.name) for row in rows]) for field in self.schema
                }
                yield [record.origin for record in some], pa.table(columns, schema=self.schema)

    def _batches_of_table(self, path: str, name: str, kind: str) -> Iterator[tuple[list[Origin], pa.Table]]:
        number = 0
        for batch in batches_of_table(path, kind, AllColumns()):
            origins = [Origin(name, number + place) for place in range(1, batch.num_rows + 1)]
            number += batch.num_rows
            columns = []
            for field in self.schema:
                place = batch.schema.get_field_index(field.name)
                column = pa.nulls(batch.num_rows, field.type) if place < 0 else batch.column(place)
                if place >= 0 and field.name in self.texts:
                    column = self._array(field, column.to_pylist())
                columns.append(column if column.type == field.type else column.cast(field.type))
            yield origins, pa.Table.from_arrays(columns, schema=self.schema)

    def _array(self, field: pa.Field, values: list[Any]) -> pa.Array:
        if field.name in self.texts:
            values = [None if value is None else _as_text(value) for value in values]
        try:
            return pa.array(values, field.type)
        except UnicodeEncodeError:
            return pa.array([_encodable(value) for value in values], field.type)


def _columns_of(record: Record | Rejection) -> dict[str, Any]:
    """Return the columns of a row; none if it cannot be read or is no object."""
    row = record.value if isinstance(record, Record) and isinstance(record.value, dict) else {}
    return {_encodable(name): value for name, value in row.items()}


def _one_type(types: Sequence[pa.DataType | None]) -> pa.DataType | None:
    """Return the type that all types fit in, or None if there is none that Parquet can hold."""
    found: pa.DataType | None = types[0]
    for one in types[1:]:
        found = None if found is None or one is None else common_type(found, one)
    return found if found is not None and _can_be_written(found) else None


def _can_be_written(kind: pa.DataType) -> bool:
    try:
        pq.write_table(pa.table({"x": pa.nulls(0, kind)}), io.BytesIO())
    except (pa.ArrowException, NotImplementedError):
        return False
    return True


def _as_text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if can_be_encoded(text) else json.dumps(value, default=str)


def _encodable(value: Any) -> Any:
    r"""Return a value with every half of a surrogate pair in its texts written out, such as ``\ud800``."""
    if isinstance(value, str):
        return value if can_be_encoded(value) else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _encodable(inner) for key, inner in value.items()}
    return [_encodable(inner) for inner in value] if isinstance(value, list) else value
