"""How a server is started: the command of a known server, or any other command."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from gateau.errors import SettingsError

# by name: the command, and the option that spreads the model over several GPUs
KNOWN = {
    "vllm": ("vllm serve {model} --host 127.0.0.1 --port {port}", "tensor-parallel-size"),
    "sglang": ("python -m sglang.launch_server --model-path {model} --host 127.0.0.1 --port {port}", "tp-size"),
    "transformers": ("transformers serve {model} --host 127.0.0.1 --port {port}", None),
}
_PLACES = ("{model}", "{port}")


@dataclass(frozen=True)
class Start:
    """How a server is started.

    Attributes:
        start: a name in :data:`KNOWN`, or a command with the places ``{model}`` and ``{port}``.
        options: further options of the command, without their dashes. True stands for an option without a value; null
            leaves it out.
        gpus: number of GPUs that the model is spread over.
        seconds: longest time until the server is ready.
    """

    start: str
    options: Mapping[str, Any] = field(default_factory=dict)
    gpus: int = 1
    seconds: float = 1800.0

    @classmethod
    def from_config(cls, server: Mapping[str, Any]) -> Start | None:
        """Return how an entry of ``evaluate.servers`` is started; None if it runs elsewhere."""
        names = {field.name for field in fields(cls)}
        given = {name: value for name, value in server.items() if name in names and value is not None}
        return cls(**given) if "start" in given else None

    @property
    def identity(self) -> str:
        """What may change an answer of this server, as text."""
        return f"started by {self.start} {json.dumps(dict(self.options), sort_keys=True)}"

    @cached_property
    def backend(self) -> str:
        """Name and version of the package that the server's program comes from, or ``start`` if it is unknown.

        The metadata of the program's environment are read; the program is not run.
        """
        words = shlex.split(KNOWN.get(self.start, (self.start, None))[0])
        program = _program(words[0])
        if program is None:
            return self.start
        places = [str(place) for place in program.parent.parent.glob("lib/python3*/*-packages")]
        for package in distributions(path=places):
            scripts = {point.name for point in package.entry_points if point.group == "console_scripts"}
            if program.name in scripts or (words[1:2] == ["-m"] and package.name == words[2].partition(".")[0]):
                return f"{package.name} {package.version}"
        return self.start

    @property
    def key(self) -> str:
        """What names the answers of this server among stored answers."""
        return f"{self.identity}, {self.backend}"

    def check(self, setting: str) -> None:
        """Raise SettingsError if ``start`` is neither a known server nor a command with both places."""
        if self.start in KNOWN:
            return
        if absent := [place for place in _PLACES if place not in self.start]:
            raise SettingsError(
                f"{setting}.start is {self.start!r}; write {', '.join(KNOWN)}, or a command that contains "
                f"{' and '.join(absent)}"
            )

    def command(self, model: str, port: int) -> list[str]:
        """Return the command for a model's folder or name, and a port.

        Raises:
            SettingsError: the program does not exist.
        """
        pattern, spread = KNOWN.get(self.start, (self.start, None))
        words = [word.replace("{model}", model).replace("{port}", str(port)) for word in shlex.split(pattern)]
        options = {spread: self.gpus, **self.options} if spread and self.gpus > 1 else self.options
        for name, value in options.items():
            if value not in (None, False):
                words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        program = _program(words[0])
        if program is None:
            raise SettingsError(
                f"cannot start a server: there is no program {words[0]}; install it into the environment of the rules, "
                "or give its whole command in start, with {model} and {port}"
            )
        return [str(program), *words[1:]]


def _program(name: str) -> Path | None:
    """Return the place of a program: first in this environment, which need not be activated, and then on the path."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return Path(found) if found else None
