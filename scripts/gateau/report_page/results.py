"""Read a results folder. A file that is not there is None; a file that cannot be read is None and a note."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from gateau.errors import UserError
from gateau.provenance import NAME, read_manifest
from gateau.tables import open_table

Value = TypeVar("Value")


class Results:
    """A results folder, finished or not.

    Attributes:
        folder: its path.
        notes: one line for each file that exists and cannot be read, and for each folder that is left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []

    def json(self, name: str) -> Any:
        """Return the value of a JSON file, or None."""
        return self._read(name, lambda path: json.loads(path.read_text(encoding="utf-8")))

    def csv(self, name: str) -> pd.DataFrame | None:
        """Return the rows of a CSV or TSV file, or None if there is no row."""
        separator = "\t" if name.endswith(".tsv") else ","
        found = self._read(name, lambda path: pd.read_csv(path, sep=separator))
        return None if found is None or found.empty else found

    def jsonl(self, name: str, most: int | None = None) -> list[dict[str, Any]] | None:
        """Return the rows of a JSONL file, ``most`` of them if given, or None."""

        def rows(path: Path) -> list[dict[str, Any]]:
            found = []
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    if line.strip():
                        found.append(json.loads(line))
                    if most is not None and len(found) == most:
                        break
            return found

        return self._read(name, rows)

    def table(self, name: str, schema: pa.Schema, columns: Sequence[str]) -> pd.DataFrame | None:
        """Return these columns of a Parquet table, or None."""

        def read(path: Path) -> pd.DataFrame:
            with open_table(path, schema) as file:
                return pd.DataFrame(file.read(columns=list(columns)).to_pandas())

        return self._read(name, read)

    def rows(self, name: str, schema: pa.Schema, columns: Sequence[str], ids: set[str]) -> list[dict[str, Any]]:
        """Return the rows of these ids with these columns and ``id``; none if the table cannot be read.

        One row group is in memory at a time.
        """

        def read(path: Path) -> list[dict[str, Any]]:
            found = []
            with open_table(path, schema) as file:
                for group in range(file.num_row_groups):
                    keys = file.read_row_group(group, columns=["id"]).column("id").to_pylist()
                    places = [place for place, key in enumerate(keys) if key in ids]
                    if places:
                        found += file.read_row_group(group, columns=["id", *columns]).take(places).to_pylist()
            return found

        return self._read(name, read) or []

    def folders(self, name: str) -> list[str]:
        """Return the names of the folders in a folder, sorted."""
        parent = self.folder / name
        return sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []

    def experiments(self, stage: str) -> list[str]:
        """Return the experiments that have a folder in this stage's, sorted.

        One that the configuration does not have is left out, with a note. The configuration is that of the newest
        manifest, so a folder that is newer may belong to an experiment that was added since.
        """
        names = self.folders(stage)
        known = self.config.get("experiments")
        if not known:
            return names
        read = (self.folder / self.manifests[-1]["folder"] / NAME).stat().st_mtime
        gone = [one for one in names if one not in known and (self.folder / stage / one).stat().st_mtime <= read]
        for name in gone:
            why = "the configuration has no such experiment; delete the folder if you no longer need it"
            self.notes.append(f"{stage}/{name} is left out: {why}")
        return [one for one in names if one not in gone]

    def has_samples(self, name: str, ids: Iterable[str], known: Collection[str] | None) -> bool:
        """Return whether the ids of a folder are known; None stands for unknown. If not, the folder gets a note."""
        unknown = None if known is None else next((one for one in ids if one not in known), None)
        if unknown is not None:
            why = f"samples/samples.parquet has no sample {unknown!r}; run the workflow again"
            self.notes.append(f"{name} is left out: {why}")
        return unknown is None

    def files(self, pattern: str) -> list[Path]:
        """Return the files that match a pattern, sorted."""
        return sorted(path for path in self.folder.glob(pattern) if path.is_file())

    @cached_property
    def manifests(self) -> list[dict[str, Any]]:
        """Return the manifests of all folders but the page's own, the newest last."""
        found = (
            self._read(path.relative_to(self.folder).as_posix(), read_manifest) for path in self.files(f"*/{NAME}")
        )
        own = "report_page"
        return sorted(
            (one for one in found if one and one["folder"] != own), key=lambda one: (one["made"], one["folder"])
        )

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of the newest manifest; empty without one."""
        return self.manifests[-1]["config"] if self.manifests else {}

    def _read(self, name: str, read: Callable[[Path], Value]) -> Value | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return read(path)
        except (UserError, OSError, ValueError, LookupError) as error:
            note = f"{name} cannot be read: {error}"
            self.notes += [note] * (note not in self.notes)
            return None
