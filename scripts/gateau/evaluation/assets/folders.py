"""One folder per benchmark, with canonical file names and a record of where the files come from.

The record is ``source.json``. It names the benchmark, says whether the files are the pinned ones or this project's own
small set, and lists the sha256 of each file. No score can therefore be mistaken for one of another set. The folder is
written whole or not at all.

The own small sets have the formats of the benchmarks and none of their content. They lie in
``workflow/resources/small_benchmarks`` under the same names.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateau.digests import file_sha256, visible_files
from gateau.errors import DataError, SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.assets.pinned import fetch_assets
from gateau.evaluation.assets.table import AssetTable
from gateau.files import new_folder, write_json

SOURCE = "source.json"


def write_pinned(
    benchmark: str,
    table: AssetTable,
    cache: str | Path,
    output: str | Path,
    root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Fetch and verify the pinned files of a benchmark and copy them to the folder ``output``.

    Args:
        benchmark: name of the benchmark.
        table: the pinned assets.
        cache: see :func:`gateau.evaluation.assets.pinned.fetch_assets`.
        output: the folder, which is replaced as a whole.
        root: see :func:`gateau.evaluation.assets.pinned.fetch_assets`.
        options: the benchmark's options that decide which files are taken.

    Raises:
        DataError: a file is absent, cannot be fetched or is not the pinned one, or ``output`` holds something else.
        SettingsError: the benchmark has no released files.
    """
    pinned = benchmarks.load(benchmark).pinned
    if pinned is None:
        raise SettingsError(f"{benchmark} has no released files; set evaluate.assets.source: own")
    names = pinned.files(options or {})
    places = fetch_assets(table, cache, root, [*names.values(), *pinned.unpacked])

    def fill(folder: Path) -> None:
        for name, asset in names.items():
            shutil.copyfile(places[asset], folder / name)
        if pinned.unpack:
            pinned.unpack(places, folder)

    _write_folder(Path(output), fill, benchmark, "pinned", pinned.data(options or {}))


def write_own(benchmark: str, sets: str | Path, output: str | Path) -> None:
    """Copy the own small set of a benchmark to the folder ``output``.

    Args:
        benchmark: name of the benchmark.
        sets: folder with the small sets, one folder per benchmark.
        output: the folder, which is replaced as a whole.

    Raises:
        DataError: there is no small set of this benchmark, or ``output`` holds something else.
    """
    source = Path(sets, benchmark)
    if not source.is_dir():
        raise DataError(f"{source}: no small set of {benchmark} there; restore the folder from the repository")

    def fill(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)

    _write_folder(Path(output), fill, benchmark, "own", benchmarks.load(benchmark).own_data)


def _write_folder(output: Path, fill: Callable[[Path], None], benchmark: str, source: str, label: str) -> None:
    """Write the files with ``fill``, and ``source.json`` beside them; refuse to replace anything but assets."""
    if output.exists() and not (output / SOURCE).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(
            f"{output}: holds something other than assets; choose another folder for the assets, or delete this one"
        )
    with new_folder(output) as folder:
        fill(folder)
        files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in visible_files(folder)}
        write_json(folder / SOURCE, {"benchmark": benchmark, "source": source, "data": label, "files": files})
