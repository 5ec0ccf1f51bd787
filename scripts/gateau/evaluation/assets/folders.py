"""One benchmark's files under canonical names, whatever they are called where they come from, and where they came from.

``source.json`` beside them says which benchmark, whether its files are the pinned ones or this project's own small set,
and the sha256 of each, so that no score can be mistaken for another set's. The folder is written whole or not at all.

The own sets have the formats of the benchmarks and none of their content; they lie in
``workflow/resources/small_benchmarks`` under the same names.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateau.errors import DataError, SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.assets.pinned import AssetTable, fetch_assets, file_sha256
from gateau.files import write_json

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
        benchmark: its name.
        table: what is pinned.
        cache: see :func:`gateau.evaluation.assets.pinned.fetch_assets`.
        output: the folder, which is replaced as a whole.
        root: see :func:`gateau.evaluation.assets.pinned.fetch_assets`.
        options: the benchmark's options that decide which files are taken.

    Raises:
        DataError: a file cannot be had or is not the pinned one, or ``output`` is a folder of something else.
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
    """Copy the own small set of ``benchmark`` out of the folder ``sets`` to the folder ``output``. Raises DataError."""
    source = Path(sets, benchmark)
    if not source.is_dir():
        raise DataError(f"{source}: no small set of {benchmark} there; restore the folder from the repository")

    def fill(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)

    _write_folder(Path(output), fill, benchmark, "own", benchmarks.load(benchmark).own_data)


def _write_folder(output: Path, fill: Callable[[Path], None], benchmark: str, source: str, label: str) -> None:
    """Let ``fill`` write the files, add source.json, and put the folder in its place at once."""
    if output.exists() and not (output / SOURCE).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: there is something else; choose another folder for the assets, or delete this one")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        folder = Path(temporary, "new")
        folder.mkdir()
        fill(folder)
        files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in folder.rglob("*") if path.is_file()}
        write_json(
            folder / SOURCE,
            {"benchmark": benchmark, "source": source, "data": label, "files": dict(sorted(files.items()))},
        )
        if output.exists():
            output.replace(Path(temporary, "old"))
        folder.replace(output)
