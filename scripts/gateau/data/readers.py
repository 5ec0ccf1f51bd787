"""Streaming readers of raw instruction data: jsonl, a JSON array or CSV, plain or compressed, and Parquet and Arrow.

Only one record is held in memory at a time, and what :mod:`gateau.data.tabular` holds of a table. A line that cannot be
read is not skipped silently: the reader yields a :class:`Rejection` in its place, so that the caller can count and
report it.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from gateau.data.arrays import elements_of_array
from gateau.data.columns import Columns
from gateau.data.messages import InvalidRow
from gateau.data.tabular import TABLES, rows_of_csv, rows_of_table
from gateau.errors import DataError
from gateau.raw_files import named

logger = logging.getLogger(__name__)

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_DAMAGED = (OSError, EOFError, zlib.error)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITESPACE = b" \t\r\n"


@dataclass(frozen=True)
class Origin:
    """The position of a record: its file and its line, counted from 1 (in a JSON array or a table, its row)."""

    file: str
    line: int


@dataclass(frozen=True)
class Record:
    """A decoded value and its position in the raw data."""

    origin: Origin
    value: Any


@dataclass(frozen=True)
class Rejection:
    """A row that is not used.

    Attributes:
        origin: position of the row.
        id: the row's own id, or None if unknown.
        reason: a short machine-readable reason.
        advice: what to do about it, for a person.
    """

    origin: Origin
    id: str | None
    reason: str
    advice: str


def read_records(
    paths: Sequence[str], setting: str = "data.long", columns: Columns | None = None
) -> Iterator[Record | Rejection]:
    """Yield every record of the files, in order.

    Args:
        paths: the files to read, or other entries of :func:`gateau.raw_files.expanded`.
        setting: the configuration key that lists the files, for error messages.
        columns: which columns of a table hold the fields; None finds them by their known names.

    Raises:
        DataError: if a file is missing, if its data are damaged, if a JSON array cannot be parsed, if the columns of a
            table make no row, or if no file has a row.
    """
    files = named(paths, setting)
    n_empty = 0
    for path, name in files:
        records = read_file(path, name, columns or Columns())
        if (first := next(records, None)) is not None:
            yield first
            yield from records
            continue
        n_empty += 1
        if len(files) > 1:
            logger.warning("%s: the file is empty and is left out; write it again if it should have rows", path)
    if 0 < n_empty == len(files):
        fault = f"{files[0][0]}: the file is empty" if n_empty == 1 else f"{setting}: all {n_empty} files are empty"
        raise DataError(f"{fault}; write the rows again, or set {setting} to files that have rows")


def read_file(path: str, name: str, columns: Columns) -> Iterator[Record | Rejection]:
    """Yield the records of a file, whose origins have its name; none if it is empty."""
    if kind := table_kind(path):
        for number, row in enumerate(rows_of_table(path, kind, columns), start=1):
            yield Record(Origin(name, number), row)
        return
    with _open(path) as stream:
        try:
            first = _first_byte(path, stream)
        except _DAMAGED as error:
            raise DataError(f"{path}: cannot be decompressed ({error}); download the file again") from error
    with _open(path) as stream:
        if path.removesuffix(".gz").removesuffix(".zst").endswith(".csv"):
            rows = _read_csv(name, stream, columns)
        else:
            rows = _read_array(name, stream) if first == b"[" else _read_lines(name, stream)
        try:
            yield from rows
        except _DAMAGED as error:
            raise DataError(
                f"{path}: the compressed data are truncated or damaged ({error}); download the file again"
            ) from error


def table_kind(path: str) -> str | None:
    """Return which kind of table a file is, as in :data:`gateau.data.tabular.TABLES`; None for JSON and CSV."""
    return _kind(path, TABLES)


def _kind(path: str, kinds: Mapping[bytes, str]) -> str | None:
    """Return the kind whose first bytes a file has, or None."""
    with open(path, "rb") as file:
        start = file.read(max(map(len, kinds)))
    return next((kind for prefix, kind in kinds.items() if start.startswith(prefix)), None)


def _open(path: str) -> BinaryIO:
    """Open a file for reading. Its first bytes decide how it is decompressed; its extension is ignored."""
    kind = _kind(path, _MAGIC)
    if kind == "gzip":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if kind == "zstd":
        return cast(BinaryIO, pa.CompressedInputStream(pa.OSFile(path, "rb"), "zstd"))
    return open(path, "rb")


def _first_byte(path: str, stream: BinaryIO) -> bytes:
    """Return the first byte that is neither white space nor part of a byte-order mark, if there is one."""
    while block := stream.read(1 << 16):
        if kind := next((kind for prefix, kind in TABLES.items() if block.startswith(prefix)), None):
            raise DataError(f"{path}: a table ({kind}) that is compressed as a whole is not read; decompress the file")
        stripped = block.removeprefix(_BYTE_ORDER_MARK).lstrip(_WHITESPACE)
        if stripped:
            return stripped[:1]
    return b""


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    r"""Yield the lines of a stream, split at ``\n`` only. Arrow's compressed streams have no ``readline``."""
    parts: list[bytes] = []
    while block := stream.read(1 << 20):
        *complete, rest = block.split(b"\n")
        for piece in complete:
            parts.append(piece)
            yield b"".join(parts) + b"\n"
            parts = []
        parts.append(rest)
    if last := b"".join(parts):
        yield last


def _read_csv(path: str, stream: BinaryIO, columns: Columns) -> Iterator[Record | Rejection]:
    for number, row in rows_of_csv(path, _lines(cast(BinaryIO, _WithoutByteOrderMark(stream))), columns):
        origin = Origin(path, number)
        if isinstance(row, InvalidRow):
            yield Rejection(origin, None, row.reason, row.advice)
        else:
            yield Record(origin, row)


def _read_lines(path: str, stream: BinaryIO) -> Iterator[Record | Rejection]:
    for number, raw in enumerate(_lines(stream), start=1):
        if number == 1:
            raw = raw.removeprefix(_BYTE_ORDER_MARK)
        if not raw.strip(_WHITESPACE):
            continue
        origin = Origin(path, number)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            yield Rejection(
                origin, None, "invalid_utf8", f"byte {error.start} of the line is not UTF-8; convert the file to UTF-8"
            )
            continue
        try:
            yield Record(origin, json.loads(text))
        except json.JSONDecodeError as error:
            cut_off = not raw.endswith(b"\n")
            yield Rejection(
                origin,
                None,
                "truncated_line" if cut_off else "not_json",
                f"{error.msg} at column {error.colno}; "
                + ("the last line breaks off: fetch the file again" if cut_off else "write one JSON object per line"),
            )
        except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
            yield Rejection(origin, None, "not_json", f"{error}; write one plain JSON object per line")


class _WithoutByteOrderMark:
    """Wraps a binary stream and skips a byte-order mark at its start."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._start: bytes | None = None

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        if self._start is None:
            self._start = self._stream.read(len(_BYTE_ORDER_MARK))
            if self._start != _BYTE_ORDER_MARK:
                return self._start
        return self._stream.read(size)


def _read_array(path: str, stream: BinaryIO) -> Iterator[Record | Rejection]:
    number = 0
    try:
        for number, value in enumerate(elements_of_array(cast(BinaryIO, _WithoutByteOrderMark(stream))), start=1):
            origin = Origin(path, number)
            if isinstance(value, InvalidRow):
                yield Rejection(origin, None, value.reason, value.advice)
            else:
                yield Record(origin, value)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: the JSON array cannot be read after element {number} ({error}); correct the file, or convert it "
            "to jsonl with one object per line, where a broken line only loses its own row"
        ) from error
