"""The names of the harness's tasks, and what their YAML files say about them, read without importing the harness.

Planning asks this module whether a task exists and what it needs of a model. The harness has about 14 000 task files,
so what they say is kept in a cache folder, by version. The files of the user's own tasks are read each time.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gateau.errors import DataError, SettingsError
from gateau.files import write_json

PACKAGE_NAME = "lm_eval"
INSTALL = "make install, or pip install '.[harness]'"
GENERATED = "generate_until"
_DEFAULT_ANSWER_TOKENS = 256  # the harness's, for a task that does not set max_gen_toks
_FORM = 1  # of the cached file; another number is read anew
_NEAR = 6


@dataclass(frozen=True)
class TaskEntry:
    """What the files say about one name.

    Attributes:
        folder: folder of its file; relative to the harness's own tasks, or absolute for the user's tasks.
        kind: task, group or tag.
        members: names of the tasks and groups of a group or tag, those apart that a group defines within itself.
        output: the harness's output type of a task, such as generate_until; None if only its code tells.
        answer_tokens: largest number of new tokens of a generated answer.
        lengths: whether the task makes texts of given lengths and has one measure per length, as RULER's do.
        data: hub name and configuration of the data set, or files; empty if the task makes its data itself.
    """

    folder: str
    kind: str
    members: Sequence[str] = ()
    output: str | None = None
    answer_tokens: int = _DEFAULT_ANSWER_TOKENS
    lengths: bool = False
    data: str = ""

    def said(self) -> dict[str, Any]:
        """Return all that differs from the defaults, JSON-ready."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        defaults = {one.name: one.default for one in fields(self)}
        return {name: value for name, value in values.items() if value != defaults[name]}


@dataclass(frozen=True)
class TaskIndex:
    """All known names."""

    entries: Mapping[str, TaskEntry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path, include: Iterable[str | Path] = ()) -> TaskIndex:
        """Return the tasks of the installed harness and of the user's folders, which come first.

        Args:
            folder: where the names of the harness's own tasks are kept.
            include: folders of the user's tasks.

        Raises:
            DataError: a folder of the user's tasks does not exist.
        """
        entries: dict[str, TaskEntry] = {}
        file = Path(folder) / f"tasks-{harness_version()}.json"
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        if kept.get("form") == _FORM:
            entries = {name: TaskEntry(**one) for name, one in kept["tasks"].items()}
        else:
            entries = _entries(own_tasks(), relative=True)
            with contextlib.suppress(OSError):  # a folder that cannot be written only costs time
                write_json(file, {"form": _FORM, "tasks": {name: entry.said() for name, entry in entries.items()}})
        for place in map(Path, include):
            if not place.is_dir():
                raise DataError(f"evaluate.harness.include_path: {place} is no folder; name a folder of task files")
            entries |= _entries(place.resolve(), relative=False)
        return cls(entries)

    def near(self, name: str) -> list[str]:
        """Return known names that resemble ``name``, the most similar ones first."""
        parts = [known for known in self.entries if name.lower() in known.lower()]
        found = [*difflib.get_close_matches(name, self.entries, _NEAR, 0.6), *sorted(parts, key=len)]
        return list(dict.fromkeys(found))[:_NEAR]

    def leaves(self, name: str) -> dict[str, TaskEntry]:
        """Return the single tasks that a name stands for. Tasks that a group defines within itself are not known."""
        found: dict[str, TaskEntry] = {}
        waiting, seen = [name], set()
        while waiting:
            entry = self.entries.get(current := waiting.pop())
            if entry is None or current in seen:
                continue
            seen.add(current)
            if entry.kind == "task":
                found[current] = entry
            waiting += reversed(entry.members)
        return found

    def folders(self, name: str) -> list[Path]:
        """Return the folders that hold the files of a name and of all its members."""
        waiting, seen = [name], dict[str, None]()
        while waiting:
            current = waiting.pop()
            if current in self.entries and current not in seen:
                seen[current] = None
                waiting += self.entries[current].members
        found = {self.entries[one].folder for one in seen if self.entries[one].folder}
        return sorted(own_tasks() / folder for folder in found)  # an absolute folder stays as it is


def check_exists(name: str, index: TaskIndex) -> None:
    """Raise SettingsError with similar names if no task, group or tag has this name."""
    if name not in index.entries:
        near = ", ".join(index.near(name)) or "none is similar"
        raise SettingsError(
            f"evaluate.harness.tasks: the harness has no task {name}; similar names: {near}; "
            "set evaluate.harness.include_path for tasks of your own"
        )


def harness_version() -> str | None:
    """Return the version of the installed harness, or None if it is not installed."""
    try:
        return version(PACKAGE_NAME)
    except PackageNotFoundError:
        return None


def own_tasks() -> Path:
    """Return the folder of the harness's own tasks."""
    spec = find_spec(PACKAGE_NAME)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package {PACKAGE_NAME} is not installed")
    return Path(spec.submodule_search_locations[0]) / "tasks"


@cache
def _loader() -> Any:
    """Return a YAML loader that leaves out what only Python understands, such as ``!function``."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    return Loader


def _entries(root: Path, relative: bool) -> dict[str, TaskEntry]:
    """Return what all files below a folder say. If two files have the same name, the first one counts, as there."""
    entries: dict[str, TaskEntry] = {}
    tagged: dict[str, list[str]] = {}
    read: dict[Path, dict[str, Any]] = {}
    for file in sorted(root.glob("**/*.yaml"), key=lambda path: path.as_posix()):
        config = _config(file, read)
        task, group = config.get("task"), config.get("group")
        folder = file.parent.relative_to(root).as_posix() if relative else str(file.parent)
        if "class" not in config and isinstance(group, str):
            entries.setdefault(group, TaskEntry(folder, "group", tuple(_members(task))))
        elif isinstance(task, str) and task not in entries:
            entries[task] = _task(folder, config)
            for tag in _strings(config.get("tag")):
                tagged.setdefault(tag, []).append(task)
    for tag, members in tagged.items():
        entries.setdefault(tag, TaskEntry("", "tag", tuple(members)))
    return entries


def _task(folder: str, config: Mapping[str, Any]) -> TaskEntry:
    metrics = [one.get("metric") for one in config.get("metric_list") or () if isinstance(one, Mapping)]
    generation = config.get("generation_kwargs") or {}
    data = [config.get("dataset_path"), config.get("dataset_name")]
    return TaskEntry(
        folder,
        "task",
        output=None if "class" in config else config.get("output_type", GENERATED),
        answer_tokens=int(generation.get("max_gen_toks") or _DEFAULT_ANSWER_TOKENS),
        lengths=bool(metrics) and all(str(metric).isdigit() for metric in metrics),
        data=" ".join(str(part) for part in data if part),
    )


def _config(file: Path, read: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """Return a file laid over the files that it includes; an empty mapping if it cannot be read."""
    import yaml

    file = Path(os.path.normpath(file))
    if file not in read:
        read[file] = {}  # of a file that includes itself
        try:
            config = yaml.load(file.read_text(encoding="utf-8"), Loader=_loader())
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        if not isinstance(config, dict):
            return {}
        merged: dict[str, Any] = {}
        for include in _strings(config.pop("include", None)):
            merged |= _config(file.parent / include, read)
        read[file] = merged | config
    return read[file]


def _members(tasks: Any) -> Iterator[str]:
    for one in tasks if isinstance(tasks, list) else [tasks]:
        name = one.get("task") or one.get("group") if isinstance(one, Mapping) else one
        if isinstance(name, str):
            yield name


def _strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [one for one in value or () if isinstance(one, str)]
