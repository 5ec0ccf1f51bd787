"""Find the raw files that the entries of ``data.long`` and ``data.short`` stand for.

An entry is a file, a folder, a glob, or the list of files that rule ``hub_data`` fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import glob, has_magic
from pathlib import Path, PurePath

from gateau.errors import DataError
from gateau.hub_entries import is_listing, listed_files

_ENDINGS = (".jsonl", ".json", ".parquet", ".arrow", ".feather", ".csv")
_COMPRESSED = (".gz", ".zst")
ENDINGS = f"{', '.join(_ENDINGS)}, plain, .gz or .zst"  # for messages
_NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # beside saved data sets


def expanded(entries: Sequence[str], setting: str) -> list[str]:
    """Return the files of all entries: a file itself, the data files below a folder, or what a glob matches, sorted.

    Args:
        entries: paths of files or folders, globs, and lists of files that were fetched from the hub.
        setting: the configuration key that lists the entries, for error messages.

    Raises:
        DataError: an entry does not exist, a folder has no data files, or a glob matches nothing or a folder.
    """
    return [path for path, _ in named(entries, setting)]


def named(entries: Sequence[str], setting: str) -> list[tuple[str, str]]:
    """Return what :func:`expanded` returns, each file with its name: its path, or ``OWNER/NAME/<path>`` on the hub."""
    return [
        file
        for entry in entries
        for file in (listed_files(entry) if is_listing(entry) else [(path, path) for path in _files_of(entry, setting)])
    ]


def _files_of(entry: str, setting: str) -> list[str]:
    path = Path(entry)
    if path.is_file():
        return [entry]
    if path.is_dir():
        if found := [str(file) for file in sorted(_files_below(path)) if is_data(file.relative_to(path))]:
            return found
        raise DataError(
            f"{entry}: the folder has no data files ({ENDINGS}); set {setting} to a folder that has, or name the "
            "files themselves"
        )
    if not has_magic(entry):
        raise DataError(
            f"{entry}: no such file; set {setting} to files, folders or globs of your own rows (relative paths start "
            "at the working directory), or try the embedded data with --configfile config/demo.yaml"
        )
    matches = sorted(glob(entry, recursive=True))
    if not matches:
        raise DataError(f"{entry}: the glob matches no file; correct it in {setting}")
    if folder := next((match for match in matches if Path(match).is_dir()), None):
        raise DataError(
            f"{entry}: the glob matches the folder {folder}; end it with the ending of the files in {setting}, such as "
            "*.parquet, or give the folder itself"
        )
    return matches


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files below a folder. Hidden folders and links to a folder around them are left out."""
    place = folder.resolve()
    if place in above:
        return
    with suppress(PermissionError):  # of folders like lost+found
        for path in folder.iterdir():
            if path.is_dir() and path.name[0] != ".":
                yield from _files_below(path, (*above, place))
            elif path.is_file():
                yield path


def is_data(path: PurePath) -> bool:
    """Return whether a path inside a folder looks like a data file: a known ending, and no hidden part.

    Files that the library datasets caches beside a saved data set, ``cache-<fingerprint>.arrow``, are none: they hold
    its rows once more, or those of another.
    """
    name = path.name
    if name.startswith("cache-") and name.endswith(".arrow"):
        return False
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return name.endswith(_ENDINGS) and name not in _NOT_ROWS and not any(part[0] == "." for part in path.parts)
