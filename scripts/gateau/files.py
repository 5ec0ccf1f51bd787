"""Atomic writes of files and folders, and JSON and JSONL with errors that name the file and line.

A line of JSONL ends at a line feed only, because a text may contain any other line separator of Unicode.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateau.errors import DataError

Row = dict[str, Any]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder beside ``path``. On success it replaces ``path``, on error it is removed.

    The temporary folder is hidden and has a unique name. An old folder at ``path`` stays until the new one is complete.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unique = uuid.uuid4().hex
    temporary, old = (target.with_name(f".{target.name}.{unique}.{kind}") for kind in ("tmp", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if target.is_dir():
            target.replace(old)
        temporary.replace(target)
    finally:
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``. On success it is synced and renamed to ``path``, on error removed.

    The temporary name is hidden and unique. Two writers on any nodes therefore never share it, and a killed writer
    leaves nothing that looks finished.

    Raises:
        OSError: the write failed; the error names ``path`` instead of the temporary file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    except OSError as error:
        # the error of a full disk has no file name, other errors have the temporary one
        if error.errno and ((error.errno in _FULL and error.filename is None) or str(temporary) in str(error)):
            raise OSError(error.errno, os.strerror(error.errno), str(target)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, atomically.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Any], *, ascii_only: bool = False) -> None:
    """Write one line of JSON per row, atomically, in UTF-8, or in ASCII with all other characters escaped."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=ascii_only) + "\n")


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a UTF-8 file, with Windows line ends replaced by line feeds.

    Raises:
        DataError: the file is missing or not UTF-8.
    """
    try:
        return _read_bytes(path).decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8, or fetch it again"
        ) from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the value of a JSON file.

    Raises:
        DataError: the file is missing or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); fetch the file again or rerun the rule that writes it") from error


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[str, Row]]:
    """Yield ``(where, object)`` for each line, where ``where`` is ``<path>, line <number>``. Skip blank lines.

    Raises:
        DataError: the file is missing or empty, or a line is not a JSON object.
    """
    empty = True
    for number, line in enumerate(_read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON in UTF-8 ({error}); write the row again") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: not a JSON object; write the row again")
        empty = False
        yield where, row
    if empty:
        raise DataError(f"{path}: no rows; each line must be a JSON object")


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; rerun the rule that writes it, or fetch it again") from error


def text_of(row: Row, name: str, where: str) -> str:
    """Return the text ``row[name]``.

    Raises:
        DataError: the value is missing or not a text; the message begins with ``where``.
    """
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(f'{where}: {name} must be a text, "" where there is none; found {value!r}')
    return value


def number_of(row: Row, name: str, where: str) -> int:
    """Return the integer ``row[name]``.

    Raises:
        DataError: the value is missing or not an integer; the message begins with ``where``.
    """
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{where}: {name} must be a whole number; found {value!r}")
    return value
