"""What the section ``evaluate.harness`` of a configuration means, and its checks, without numpy and torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateau.digests import files_digest
from gateau.errors import SettingsError
from gateau.evaluation.client.start import KNOWN, Start
from gateau.evaluation.harness.index import GENERATED, TaskIndex, check_exists, harness_version

_PROMPT_PROBABILITIES = "vllm"  # the only known server that gives the log-probabilities of a prompt
_OPTIONS = ("lengths", "limit", "num_fewshot", "metadata")


def task_options(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ``evaluate.harness`` that decide what is asked and how it is scored."""
    return {name: section[name] for name in _OPTIONS}


def own_tasks_digest(section: Mapping[str, Any]) -> str:
    """Return a digest of the files in the folders of the user's own tasks."""
    return files_digest(*section["include_path"])


def check_harness(
    section: Mapping[str, Any], models: Iterable[str], server: Callable[[str], Mapping[str, Any] | None]
) -> None:
    """Check the tasks and the servers that are to answer them, as far as the installed harness can tell.

    Args:
        section: ``evaluate.harness``.
        models: names of all evaluated models.
        server: returns the entry of a model in ``evaluate.servers``, or None.

    Raises:
        SettingsError: no model is evaluated, a task does not exist, or a server cannot do what a task needs.
        DataError: a folder of the user's tasks does not exist.
    """
    tasks, models = section["tasks"], list(models)
    if not tasks:
        return
    if not models:
        raise SettingsError(
            "evaluate.harness.tasks: no model is evaluated; set evaluate.models, or evaluate.experiments to trained "
            "experiments"
        )
    if harness_version() is None:  # the rules report it, if the job has no environment of its own
        return
    index = TaskIndex.read(section["cache"], section["include_path"])
    for task in tasks:
        check_exists(task, index)
        needs_more = [
            name for name, one in index.leaves(task).items() if one.output is not None and one.output != GENERATED
        ]
        for model in models:
            entry = server(model)
            if needs_more and entry:
                _check_server(needs_more[0], model, entry)


def _check_server(task: str, model: str, entry: Mapping[str, Any]) -> None:
    """Raise SettingsError if a server is known not to give the log-probabilities of a prompt."""
    start = Start.from_config(entry)
    if start is not None and start.start in KNOWN and start.start != _PROMPT_PROBABILITIES:
        reason, advice = f"{start.start} does not give", "evaluate the model in process or through vllm"
    elif entry.get("send", "messages") != "tokens":
        reason, advice = "a chat server does not give", f"set evaluate.servers.{model}.send to tokens"
    else:
        return
    raise SettingsError(
        f"evaluate.harness.tasks: {task} needs the log-probabilities of its prompts, which {reason}; {advice}"
    )
