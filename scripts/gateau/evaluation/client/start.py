"""How a server is started: the command of a known server, or any other command."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
        # first a program of this environment, which need not be activated
        program = shutil.which(words[0], path=str(Path(sys.executable).parent)) or shutil.which(words[0])
        if program is None:
            raise SettingsError(
                f"cannot start a server: there is no program {words[0]}; install it into the environment of the rules, "
                "or give its whole command in start, with {model} and {port}"
            )
        return [program, *words[1:]]
