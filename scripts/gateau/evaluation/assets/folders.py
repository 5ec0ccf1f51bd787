"""One benchmark's files under canonical names, whatever they are called where they come from, and where they came from.

``source.json`` beside them says which benchmark, whether its files are the pinned ones or this project's own small set,
and the sha256 of each, so that no score can be mistaken for another set's. The folder is written whole or not at all.

The own sets have the formats of the benchmarks and none of their content; they lie in
``workflow/resources/small_benchmarks`` under the same names.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from gateau.errors import DataError
from gateau.evaluation.assets.pinned import AssetTable, fetch_assets, file_sha256
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS
from gateau.files import write_json

SOURCE = "source.json"
PROTOCOLS = ("gateau", "longalign")

# by benchmark, the asset behind each canonical name
_FILES = {
    "longbench": {
        "dataset2prompt.json": "longbench_prompts",
        "dataset2maxlen.json": "longbench_new_tokens",
        "prompt_for_qa.txt": "longbench_judge_qa",
        "prompt_for_sum.txt": "longbench_judge_summary",
    },
    "longbench_chat": {
        "test_cases.json": "longbench_chat_cases_{protocol}",
        "few_shots.json": "longbench_chat_few_shots",
        "prompt_fs.txt": "longbench_chat_judge",
    },
    "needle": {},
    "mt_bench": {
        "question.jsonl": "mt_bench_questions",
        "judge_prompts.jsonl": "mt_bench_judge",
        "reference_answer.jsonl": "mt_bench_references",
    },
}
_DATA, _ESSAYS = "longbench_data", "needle_essays"
_LABELS = {
    "longbench": "LongBench",
    "longbench_chat": "LongBench-Chat, test cases of {protocol}",
    "needle": "Paul Graham's essays",
    "mt_bench": "MT-Bench",
}
_OWN_LABELS = {
    "longbench": "own small set in LongBench's format",
    "longbench_chat": "own small set in LongBench-Chat's format",
    "needle": "own small haystack",
    "mt_bench": "own small set in MT-Bench's format",
}
BENCHMARKS = tuple(_FILES)
# the real data.zip unpacks to less than a tenth of this
_MOST_DATA_BYTES = 4 << 30


def write_pinned(
    benchmark: str,
    table: AssetTable,
    cache: str | Path,
    output: str | Path,
    root: str | Path | None = None,
    protocol: str = "gateau",
) -> None:
    """Fetch and verify the pinned files of ``benchmark`` and copy them to the folder ``output``.

    Args:
        cache, root: see :func:`gateau.evaluation.assets.pinned.fetch_assets`.
        protocol: whose test cases, for LongBench-Chat.

    Raises:
        DataError: a file cannot be had or is not the pinned one; ``output`` is a folder of something else.
    """
    names = {name: asset.format(protocol=protocol) for name, asset in _FILES[benchmark].items()}
    extra = {"longbench": [_DATA], "needle": [_ESSAYS]}.get(benchmark, [])
    places = fetch_assets(table, cache, root, [*names.values(), *extra])

    def fill(folder: Path) -> None:
        for name, asset in names.items():
            shutil.copyfile(places[asset], folder / name)
        if benchmark == "longbench":
            unpack_longbench(places[_DATA], folder / "data")
        if benchmark == "needle":
            (folder / "haystack").mkdir()
            for path in places[_ESSAYS].glob("*.txt"):
                shutil.copyfile(path, folder / "haystack" / path.name)

    owner = {"gateau": "GATEAU", "longalign": "LongAlign"}[protocol]
    _write_folder(Path(output), fill, benchmark, "pinned", _LABELS[benchmark].format(protocol=owner))


def write_own(benchmark: str, sets: str | Path, output: str | Path) -> None:
    """Copy the own small set of ``benchmark`` out of the folder ``sets`` to the folder ``output``. Raises DataError."""
    source = Path(sets, benchmark)
    if not source.is_dir():
        raise DataError(f"{source}: no small set of {benchmark} there; restore the folder from the repository")

    def fill(folder: Path) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)

    _write_folder(Path(output), fill, benchmark, "own", _OWN_LABELS[benchmark])


def unpack_longbench(archive: Path, folder: Path) -> None:
    """Write LongBench's 21 data sets and LongBench-E's 13 out of its ``data.zip`` into the new ``folder``.

    Raises DataError when one is absent or the zip is damaged.
    """
    names = [f"{item.name}.jsonl" for item in DATA_SETS.values()]
    names += [f"{item.name}_e.jsonl" for item in DATA_SETS.values() if item.extended]
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as members:
            sizes = [members.getinfo(f"data/{name}").file_size for name in names]
            if sum(sizes) > _MOST_DATA_BYTES:
                raise DataError(f"{archive}: {sum(sizes)} bytes of data sets, far more than LongBench's; delete it")
            for name in names:
                with members.open(f"data/{name}") as packed, (folder / name).open("wb") as output:
                    shutil.copyfileobj(packed, output, 1 << 20)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DataError(
            f"{archive}: not LongBench's data.zip ({error}); delete it, and its pin in pins.json, to fetch it again"
        ) from error


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
