"""Reading what benchmarks and scorers are handed: jsonl rows, JSON and text files, with errors that say where.

Lines end at a line feed and nowhere else: an answer may hold any other of Unicode's line ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateau.errors import DataError

Row = dict[str, Any]


def read_text(path: str | Path) -> str:
    """The file's text. Raises DataError when it is missing or not UTF-8."""
    try:
        return _bytes(path).decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8, or fetch it again") from error


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; generate the predictions or fetch the assets again") from error


def read_json(path: str | Path) -> Any:
    """The file's value. Raises DataError when it is missing or not JSON."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); fetch it again") from error


def read_rows(path: str | Path) -> Iterator[tuple[str, Row]]:
    """Each line's object, and where it stands; blank lines are passed over.

    Raises DataError with file and line for one that is no JSON object, and for a file without any.
    """
    empty = True
    for number, line in enumerate(_bytes(path).split(b"\n"), start=1):
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
        raise DataError(f"{path}: no rows; each line is a JSON object")


def text_of(row: Row, name: str, where: str) -> str:
    """The text ``row[name]``. Raises DataError for anything else."""
    value = row.get(name)
    if not isinstance(value, str):
        raise DataError(f'{where}: {name} must be a text, "" where there is none; found {value!r}')
    return value


def number_of(row: Row, name: str, where: str) -> int:
    """The whole number ``row[name]``. Raises DataError for anything else."""
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{where}: {name} must be a whole number; found {value!r}")
    return value


def predictions_file(path: str | Path, name: str = "predictions.jsonl") -> Path:
    """The file itself, or the one of this name in a folder. Raises DataError when there is none."""
    path = Path(path)
    found = path / name if path.is_dir() else path
    if not found.is_file():
        raise DataError(f"{found}: no such file; generate the predictions first")
    return found
