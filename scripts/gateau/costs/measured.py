"""What a run took: Snakemake's benchmark files, and the sizes of files and folders."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateau.errors import DataError


@dataclass(frozen=True)
class Measurement:
    """Measured values of the jobs of a stage. A job that was continued counts from its last start."""

    jobs: int
    seconds: float  # of all jobs together, start and loading included
    max_rss: float | None  # bytes of the largest job's processes on the host, or None if all jobs were too short
    mean_load: float | None  # percent of one core, weighted by seconds


def read_benchmarks(files: Iterable[Path]) -> Measurement | None:
    """Return the sum of the benchmark files of one stage, or None if there is none.

    Raises:
        DataError: a file lacks Snakemake's columns.
    """
    rows: list[dict[str, str]] = []
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            found = list(csv.DictReader(lines, delimiter="\t"))
        if any(not {"s", "max_rss", "mean_load"} <= set(row) for row in found):
            raise DataError(f"{file}: not a benchmark file of Snakemake (no s, max_rss, mean_load); delete it")
        rows += found
    if not rows:
        return None
    seconds = [_number(row["s"]) or 0.0 for row in rows]
    memory = [rss for row in rows if (rss := _number(row["max_rss"])) is not None]
    loads = [(load, s) for row, s in zip(rows, seconds, strict=True) if (load := _number(row["mean_load"])) is not None]
    weight = sum(s for _, s in loads)
    return Measurement(
        jobs=len(rows),
        seconds=sum(seconds),
        max_rss=max(memory) * 2**20 if memory else None,
        mean_load=sum(load * s for load, s in loads) / weight if weight else None,
    )


def _number(text: str | None) -> float | None:
    """Return a number, or None for NA and -, which Snakemake writes for a missing value."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def size_on_disk(paths: Sequence[Path]) -> int | None:
    """Return the bytes of files and of all files below folders, or None if none of the paths exists."""
    there = [path for path in paths if path.exists()]
    if not there:
        return None
    files = (file for path in there for file in ([path] if path.is_file() else path.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
