"""Pinned files of the benchmarks: fetched, never committed, and never used before size and digest are seen to be right.

The table names each file by repository, commit and path. A file lies under ``<owner>/<repository>/<path>`` both in the
cache and below an offline root, so that a clone of each repository at that place makes a root. The digest, not the
place, says whether a file is the right one.

The names of a folder's texts are not in the table, only their common digest: they come out of the repository's archive
at that commit. A zip whose digest nobody has written into the table is pinned by its first download: the digest goes
into ``pins.json`` in the cache, and from then on another file is refused.

What lies in the cache already is checked and never fetched again, nor replaced when it is wrong: that is for its owner
to delete.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from gateau.errors import DataError
from gateau.evaluation.assets.downloads import Unfetched, download, extract_texts
from gateau.files import atomic_path, write_json

PINS = "pins.json"
_FULL_COMMIT = 40
_CHUNK = 1 << 20

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
    """All ``*.txt`` of a folder, pinned together; their names are not.

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

    def archive_url(self, host: str) -> str:
        """Address of the whole repository at a host that packs commits as GitHub's codeload does."""
        return f"{host}/{self.repository}/tar.gz/{self.commit}"


@dataclass(frozen=True)
class AssetZip:
    """A zip that has no commit. Without ``sha256``, its first download pins it."""

    name: str
    url: str
    path: str
    n_bytes: int | None = None
    sha256: str | None = None

    @property
    def place(self) -> Path:
        """Where it lies below the cache or an offline root."""
        return Path(self.path)


@dataclass(frozen=True)
class AssetTable:
    """Everything that is pinned, and the hosts of raw files and of repositories' archives."""

    host: str
    archive_host: str
    files: tuple[Asset, ...]
    folders: tuple[AssetFolder, ...]
    zips: tuple[AssetZip, ...]


def read_table(path: str | Path) -> AssetTable:
    """Read a table of assets (JSON). Raises DataError, naming the entry that is wrong."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path}: no table of assets ({error})") from error
    keys = [field.name for field in fields(AssetTable)]
    if not isinstance(table, dict) or set(table) != set(keys):
        raise DataError(f"{path}: a table of assets is a JSON object with {', '.join(keys)}")
    files = _entries(Asset, table, "files", path)
    folders = _entries(AssetFolder, table, "folders", path)
    zips = _entries(AssetZip, table, "zips", path)
    for asset in files:
        if (asset.sha256 is None) == (asset.git_blob is None) or (asset.sha256 and asset.n_bytes is None):
            raise DataError(f"{path}: {asset.name} needs either sha256 with n_bytes, or git_blob")
    every: list[Asset | AssetFolder | AssetZip] = [*files, *folders, *zips]
    names = [entry.name for entry in every]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: named twice: {', '.join(doubled)}; each asset has its own name")
    return AssetTable(table["host"], table["archive_host"], files, folders, zips)


def _entries(kind: type[Entry], table: Mapping[str, Any], key: str, path: str | Path) -> tuple[Entry, ...]:
    return tuple(_entry(kind, row, f"{path}: {key}[{number}]") for number, row in enumerate(table[key]))


def _entry(kind: type[Entry], row: Mapping[str, Any], where: str) -> Entry:
    try:
        entry = kind(**row)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
        raise DataError(f"{where} is no asset ({error}); its keys are {known}") from error
    place = Path(row.get("repository", ""), row["path"])
    if place.is_absolute() or ".." in place.parts:
        raise DataError(f"{where}: the path must stay inside its repository")
    if "commit" in row and not re.fullmatch("[0-9a-f]{7,40}", str(row["commit"])):
        raise DataError(f"{where}: the commit must be 7 to 40 hex digits")
    return entry


def fetch_assets(
    table: AssetTable, cache: str | Path, root: str | Path | None = None, names: Iterable[str] | None = None
) -> dict[str, Path]:
    """Put assets (all, or those of ``names``) into ``cache``, verified, and return where each lies.

    With a ``root``, files come from there and the network is never asked.

    Raises DataError for an unknown name and for an asset that is absent, cannot be fetched or is not the pinned one.
    """
    every: list[Asset | AssetFolder | AssetZip] = [*table.files, *table.folders, *table.zips]
    known = {entry.name: entry for entry in every}
    wanted = list(known) if names is None else list(names)
    if unknown := [name for name in wanted if name not in known]:
        raise DataError(f"no such assets: {', '.join(unknown)}; known are {', '.join(known)}")
    into, source = Path(cache), None if root is None else Path(root)
    places = {}
    for name in wanted:
        entry = known[name]
        if isinstance(entry, Asset):
            places[name] = fetch_file(entry, table.host, into, source)
        elif isinstance(entry, AssetFolder):
            places[name] = fetch_folder(entry, table.archive_host, into, source)
        else:
            places[name] = fetch_zip(entry, into, source)
    return places


def fetch_file(asset: Asset, host: str, cache: Path, root: Path | None = None) -> Path:
    """One file's place in ``cache``, filled from ``root`` or else from ``host`` if need be. Raises DataError."""
    target = cache / asset.place
    if target.exists():
        verify_file(asset, target, f"{target}", "delete it to fetch it again")
        return target
    if root is not None:
        source = root / asset.place
        if not source.is_file():
            raise DataError(
                f"{asset.name}: {source} is absent; put the file of {asset.repository} at commit {asset.commit} there "
                "(a clone of the repository at that place will do), or leave out the root to fetch it"
            )
        verify_file(asset, source, f"{source}", f"check out commit {asset.commit} of {asset.repository}")
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
        return target
    url = asset.url(host)
    with atomic_path(target) as temporary:
        try:
            download(url, temporary, asset.name)
        except Unfetched as error:
            raise DataError(f"{error}{_about_short(asset.commit)}; {_without_network(asset.place)}") from error
        verify_file(asset, temporary, url, "the download broke off or the host serves another file; try again")
    return target


def _about_short(commit: str) -> str:
    if len(commit) == _FULL_COMMIT:
        return ""
    return (
        f"; the commit {commit} is only the beginning of its id: if the host does not know it, put all {_FULL_COMMIT} "
        f"digits (git rev-parse {commit} in a clone) into the table"
    )


def _without_network(place: Path) -> str:
    return f"without a network, give a root that holds {place}"


def verify_file(asset: Asset, path: Path, where: str, advice: str) -> None:
    """Raises DataError, with ``where`` and ``advice``, unless size and digest of ``path`` are the pinned ones."""
    n_bytes = path.stat().st_size
    if asset.n_bytes is not None and n_bytes != asset.n_bytes:
        raise DataError(f"{asset.name}: {where} has {n_bytes} bytes, pinned are {asset.n_bytes}; {advice}")
    kind, pinned, found = (
        ("git blob id", asset.git_blob, git_blob_id(path))
        if asset.git_blob
        else ("sha256", asset.sha256, file_sha256(path))
    )
    if found != pinned:
        raise DataError(f"{asset.name}: {where} has {kind} {found}, pinned is {pinned}; {advice}")


def file_sha256(path: Path) -> str:
    """What ``sha256sum`` prints for the file; read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_id(path: Path) -> str:
    """What ``git hash-object`` prints for the file; read in pieces."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch_folder(folder: AssetFolder, host: str, cache: Path, root: Path | None = None) -> Path:
    """The folder's place in ``cache``, filled from ``root`` or else from ``host`` if need be, whole or not at all.

    Raises DataError.
    """
    target = cache / folder.place
    if target.exists():
        verify_folder(folder, target, "delete the folder to fetch it again")
        return target
    source = None if root is None else root / folder.place
    if source is not None:
        if not source.is_dir():
            raise DataError(
                f"{folder.name}: {source} is absent; clone {folder.repository} at commit {folder.commit} to "
                f"ROOT/{folder.repository} and give ROOT as the root, or leave out the root to fetch it"
            )
        verify_folder(folder, source, f"check out commit {folder.commit} of {folder.repository}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        copy = Path(temporary, target.name)
        copy.mkdir()
        if source is None:
            _unpack_folder(folder, host, copy, Path(temporary, "archive.tar.gz"))
        else:
            for path in _texts(source):
                shutil.copyfile(path, copy / path.name)
            verify_folder(folder, copy, f"{source} changed while it was copied; try again")
        copy.replace(target)
    return target


def _unpack_folder(folder: AssetFolder, host: str, into: Path, archive: Path) -> None:
    url = folder.archive_url(host)
    try:
        download(url, archive, folder.name)
    except Unfetched as error:
        raise DataError(f"{error}{_about_short(folder.commit)}; {_without_network(folder.place)}") from error
    try:
        extract_texts(archive, folder.path, into, folder.n_bytes)
    except DataError as error:
        raise DataError(f"{folder.name}: {url}: {error}; the download broke off or is another archive") from error
    verify_folder(folder, into, f"{url} is another archive; try again")


def verify_folder(folder: AssetFolder, directory: Path, advice: str) -> None:
    """Raises DataError, with ``advice``, unless number, size and digest of the folder's ``*.txt`` are the pinned ones.

    Other files and folders inside do not matter.
    """
    texts = _texts(directory)
    n_bytes = sum(path.stat().st_size for path in texts)
    if (len(texts), n_bytes) != (folder.n_files, folder.n_bytes):
        raise DataError(
            f"{folder.name}: {directory} has {len(texts)} *.txt of {n_bytes} bytes together, pinned are "
            f"{folder.n_files} of {folder.n_bytes}; {advice}"
        )
    found = folder_digest({path.name: file_sha256(path) for path in texts})
    if found != folder.sha256:
        raise DataError(
            f"{folder.name}: the files in {directory} have digest {found}, pinned is {folder.sha256}; {advice}"
        )


def folder_digest(digests: Mapping[str, str]) -> str:
    """sha256 of the lines that ``sha256sum`` prints for files of these names and digests, sorted by name."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _texts(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.txt") if path.is_file())


def fetch_zip(archive: AssetZip, cache: Path, root: Path | None = None) -> Path:
    """The zip's place in ``cache``, filled from ``root`` or else from its address if need be. Raises DataError.

    Where the table has no digest, the file that comes first is pinned in the cache's ``pins.json``.
    """
    target = cache / archive.place
    if target.exists():
        _verify_zip(archive, target, f"{target}", cache)
        return target
    if root is not None:
        source = root / archive.place
        if not source.is_file():
            raise DataError(
                f"{archive.name}: {source} is absent; put the file of {archive.url} there, or leave out the root to "
                "fetch it"
            )
        _verify_zip(archive, source, f"{source}", cache)
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
        return target
    with atomic_path(target) as temporary:
        try:
            download(archive.url, temporary, archive.name)
        except Unfetched as error:
            raise DataError(
                f"{error}; without a network, fetch it elsewhere to ROOT/{archive.place} and give ROOT as the root"
            ) from error
        _verify_zip(archive, temporary, archive.url, cache)
    return target


def _verify_zip(archive: AssetZip, path: Path, where: str, cache: Path) -> None:
    """Against the table, else against the pins of the cache, else pin it there."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{archive.name}: {where} is no zip; the download broke off or is another file, try again")
    found = {"sha256": file_sha256(path), "n_bytes": path.stat().st_size}
    pins = _read_pins(cache / PINS)
    if archive.sha256 is not None:
        pinned, pinned_in = archive.sha256, "the table of assets"
    elif archive.name in pins:
        pinned, pinned_in = pins[archive.name]["sha256"], f"{cache / PINS}"
    else:
        write_json(cache / PINS, {**pins, archive.name: {**found, "url": archive.url}})
        return
    if found["sha256"] != pinned:
        raise DataError(
            f"{archive.name}: {where} has sha256 {found['sha256']} ({found['n_bytes']} bytes), pinned in {pinned_in} "
            f"is {pinned}; get the pinned file, or, if the other one is meant, delete the pin and the file in the cache"
        )


def _read_pins(path: Path) -> dict[str, dict[str, Any]]:
    try:
        pins = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(pin["sha256"], str) for pin in pins.values()):
            return dict(pins)
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise DataError(f"{path}: not the pins of earlier downloads; restore the file, or delete it to pin anew")
