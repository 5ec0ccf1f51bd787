"""LongBench's rows as questions, and answers as its prediction files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gateau.errors import DataError, SettingsError
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.benchmarks.base import Options
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS, DataSet
from gateau.files import Row, read_json, read_jsonl

_FIELDS = ("input", "context", "answers", "all_classes", "length")
# these are continued as they are: a chat format would ask for an answer instead
_UNWRAPPED = ("few-shot", "code")


def questions(assets: Path, options: Options, tokenizer: object) -> Iterator[Question]:
    """Yield the questions of all chosen data sets, in order. The tokenizer is not used.

    Raises:
        DataError: a file of the assets is missing or cannot be used.
        SettingsError: a chosen data set does not exist.
    """
    templates = _read_object(assets / "dataset2prompt.json")
    new_tokens = _read_object(assets / "dataset2maxlen.json")
    for file in _data_files(assets / "data", options):
        name = file.name.removesuffix(".jsonl")
        data_set = DATA_SETS[name.removesuffix("_e")]
        if data_set.name not in templates or data_set.name not in new_tokens:
            raise DataError(f"{assets}: dataset2prompt.json or dataset2maxlen.json has no {data_set.name}")
        for number, (where, row) in enumerate(read_jsonl(file), start=1):
            if any(key not in row for key in _FIELDS):
                raise DataError(f"{where}: a row holds {', '.join(_FIELDS)}; fetch the assets again")
            yield Question(
                benchmark="longbench",
                item=f"{name}/{row.get('_id') or number}",
                users=(_filled(templates[data_set.name], row, where),),
                wrapped=data_set.category not in _UNWRAPPED,
                max_new_tokens=new_tokens[data_set.name],
                stop_at_newline=data_set.name == "samsum",
                record={
                    "query": row["input"],
                    "answers": row["answers"],
                    "all_classes": row["all_classes"],
                    "length": row["length"],
                    "context_sha256": hashlib.sha256(str(row["context"]).encode()).hexdigest(),
                    **({"_id": row["_id"]} if row.get("_id") else {}),
                },
            )


def prediction_rows(model: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of one file for each data set, as the released code writes them."""
    files: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        files[f"{row['item'].partition('/')[0]}.jsonl"].append({"pred": row["turns"][0]["text"], **row["record"]})
    return dict(files)


def _data_files(folder: Path, options: Options) -> list[Path]:
    """Return the files of the chosen data sets, or of all that exist.

    The option ``extended`` adds LongBench-E's files, or takes them ``only``.
    """
    chosen: Sequence[str] = options.get("data_sets", "all")
    extended = options.get("extended", False)
    if chosen == "all":
        chosen = [name for name in DATA_SETS if _exists(folder, name)]
    if unknown := [name for name in chosen if name not in DATA_SETS]:
        raise SettingsError(
            f"evaluate.longbench.data_sets: {', '.join(unknown)} does not exist; choose from {', '.join(DATA_SETS)}"
        )
    names = [name for name in chosen if not extended or (extended != "only" and _exists(folder, name))]
    if extended:
        names += [f"{name}_e" for name in chosen if _has_extended(folder, DATA_SETS[name])]
    if absent := [name for name in names if not _exists(folder, name)]:
        raise DataError(f"{folder}: no {absent[0]}.jsonl; fetch the assets again, or do not choose {absent[0]}")
    return [folder / f"{name}.jsonl" for name in names]


def _exists(folder: Path, name: str) -> bool:
    return (folder / f"{name}.jsonl").is_file()


def _has_extended(folder: Path, data_set: DataSet) -> bool:
    return data_set.extended and _exists(folder, f"{data_set.name}_e")


def _filled(template: str, row: Row, where: str) -> str:
    try:
        return template.format(**row)
    except (LookupError, ValueError) as error:
        raise DataError(f"{where}: the row does not fill its prompt ({error!r}); fetch the assets again") from error


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}: not a JSON object; fetch the assets again")
    return value
