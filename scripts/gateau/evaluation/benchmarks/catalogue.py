"""The four benchmarks as questions: from a folder of assets and the benchmark's options to what a model is asked.

Prediction rows are put together here too, so that what generation writes is what scorers and judges read: files in the
formats of the released code, one folder per benchmark.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.errors import DataError, SettingsError
from gateau.evaluation.answering.questions import Question, check_items
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS, DataSet
from gateau.evaluation.benchmarks.longbench_chat import cases as longbench_chat
from gateau.evaluation.benchmarks.mt_bench import questions as mt_bench
from gateau.evaluation.benchmarks.needle.prompts import NeedleSettings, needle_prompts, read_haystack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Options = Mapping[str, Any]
Row = dict[str, Any]

_UNWRAPPED = ("few-shot", "code")  # continued as they are: a chat format would ask for an answer instead


def questions(
    benchmark: str, assets: str | Path, options: Options, tokenizer: PreTrainedTokenizerBase
) -> list[Question]:
    """All questions of a benchmark, in its order.

    Args:
        assets: the benchmark's folder, see ``scripts/assets.py``.
        options: the benchmark's part of the configuration (``evaluate.<benchmark>``).
        tokenizer: the model's; only the needle's prompts depend on it.

    Raises:
        DataError: a file of the assets is missing or not what it should be; two items of one id.
        SettingsError: an option that gives no questions.
    """
    found = list(_BENCHMARKS[benchmark](Path(assets), options, tokenizer))
    check_items(found)
    return found


def _longbench(assets: Path, options: Options, tokenizer: PreTrainedTokenizerBase) -> Iterator[Question]:
    templates = _read_json(assets / "dataset2prompt.json")
    new_tokens = _read_json(assets / "dataset2maxlen.json")
    for file in _longbench_files(assets, options):
        name = file.name.removesuffix(".jsonl")
        data_set = DATA_SETS[name.removesuffix("_e")]
        if data_set.name not in templates or data_set.name not in new_tokens:
            raise DataError(f"{assets}: dataset2prompt.json or dataset2maxlen.json has no {data_set.name}")
        for number, row in enumerate(_read_jsonl(file, ("input", "context", "answers", "all_classes", "length")), 1):
            yield Question(
                benchmark="longbench",
                item=f"{name}/{row.get('_id') or number}",
                users=(_filled(templates[data_set.name], row, file, number),),
                wrapped=data_set.category not in _UNWRAPPED,
                max_new_tokens=new_tokens[data_set.name],
                stop_at_newline=data_set.name == "samsum",
                record={
                    "query": row["input"],
                    "answers": row["answers"],
                    "all_classes": row["all_classes"],
                    "length": row["length"],
                    **({"_id": row["_id"]} if row.get("_id") else {}),
                },
            )


def _longbench_files(assets: Path, options: Options) -> list[Path]:
    """The data files that are asked: those chosen, else all that the assets hold. LongBench-E's only if wished."""
    folder = assets / "data"
    chosen: Sequence[str] = options.get("data_sets") or [name for name in DATA_SETS if _exists(folder, name)]
    if unknown := [name for name in chosen if name not in DATA_SETS]:
        raise SettingsError(f"evaluate.longbench.data_sets: no {', '.join(unknown)}; there are {', '.join(DATA_SETS)}")
    names = [name for name in chosen if not options.get("extended") or (folder / f"{name}.jsonl").is_file()]
    if options.get("extended"):
        names += [f"{name}_e" for name in chosen if _in_extended(DATA_SETS[name], folder)]
    if absent := [name for name in names if not (folder / f"{name}.jsonl").is_file()]:
        raise DataError(f"{folder}: no {absent[0]}.jsonl; fetch the assets again, or leave {absent[0]} out")
    return [folder / f"{name}.jsonl" for name in names]


def _exists(folder: Path, name: str) -> bool:
    return (folder / f"{name}.jsonl").is_file()


def _in_extended(data_set: DataSet, folder: Path) -> bool:
    return data_set.extended and _exists(folder, f"{data_set.name}_e")


def _filled(template: str, row: Row, file: Path, number: int) -> str:
    try:
        return template.format(**row)
    except (LookupError, ValueError) as error:
        raise DataError(f"{file}, line {number}: the row does not fill its prompt ({error!r})") from error


def _longbench_chat(assets: Path, options: Options, tokenizer: PreTrainedTokenizerBase) -> Iterator[Question]:
    for case in longbench_chat.read_cases(assets):
        yield Question(
            benchmark="longbench_chat",
            item=str(case.idx),
            users=(longbench_chat.prompt(case, options["protocol"]),),
            max_new_tokens=options["max_new_tokens"],
            record={"idx": case.idx, "query": case.query, "answer": case.answer},
        )


def _needle(assets: Path, options: Options, tokenizer: PreTrainedTokenizerBase) -> Iterator[Question]:
    known = {field.name for field in fields(NeedleSettings)}
    # which keys a right answer holds is the scorer's business
    settings = NeedleSettings(
        **{**{name: value for name, value in options.items() if name in known}, "keys": (options["needle"],)}
    )
    for cell in needle_prompts(settings, tokenizer, read_haystack(assets / "haystack")):
        yield Question(
            benchmark="needle",
            item=cell.id,
            users=(cell.messages()[-1]["content"],),
            system=cell.system or None,
            max_new_tokens=options["max_new_tokens"],
            record={
                "id": cell.id,
                "length": cell.length,
                "depth": cell.depth,
                "actual_depth": cell.actual_depth,
                "n_tokens": cell.n_tokens,
                "needle": settings.needle,
                "question": settings.question,
            },
        )


def _mt_bench(assets: Path, options: Options, tokenizer: PreTrainedTokenizerBase) -> Iterator[Question]:
    for question in mt_bench.read_questions(assets):
        yield Question(
            benchmark="mt_bench",
            item=str(question.question_id),
            users=tuple(question.turns),
            max_new_tokens=options["max_new_tokens"],
            temperature=mt_bench.temperature(question.category),
            seed=0,  # the choice's index, as FastChat has it
            record={"question_id": question.question_id, "category": question.category},
        )


_BENCHMARKS: dict[str, Callable[[Path, Options, PreTrainedTokenizerBase], Iterable[Question]]] = {
    "longbench": _longbench,
    "longbench_chat": _longbench_chat,
    "needle": _needle,
    "mt_bench": _mt_bench,
}
BENCHMARKS = tuple(_BENCHMARKS)


def prediction_files(benchmark: str, model: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Prediction rows by file name, in the format of the benchmark's released code. ``rows``: answers of all shards."""
    files: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        texts = [turn["text"] for turn in row["turns"]]
        if benchmark == "longbench":
            files[f"{row['item'].partition('/')[0]}.jsonl"].append({"pred": texts[0], **row["record"]})
        elif benchmark == "mt_bench":
            answers = [text.strip() for text in texts]
            files[f"model_answer/{model}.jsonl"].append(
                mt_bench.answer_row(row["record"]["question_id"], model, answers)
            )
        else:
            files["predictions.jsonl"].append({**row["record"], "pred": texts[0]})
    return dict(files)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a readable JSON object ({error}); fetch the assets again") from error


def _read_jsonl(path: Path, keys: Sequence[str]) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error}); fetch the assets again") from error
            if not isinstance(row, dict) or any(key not in row for key in keys):
                raise DataError(f"{path}, line {number}: a row holds {', '.join(keys)}; fetch the assets again")
            yield row
