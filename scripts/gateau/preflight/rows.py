"""Checks of the raw rows: the first of each file are parsed, as a run would read them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from gateau.costs.run import Run
from gateau.errors import DataError
from gateau.experiments import Configuration
from gateau.hub_entries import is_unfetched
from gateau.preflight.findings import ERROR, OK, WARNING, Finding, error_of
from gateau.raw_files import expanded

if TYPE_CHECKING:
    from gateau.data.intake import Intake
    from gateau.tables import Row

_ROWS = 50  # of each file that are parsed


def check_rows(configuration: Configuration) -> list[Finding]:
    """Parse the first rows of each raw file, and say how many would be rejected and why."""
    needed = [*["long"] * configuration.needs_rows, *["short"] * ("short" in configuration.sources)]
    return [finding for source in needed for finding in _check_source(configuration, source)]


def check_all_rows(run: Run) -> list[Finding]:
    """Say why the rows as a whole cannot be used, for example because data.limit asks for more than there are.

    All rows are read for the estimate, unless the lengths come from the tables of an earlier run.
    """
    data, entries = run.config["data"], [*run.configuration.raw_files("long"), *run.configuration.raw_files("short")]
    if not run.configuration.needs_rows or data["planted"] or any(map(is_unfetched, entries)):
        return []
    lengths, limit = run.long, data["limit"]
    found = [Finding(ERROR, key, text) for key, text in run.faults.items()]
    if limit is not None and lengths is not None:
        text = "is not compared with the files, because the lengths come from the index of an earlier run"
        found.append(Finding(OK, "data.limit", text if run.is_indexed else f"there are {limit} rows to draw"))
    return found


def raw_paths(configuration: Configuration, source: str) -> list[str]:
    """Return the raw files of ``long`` or ``short`` that are here; those of a wrong entry are left out."""
    found: list[str] = []
    for entry in configuration.raw_files(source):
        error_of("", lambda entry=entry: found.extend(expanded([entry], f"data.{source}")))  # type: ignore[misc]
    return found


def first_rows(configuration: Configuration, source: str, path: str) -> tuple[Intake, list[Row]]:
    """Return the first rows of a raw file that can be used, and their intake, which has counted the others."""
    from gateau.data.chats import short_intake
    from gateau.data.readers import read_file
    from gateau.data.samples import long_intake

    keeps_duplicates = configuration.config["data"]["duplicate_content"] == "keep"
    intake = (long_intake if source == "long" else short_intake)(configuration.intake_options(source), keeps_duplicates)
    rows = intake.read(islice(read_file(path, path, intake.columns), _ROWS))
    return intake, [row for row in rows if isinstance(row, dict)]


def _check_source(configuration: Configuration, source: str) -> list[Finding]:
    """Check the first rows of all files of a source. As in a run, the share of broken rows is that of all files.

    A file weighs as much as it has bytes, since its rows are not counted.
    """
    key, paths = f"data.{source}", raw_paths(configuration, source)
    found: list[Finding] = []
    intakes: dict[str, Intake] = {}
    size = broken = 0.0
    for path in paths:
        try:
            intake = intakes[path] = first_rows(configuration, source, path)[0]
        except DataError as error:
            found.append(Finding(ERROR, key, str(error)))
            continue
        if intake.n_rows:
            own = Path(path).stat().st_size
            size += own
            broken += own * sum(_broken(intake).values()) / intake.n_rows
    accepted = configuration.config["data"]["max_rejected_share"] * size * (1 + 1e-9)
    level = ERROR if broken > accepted else WARNING
    for path, intake in intakes.items():
        found += _check_file(key, path, intake, level, is_only_one=len(paths) == 1)
    return found


def _broken(intake: Intake) -> dict[str, int]:
    """Return the number of unusable rows by reason. Duplicates and rows that are not asked for are not among them."""
    from gateau.data.intake import SPARED

    return {reason: count for reason, count in intake.rejected.most_common() if reason not in SPARED}


def _check_file(key: str, path: str, intake: Intake, level: str, is_only_one: bool) -> list[Finding]:
    """Return what the first rows of a file show; ``level`` is that of broken rows."""
    read, broken = intake.n_rows, _broken(intake)
    if not read:
        text = f"{path}: the file is empty; write its rows again, or leave it out"
        return [Finding(ERROR if is_only_one else WARNING, key, text)]
    which = f"the first {read}" if read == _ROWS else f"all {read}"
    fault = intake.columns.misnamed(intake.keys)  # another file may have the field
    found = [Finding(WARNING, key, f"{path}, {which} rows: {fault}")] if fault else []
    if not broken:
        spared = f", but {intake.rejected.total()} are left out ({_counts(intake.rejected)})" if intake.rejected else ""
        return [*found, Finding(OK, key, f"{path}: {which} rows can be used{spared}")]
    text = f"{path}: {sum(broken.values())} of {which} rows would be rejected ({_counts(broken)})"
    for first in [one for one in intake.first_rejections if one.reason in broken][:1]:
        text += f"; line {first.origin.line}: {first.advice}"
    return [*found, Finding(level, key, text)]


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.items())


def preview_rows(configuration: Configuration) -> str:
    """Return what is taken as context, instruction and response of ten random rows among the first of each file.

    The text is empty if no row is here.
    """
    from gateau.data.preview import Preview

    preview = Preview()
    for path in raw_paths(configuration, "long") if configuration.needs_rows else ():
        with suppress(DataError):  # among the findings
            for _ in preview.watch(first_rows(configuration, "long", path)[1]):
                pass
    return preview.text() if preview.rows else ""
