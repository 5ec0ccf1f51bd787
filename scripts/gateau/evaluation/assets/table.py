"""The table of pinned assets: which files a benchmark needs, where they are published, and their digests.

An asset lies at the same place in the cache and in an offline root. This place is ``<owner>/<repository>/<path>``, so a
folder with a clone of each repository can serve as the root.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from gateau.errors import DataError
from gateau.files import read_json

Kind = TypeVar("Kind", "Asset", "AssetFolder", "AssetZip")


@dataclass(frozen=True)
class _InRepository:
    name: str
    repository: str
    commit: str
    path: str

    @property
    def place(self) -> Path:
        """The place below the cache or an offline root."""
        return Path(self.repository, self.path)

    @property
    def origin(self) -> str:
        """What an offline root must hold at the place, for messages."""
        return f"the content of {self.repository} at commit {self.commit}"


@dataclass(frozen=True)
class Asset(_InRepository):
    """One file at a commit of a repository.

    Attributes:
        name: key of the asset, unique in the table.
        repository: ``<owner>/<repository>``.
        commit: 7 to 40 hex digits.
        path: path inside the repository.
        n_bytes: size. It may be None beside ``git_blob``, which covers the size.
        sha256: digest of the content, or None beside ``git_blob``.
        git_blob: id that git gives the content, or None beside ``sha256``.
    """

    n_bytes: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    def url(self, host: str) -> str:
        """Return the address of the file at a host that serves raw files as GitHub does."""
        return f"{host}/{self.repository}/{self.commit}/{self.path}"


@dataclass(frozen=True)
class AssetFolder(_InRepository):
    """All ``*.txt`` of a folder at a commit of a repository. They are pinned together, and their names are not listed.

    Attributes:
        name, repository, commit, path: see :class:`Asset`.
        n_files: number of texts.
        n_bytes: size of all texts together.
        sha256: digest of the lines ``<sha256 of the file>  <file name>``, sorted by name.
    """

    n_files: int
    n_bytes: int
    sha256: str

    def url(self, host: str) -> str:
        """Return the address of the repository's archive at a host that packs commits as GitHub's codeload does."""
        return f"{host}/{self.repository}/tar.gz/{self.commit}"


@dataclass(frozen=True)
class AssetZip:
    """A zip file without a commit. If ``sha256`` is None, its first download pins it."""

    name: str
    url: str
    path: str
    n_bytes: int | None = None
    sha256: str | None = None

    @property
    def place(self) -> Path:
        """The place below the cache or an offline root."""
        return Path(self.path)

    @property
    def origin(self) -> str:
        """What an offline root must hold at the place, for messages."""
        return f"the file of {self.url}"


AnyAsset = Asset | AssetFolder | AssetZip


@dataclass(frozen=True)
class AssetTable:
    """All pinned assets, and the addresses of the hosts that serve raw files and archives of repositories."""

    host: str
    archive_host: str
    files: tuple[Asset, ...]
    folders: tuple[AssetFolder, ...]
    zips: tuple[AssetZip, ...]

    @property
    def entries(self) -> list[AnyAsset]:
        """All assets, in the table's order."""
        return [*self.files, *self.folders, *self.zips]


def read_table(path: str | Path) -> AssetTable:
    """Read a table of assets from a JSON file.

    Raises:
        DataError: the file is no table of assets, or an entry is wrong.
    """
    table = read_json(path)
    keys = [field.name for field in fields(AssetTable)]
    if not isinstance(table, dict) or set(table) != set(keys):
        raise DataError(f"{path}: a table of assets is a JSON object with the keys {', '.join(keys)}")
    found = AssetTable(
        table["host"],
        table["archive_host"],
        _entries(Asset, table["files"], f"{path}: files"),
        _entries(AssetFolder, table["folders"], f"{path}: folders"),
        _entries(AssetZip, table["zips"], f"{path}: zips"),
    )
    for asset in found.files:
        if (asset.sha256 is None) == (asset.git_blob is None) or (asset.sha256 and asset.n_bytes is None):
            raise DataError(f"{path}: {asset.name} needs either sha256 with n_bytes, or git_blob")
    names = [entry.name for entry in found.entries]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: several assets have the same name: {', '.join(doubled)}")
    return found


def _entries(kind: type[Kind], rows: Iterable[Mapping[str, Any]], where: str) -> tuple[Kind, ...]:
    return tuple(_entry(kind, row, f"{where}[{number}]") for number, row in enumerate(rows))


def _entry(kind: type[Kind], row: Mapping[str, Any], where: str) -> Kind:
    try:
        entry = kind(**row)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(kind))
        raise DataError(f"{where} is not an asset ({error}); its keys are {known}") from error
    if entry.place.is_absolute() or ".." in entry.place.parts:
        raise DataError(f"{where}: the path must stay inside its repository")
    if "commit" in row and not re.fullmatch("[0-9a-f]{7,40}", str(row["commit"])):
        raise DataError(f"{where}: the commit must be 7 to 40 hex digits")
    return entry
