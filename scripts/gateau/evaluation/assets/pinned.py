"""Pinned files of the benchmarks: fetched into a cache, and used only if size and digest are right.

The digest decides whether a file is the right one, not its place. Three kinds of assets are pinned:

- A file of a repository at a commit is fetched alone.
- The texts of a folder come out of the repository's archive at a commit.
- A zip without a digest in the table is pinned by its first download: its digest is written to ``pins.json`` in the
  cache, and a zip with another digest is refused from then on.

A file that is in the cache already is verified and never fetched again. If it is wrong, it is not replaced: its owner
must delete it.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gateau.digests import file_sha256, git_blob_id
from gateau.errors import DataError
from gateau.evaluation.assets.downloads import Unfetched, download, extract_texts
from gateau.evaluation.assets.table import AnyAsset, Asset, AssetFolder, AssetTable, AssetZip
from gateau.files import atomic_path, new_folder, read_json, write_json

PINS = "pins.json"
_FULL_COMMIT = 40  # hex digits


def fetch_assets(
    table: AssetTable, cache: str | Path, root: str | Path | None = None, names: Iterable[str] | None = None
) -> dict[str, Path]:
    """Put assets into ``cache``, verified, and return the place of each by name.

    Args:
        table: the pinned assets.
        cache: folder of verified files. It may be shared by any number of runs.
        root: folder that holds the assets, each at its place (``<owner>/<repository>/<path>``). If given, the network
            is not used.
        names: which assets; all of them if not given.

    Raises:
        DataError: a name is unknown, or an asset is absent, cannot be fetched or is not the pinned one.
    """
    known = {entry.name: entry for entry in table.entries}
    wanted = list(known) if names is None else list(names)
    if unknown := [name for name in wanted if name not in known]:
        raise DataError(f"no such assets: {', '.join(unknown)}; known are {', '.join(known)}")
    into, source = Path(cache), None if root is None else Path(root)
    return {name: _fetch(known[name], table, into, source) for name in wanted}


def _fetch(entry: AnyAsset, table: AssetTable, cache: Path, root: Path | None) -> Path:
    """Return an asset's place in ``cache``. If it is absent there, fill it from ``root``, or else from the network."""
    target = cache / entry.place
    if target.exists():
        _verify(entry, target, str(target), "delete it to fetch it again", cache / PINS)
        return target
    with new_folder(target) if isinstance(entry, AssetFolder) else atomic_path(target) as temporary:
        if root is None:
            where, advice = _address(entry, table), "the download broke off or the host serves other content; try again"
            _download(entry, where, temporary)
        else:
            where, advice = str(root / entry.place), f"put {entry.origin} there (a clone of the repository will do)"
            _copy(entry, root / entry.place, temporary, advice)
        _verify(entry, temporary, where, advice, cache / PINS)
    return target


def _address(entry: AnyAsset, table: AssetTable) -> str:
    if isinstance(entry, AssetZip):
        return entry.url
    return entry.url(table.archive_host if isinstance(entry, AssetFolder) else table.host)


def _copy(entry: AnyAsset, source: Path, target: Path, advice: str) -> None:
    """Copy a file, or the texts of a folder, out of an offline root."""
    if not (source.is_dir() if isinstance(entry, AssetFolder) else source.is_file()):
        raise DataError(f"{entry.name}: {source} is absent; {advice}, or leave out the root to fetch it")
    if isinstance(entry, AssetFolder):
        for path in _texts(source):
            shutil.copyfile(path, target / path.name)
    else:
        shutil.copyfile(source, target)


def _download(entry: AnyAsset, url: str, target: Path) -> None:
    """Download a file, or the archive of a repository and unpack the texts of one folder."""
    archive = target / ".archive.tar.gz" if isinstance(entry, AssetFolder) else target
    try:
        download(url, archive, entry.name)
    except Unfetched as error:
        commit = "" if isinstance(entry, AssetZip) else entry.commit
        raise DataError(
            f"{error}{_about_short(commit)}; without a network, give a root that holds {entry.place}"
        ) from error
    if isinstance(entry, AssetFolder):
        try:
            extract_texts(archive, entry.path, target, entry.n_bytes)
        except DataError as error:
            raise DataError(
                f"{entry.name}: {url}: {error}; the download broke off or the host serves another archive; try again"
            ) from error
        archive.unlink()


def _about_short(commit: str) -> str:
    if len(commit) in {0, _FULL_COMMIT}:
        return ""
    return (
        f"; {commit} is only the beginning of the commit id: if the host does not know it, put all {_FULL_COMMIT} "
        f"digits (git rev-parse {commit} in a clone) into the table"
    )


def _verify(entry: AnyAsset, path: Path, where: str, advice: str, pins: Path) -> None:
    """Raise DataError, with ``where`` and ``advice``, unless ``path`` has the pinned content."""
    if isinstance(entry, AssetFolder):
        _verify_folder(entry, path, where, advice)
    elif isinstance(entry, AssetZip):
        _verify_zip(entry, path, where, advice, pins)
    else:
        _verify_file(entry, path, where, advice)


def _verify_file(asset: Asset, path: Path, where: str, advice: str) -> None:
    n_bytes = path.stat().st_size
    if asset.n_bytes is not None and n_bytes != asset.n_bytes:
        raise DataError(f"{asset.name}: {where} has {n_bytes} bytes instead of {asset.n_bytes}; {advice}")
    kind, pinned, found = (
        ("git blob id", asset.git_blob, git_blob_id(path))
        if asset.git_blob
        else ("sha256", asset.sha256, file_sha256(path))
    )
    if found != pinned:
        raise DataError(f"{asset.name}: {where} has {kind} {found} instead of the pinned {pinned}; {advice}")


def _verify_folder(folder: AssetFolder, path: Path, where: str, advice: str) -> None:
    """Compare number, size and digest of the folder's ``*.txt``. Other files and folders inside do not matter."""
    texts = _texts(path)
    n_bytes = sum(text.stat().st_size for text in texts)
    if (len(texts), n_bytes) != (folder.n_files, folder.n_bytes):
        raise DataError(
            f"{folder.name}: {where} has {len(texts)} *.txt of {n_bytes} bytes together instead of {folder.n_files} "
            f"of {folder.n_bytes}; {advice}"
        )
    found = folder_digest({text.name: file_sha256(text) for text in texts})
    if found != folder.sha256:
        raise DataError(
            f"{folder.name}: the texts in {where} have digest {found} instead of the pinned {folder.sha256}; {advice}"
        )


def folder_digest(digests: Mapping[str, str]) -> str:
    """Return the sha256 of the lines that ``sha256sum`` prints for files, sorted by name.

    Args:
        digests: hexadecimal sha256 of each file by name.
    """
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.txt") if path.is_file())


def _verify_zip(archive: AssetZip, path: Path, where: str, advice: str, pins_file: Path) -> None:
    """Compare a zip with its digest in the table, or else with its pin. Without either, pin it."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{archive.name}: {where} is not a zip file; {advice}")
    found, n_bytes = file_sha256(path), path.stat().st_size
    pins = _read_pins(pins_file)
    if archive.sha256 is not None:
        pinned, pinned_in = archive.sha256, "the table of assets"
    elif archive.name in pins:
        pinned, pinned_in = pins[archive.name]["sha256"], str(pins_file)
    else:
        pin = {"sha256": found, "n_bytes": n_bytes, "url": archive.url}
        write_json(pins_file, {**pins, archive.name: pin})
        return
    if found != pinned:
        raise DataError(
            f"{archive.name}: {where} has sha256 {found} ({n_bytes} bytes), but {pinned_in} pins {pinned}; get the "
            "pinned file. If you want the other one, delete the pin and the file in the cache"
        )


def _read_pins(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        pins = read_json(path)
        if all(isinstance(pin["sha256"], str) for pin in pins.values()):
            return dict(pins)
    except (DataError, LookupError, TypeError, AttributeError):
        pass
    raise DataError(f"{path}: not the pins of earlier downloads; restore the file, or delete it to pin again")
