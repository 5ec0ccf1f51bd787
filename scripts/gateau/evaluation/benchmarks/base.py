"""What the benchmarks share."""

from __future__ import annotations

from pathlib import Path

from gateau.errors import DataError


def predictions_file(path: str | Path, name: str = "predictions.jsonl") -> Path:
    """Return the file itself, or the one of this name in a folder.

    Raises:
        DataError: there is no such file.
    """
    path = Path(path)
    found = path / name if path.is_dir() else path
    if not found.is_file():
        raise DataError(f"{found}: no such file; generate the predictions first")
    return found
