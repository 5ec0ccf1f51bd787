"""Run one task of the harness: load it with its data, set its lengths, ask the model, and return the harness's results.

Answers are kept in a file of the harness's own cache, one by one, so that a job that was killed asks only for the rest.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.errors import DataError, SettingsError
from gateau.evaluation.harness.index import GENERATED, TaskIndex, check_exists

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task

logger = logging.getLogger(__name__)

_SEED, _FEWSHOT_SEED = 0, 1234  # the harness's own
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True)
class TaskOptions:
    """How a task is run.

    Attributes:
        lengths: lengths of the texts in tokens, for tasks that make texts of given lengths.
        limit: number of items of a task, or of each length; None for all.
        num_fewshot: number of examples in each prompt; None for the task's own.
        metadata: further settings that tasks read when they make their data.
    """

    lengths: Sequence[int] = (4096,)
    limit: int | None = None
    num_fewshot: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedTask:
    """A task, or the tasks of a group or tag, with their data.

    Attributes:
        name: as configured.
        tasks: the single tasks by name.
        groups: the groups by name, among them the one of this name if it is a group.
        lengths: lengths of the texts that were made; empty if no task makes texts of given lengths.
    """

    name: str
    tasks: Mapping[str, Task]
    groups: Mapping[str, Group]
    lengths: Sequence[int] = ()


def use_folder(cache: str | Path, offline: bool) -> None:
    """Have data sets kept in ``cache``, and the network left alone if ``offline``, before any library reads that."""
    folder = Path(cache).absolute()
    for variable, name in (("HF_DATASETS_CACHE", "datasets"), ("NLTK_DATA", "nltk_data")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(folder / name)
    if offline:
        os.environ["HF_DATASETS_OFFLINE"] = "1"


def clamped_lengths(lengths: Sequence[int], window: int | None, answer: int) -> list[int]:
    """Return the lengths, each at most the window minus the answer, without repetitions.

    Raises:
        SettingsError: the window has no room beside the answer.
    """
    if window is None:
        return sorted(set(lengths))
    if (most := window - answer) <= 0:
        raise SettingsError(
            f"evaluate.harness.lengths: the model's window of {window} tokens has no room beside an answer of {answer}"
        )
    if longer := [length for length in lengths if length > most]:
        logger.warning(
            "lengths %s become %d: the window is %d, and an answer takes %d tokens",
            longer,
            most,
            window,
            answer,
        )
    return sorted({min(length, most) for length in lengths})


def load_task(
    name: str,
    index: TaskIndex,
    options: TaskOptions,
    cache: str | Path,
    tokenizer: str,
    window: int | None,
    reasoning: int,
) -> LoadedTask:
    """Return a task with its data.

    Args:
        name: of a task, group or tag.
        index: all known names.
        options: how it is run.
        cache: folder of the data sets, for messages.
        tokenizer: place of the tokenizer, with which tasks measure the texts that they make.
        window: the model's window in tokens, or None if there is no limit.
        reasoning: number of tokens that an answer may have for its reasoning.

    Raises:
        SettingsError: the task does not exist, runs code of the model, or the window is too small.
        DataError: the task's data is neither cached nor reachable, or a package is missing.
    """
    check_exists(name, index)
    leaves = index.leaves(name)
    metadata: dict[str, Any] = {"pretrained": tokenizer}
    lengths: list[int] = []
    if sized := [one for one in leaves.values() if one.lengths]:
        answer = max(one.answer_tokens for one in sized) + reasoning
        lengths = clamped_lengths(options.lengths, window, answer)
        metadata["max_seq_lengths"] = lengths
    from lm_eval.config.group import AggMetricConfig
    from lm_eval.tasks import TaskManager

    _download_nothing_offline()
    _seed()  # tasks that make their data draw from these generators
    folders = list(map(str, index.folders(name)))
    manager = TaskManager(include_defaults=False, include_path=folders, metadata={**metadata, **options.metadata})
    try:
        loaded = manager.load([name])
    except _loading_errors() as error:
        if lengths and type(error) is ValueError:
            raise SettingsError(
                f"{name}: there are no texts of {' or '.join(map(str, lengths))} tokens ({_reason(error)}); change "
                "evaluate.harness.lengths, or leave out models with a small window"
            ) from error
        raise DataError(_advice(name, index, cache, error)) from error
    if unsafe := [one for one, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]:
        raise SettingsError(f"{unsafe[0]}: this task runs code that the model writes, which is not supported here")
    for task in loaded["tasks"].values():
        if reasoning and task.get_config("output_type") == GENERATED:
            kwargs = task.get_config("generation_kwargs") or {}
            room = int(kwargs.get("max_gen_toks") or 256) + reasoning
            task.set_config(key="generation_kwargs", value={"max_gen_toks": room}, update=True)
    groups = loaded.get("groups", {})
    if lengths:  # a group's file names the harness's default length only
        for group in groups.values():
            group.aggregate_metric_list = [AggMetricConfig(str(length), weight_by_size=False) for length in lengths]
    return LoadedTask(name, loaded["tasks"], groups, lengths)


def run_task(loaded: LoadedTask, lm: LM, options: TaskOptions, chat: bool, cache: Path) -> dict[str, Any]:
    """Ask the model, and return the harness's results with a record of every item.

    Args:
        loaded: the task.
        lm: the model.
        options: how the task is run.
        chat: whether the chat template is applied.
        cache: file for the answers, without its ending.
    """
    from lm_eval.api.model import CachingLM
    from lm_eval.evaluator import evaluate
    from lm_eval.utils import set_torch_seed

    for task in loaded.tasks.values():
        own = task.get_config("num_fewshot")
        if own is None or (options.num_fewshot is not None and own != 0):  # the harness never changes a 0 of a task
            task.set_config(key="num_fewshot", value=options.num_fewshot or 0)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    _seed()
    set_torch_seed(_FEWSHOT_SEED)
    cache.parent.mkdir(parents=True, exist_ok=True)
    caching = CachingLM(lm, f"{cache}.db")
    ask = caching.generate_until
    caching.generate_until = lambda requests: [
        _until(text, one.args[1]) for one, text in zip(requests, ask(requests), strict=True)
    ]
    results: dict[str, Any] = evaluate(
        lm=caching,
        task_dict={"tasks": dict(loaded.tasks), "groups": dict(loaded.groups)},
        samples=_chosen_items(loaded, options.limit),
        bootstrap_iters=0,  # intervals are computed from the items
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    return results


def _until(text: str, options: Mapping[str, Any]) -> str:
    """Return an answer up to where it should have stopped, because some servers send the stop text too."""
    stops = options.get("until") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text


def _seed() -> None:
    import numpy as np

    random.seed(_SEED)
    np.random.seed(_FEWSHOT_SEED)  # noqa: NPY002 (the harness's)


def _chosen_items(loaded: LoadedTask, limit: int | None) -> dict[str, list[int]] | None:
    """Return the numbers of the first items of each task, or of each length of a task; None for all items."""
    if limit is None:
        return None
    chosen: dict[str, list[int]] = {}
    for name, task in loaded.tasks.items():
        counts: dict[Any, int] = {}
        chosen[name] = []
        for number, doc in enumerate(task.eval_docs):
            part = doc.get("max_length") if loaded.lengths and isinstance(doc, Mapping) else None
            counts[part] = counts.get(part, 0) + 1
            if counts[part] <= limit:
                chosen[name].append(number)
    return chosen


def _loading_errors() -> tuple[type[Exception], ...]:
    from datasets.exceptions import DatasetsError

    return (OSError, ValueError, LookupError, ImportError, RuntimeError, AssertionError, DatasetsError)


def _download_nothing_offline() -> None:
    """Have nltk not ask the network if there is none.

    RULER's tasks ask for nltk's sentence splitter on import, also those that never split a text. A task that does need
    it then fails with nltk's own LookupError.
    """
    import nltk

    if any(os.environ.get(variable, "0") not in ("", "0") for variable in _OFFLINE):
        said = "offline: %s is not fetched for nltk, whatever the harness says"
        nltk.download = lambda name, *_, **__: logger.info(said, name)


def _advice(name: str, index: TaskIndex, cache: str | Path, error: Exception) -> str:
    """Return what is missing for a task that cannot be loaded, and how to get it."""
    reason = _reason(error)
    if isinstance(error, ImportError):
        return f"{name}: a package of this task is missing ({reason}); install it beside lm_eval"
    if isinstance(error, LookupError) and "punkt" in str(error):
        return (
            f"{name}: this task splits texts into sentences with nltk's punkt_tab, which is not in {cache}/nltk_data; "
            f"with network: python -m nltk.downloader -d {cache}/nltk_data punkt_tab"
        )
    leaves = index.leaves(name).values()
    data = sorted({entry.data for entry in leaves if entry.data})
    named = ", ".join(data[:3]) + (", …" if len(data) > 3 else "")
    sized = " --tokenizer <a folder with any tokenizer>" if any(entry.lengths for entry in leaves) else ""
    return (
        f"{name}: its data ({named or 'which its code fetches'}) cannot be loaded ({reason}); if it is not cached, run "
        f"this on a machine with network: python scripts/harness.py --fetch --task {name} --cache {cache}{sized}"
    )


def _reason(error: Exception) -> str:
    """Return the first line of an error."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
