"""Pinned files of the benchmarks: fetched, never committed, and never used before size and digest are seen to be right.

The table names each file by repository, commit and path. A file lies under ``<owner>/<repository>/<path>`` both in the
cache and below an offline root, so that a clone of each repository at that place makes a root. The digest, not the
place, says whether a file is the right one.

What lies in the cache already is checked and never fetched again, nor replaced when it is wrong: that is for its owner
to delete.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

from gateau.errors import DataError
from gateau.files import atomic_path

_TIMEOUT_SECONDS = 60
_FULL_COMMIT = 40

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Asset:
    """One file. ``n_bytes`` may be None beside a git blob id, which covers the size."""

    name: str
    repository: str
    commit: str
    path: str
    n_bytes: int | None = None
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def place(self) -> Path:
        """Where it lies below the cache or an offline root."""
        return Path(self.repository, self.path)

    def url(self, host: str) -> str:
        """Its address at a host that serves raw files as GitHub does."""
        return f"{host}/{self.repository}/{self.commit}/{self.path}"


@dataclass(frozen=True)
class AssetFolder:
    """All ``*.txt`` of a folder, pinned together; their names are not, so they come from an offline root only.

    ``sha256`` is that of the lines ``<sha256 of the file>  <file name>``, sorted by name.
    """

    name: str
    repository: str
    commit: str
    path: str
    n_files: int
    n_bytes: int
    sha256: str

    @property
    def place(self) -> Path:
        """Where it lies below the cache or an offline root."""
        return Path(self.repository, self.path)


@dataclass(frozen=True)
class AssetTable:
    """Everything that is pinned, and the host that files are fetched from."""

    host: str
    files: tuple[Asset, ...]
    folders: tuple[AssetFolder, ...]


def read_table(path: str | Path) -> AssetTable:
    """Read a table of assets (JSON: host, files, folders). Raises DataError, naming the entry that is wrong."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path}: no table of assets ({error})") from error
    if not isinstance(table, dict) or set(table) != {"host", "files", "folders"}:
        raise DataError(f"{path}: a table of assets is a JSON object with host, files and folders")
    files = tuple(_entry(Asset, row, f"{path}: files[{number}]") for number, row in enumerate(table["files"]))
    folders = tuple(
        _entry(AssetFolder, row, f"{path}: folders[{number}]") for number, row in enumerate(table["folders"])
    )
    for asset in files:
        if (asset.sha256 is None) == (asset.git_blob is None) or (asset.sha256 and asset.n_bytes is None):
            raise DataError(f"{path}: {asset.name} needs either sha256 with n_bytes, or git_blob")
    names = [asset.name for asset in files] + [folder.name for folder in folders]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: named twice: {', '.join(doubled)}; each asset has its own name")
    return AssetTable(table["host"], files, folders)


def _entry(kind: type[Entry], row: Mapping[str, Any], where: str) -> Entry:
    try:
        entry = kind(**row)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
        raise DataError(f"{where} is no asset ({error}); its keys are {known}") from error
    place = Path(row["repository"], row["path"])
    if place.is_absolute() or ".." in place.parts or not re.fullmatch("[0-9a-f]{7,40}", str(row["commit"])):
        raise DataError(f"{where}: the path must stay inside its repository, and the commit be 7 to 40 hex digits")
    return entry


def fetch_assets(
    table: AssetTable, cache: str | Path, root: str | Path | None = None, names: Iterable[str] | None = None
) -> dict[str, Path]:
    """Put assets (all, or those of ``names``) into ``cache``, verified, and return where each lies.

    With a ``root``, files come from there and the network is never asked.

    Raises DataError for an unknown name and for an asset that is absent, cannot be fetched or is not the pinned one.
    """
    files = {asset.name: asset for asset in table.files}
    folders = {folder.name: folder for folder in table.folders}
    wanted = [*files, *folders] if names is None else list(names)
    if unknown := [name for name in wanted if name not in files and name not in folders]:
        raise DataError(f"no such assets: {', '.join(unknown)}; known are {', '.join([*files, *folders])}")
    into, source = Path(cache), None if root is None else Path(root)
    return {
        name: fetch_file(files[name], table.host, into, source)
        if name in files
        else fetch_folder(folders[name], into, source)
        for name in wanted
    }


def fetch_file(asset: Asset, host: str, cache: Path, root: Path | None = None) -> Path:
    """One file's place in ``cache``, filled from ``root`` or else from ``host`` if need be. Raises DataError."""
    target = cache / asset.place
    if target.exists():
        verify_file(asset, target.read_bytes(), f"{target}", "delete it to fetch it again")
        return target
    if root is not None:
        source = root / asset.place
        if not source.is_file():
            raise DataError(
                f"{asset.name}: {source} is absent; put the file of {asset.repository} at commit {asset.commit} there "
                "(a clone of the repository at that place will do), or leave out the root to fetch it"
            )
        content = source.read_bytes()
        verify_file(asset, content, f"{source}", f"check out commit {asset.commit} of {asset.repository}")
    else:
        content = _download(asset, asset.url(host))
        verify_file(
            asset, content, asset.url(host), "the download broke off or the host serves another file; try again"
        )
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return target


def verify_file(asset: Asset, content: bytes, where: str, advice: str) -> None:
    """Raises DataError, with ``where`` and ``advice``, unless size and digest of ``content`` are the pinned ones."""
    if asset.n_bytes is not None and len(content) != asset.n_bytes:
        raise DataError(f"{asset.name}: {where} has {len(content)} bytes, pinned are {asset.n_bytes}; {advice}")
    kind, pinned, found = (
        ("git blob id", asset.git_blob, git_blob_id(content))
        if asset.git_blob
        else ("sha256", asset.sha256, hashlib.sha256(content).hexdigest())
    )
    if found != pinned:
        raise DataError(f"{asset.name}: {where} has {kind} {found}, pinned is {pinned}; {advice}")


def git_blob_id(content: bytes) -> str:
    """What ``git hash-object`` prints for a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch_folder(folder: AssetFolder, cache: Path, root: Path | None = None) -> Path:
    """The folder's place in ``cache``, filled from ``root`` if need be, whole or not at all. Raises DataError."""
    target = cache / folder.place
    if target.exists():
        verify_folder(folder, target, "delete the folder to copy it again")
        return target
    if root is None or not (root / folder.place).is_dir():
        where = "comes only from a local copy" if root is None else f"{root / folder.place} is absent"
        raise DataError(
            f"{folder.name}: {where}; the names of its {folder.n_files} files are not pinned, so they cannot be "
            f"fetched one by one. Clone {folder.repository} at commit {folder.commit} to ROOT/{folder.repository} and "
            "give ROOT as the root"
        )
    source = root / folder.place
    verify_folder(folder, source, f"check out commit {folder.commit} of {folder.repository}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        copy = Path(temporary, target.name)
        copy.mkdir()
        for path in _texts(source):
            (copy / path.name).write_bytes(path.read_bytes())
        verify_folder(folder, copy, f"{source} changed while it was copied; try again")
        copy.replace(target)
    return target


def verify_folder(folder: AssetFolder, directory: Path, advice: str) -> None:
    """Raises DataError, with ``advice``, unless number, size and digest of the folder's ``*.txt`` are the pinned ones.

    Other files and folders inside do not matter.
    """
    contents = {path.name: path.read_bytes() for path in _texts(directory)}
    n_bytes = sum(map(len, contents.values()))
    if (len(contents), n_bytes) != (folder.n_files, folder.n_bytes):
        raise DataError(
            f"{folder.name}: {directory} has {len(contents)} *.txt of {n_bytes} bytes together, pinned are "
            f"{folder.n_files} of {folder.n_bytes}; {advice}"
        )
    found = folder_digest(contents)
    if found != folder.sha256:
        raise DataError(
            f"{folder.name}: the files in {directory} have digest {found}, pinned is {folder.sha256}; {advice}"
        )


def folder_digest(contents: Mapping[str, bytes]) -> str:
    """sha256 of the lines that ``sha256sum`` prints for files of these names and contents, sorted by name."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(contents.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _texts(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.txt") if path.is_file())


def _download(asset: Asset, url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            content: bytes = response.read()
            return content
    except (OSError, HTTPException) as error:
        short = (
            f"; the commit {asset.commit} is only the beginning of its id: if the host does not know it, put all "
            f"{_FULL_COMMIT} digits (git rev-parse {asset.commit} in a clone) into the table"
            if len(asset.commit) < _FULL_COMMIT
            else ""
        )
        raise DataError(
            f"{asset.name}: {url} cannot be fetched ({str(error) or type(error).__name__}){short}; without a network, "
            f"give a root that holds {asset.place}"
        ) from error
