"""What a folder holds: each file's path, size and digest.

Snakemake compares folders by time, files by content. So a rule that makes a folder lists it in a file beside it, and
the rules that read the folder ask for the list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 1 << 22


def file_sha256(path: Path) -> str:
    """Hexadecimal digest, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def visible_files(folder: Path) -> Iterator[Path]:
    """Files below ``folder`` in order; hidden ones (unfinished writes, Snakemake's marks) left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(folder).parts):
            yield path


def describe_files(folder: Path, but: str | None = None) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of each file, by its path inside ``folder``; files of the name ``but`` left out."""
    return {
        path.relative_to(folder).as_posix(): {"n_bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in visible_files(folder)
        if path.name != but
    }
