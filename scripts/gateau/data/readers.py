"""Streaming readers of raw instruction data: jsonl or a JSON array, plain or compressed with gzip or zstd.

Only one record is held in memory at a time. A line that cannot be read is not skipped silently: the reader yields a
:class:`Rejection` in its place, so that the caller can count and report it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import ijson
import pyarrow as pa

from gateau.errors import DataError

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_DAMAGED = (OSError, EOFError, zlib.error)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITESPACE = b" \t\r\n"


@dataclass(frozen=True)
class Origin:
    """The position of a record: its file and its line, counted from 1 (in a JSON array, its element)."""

    file: str
    line: int


@dataclass(frozen=True)
class Record:
    """A decoded JSON value and its position in the raw data."""

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


def read_records(paths: Sequence[str], setting: str = "data.long") -> Iterator[Record | Rejection]:
    """Yield every record of the files, in order.

    Args:
        paths: the files to read.
        setting: the configuration key that lists the files, for error messages.

    Raises:
        DataError: if a file is missing or empty, if its compressed data are damaged, or if it is a JSON array that
            cannot be parsed.
    """
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f"{path}: no such file; set {setting} to jsonl or JSON array files")
        yield from _read_file(path)


def _read_file(path: str) -> Iterator[Record | Rejection]:
    with _open(path) as stream:
        try:
            first = _first_byte(path, stream)
        except _DAMAGED as error:
            raise DataError(f"{path}: cannot be decompressed ({error}); download the file again") from error
    with _open(path) as stream:
        rows = _read_array(path, stream) if first == b"[" else _read_lines(path, stream)
        try:
            yield from rows
        except _DAMAGED as error:
            raise DataError(
                f"{path}: the compressed data are truncated or damaged ({error}); download the file again"
            ) from error


def _open(path: str) -> BinaryIO:
    """Open a file for reading. Its first bytes decide how it is decompressed; its extension is ignored."""
    with open(path, "rb") as file:
        magic = file.read(4)
    kind = next((kind for prefix, kind in _MAGIC.items() if magic.startswith(prefix)), None)
    if kind == "gzip":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if kind == "zstd":
        return cast(BinaryIO, pa.CompressedInputStream(pa.OSFile(path, "rb"), "zstd"))
    return open(path, "rb")


def _first_byte(path: str, stream: BinaryIO) -> bytes:
    """Return the first byte that is neither white space nor part of a byte-order mark."""
    while block := stream.read(1 << 16):
        stripped = block.removeprefix(_BYTE_ORDER_MARK).lstrip(_WHITESPACE)
        if stripped:
            return stripped[:1]
    raise DataError(f"{path}: the file is empty")


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
    """Wraps a binary stream and skips a byte-order mark at its start, which ijson does not accept."""

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


def _read_array(path: str, stream: BinaryIO) -> Iterator[Record]:
    number = 0
    try:
        for number, value in enumerate(ijson.items(_WithoutByteOrderMark(stream), "item", use_float=True), start=1):
            yield Record(Origin(path, number), value)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: the JSON array cannot be read after element {number} ({error}); correct the file, or convert it "
            "to jsonl with one object per line, where a broken line only loses its own row"
        ) from error
    if number == 0:
        raise DataError(f"{path}: the JSON array is empty")
