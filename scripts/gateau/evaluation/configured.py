"""What the section ``evaluate`` of a configuration means: models, benchmarks, judge, servers, and all checks.

The workflow and the estimate ask this module. It imports no model library, because every cluster job reads the
workflow again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gateau.digests import files_digest
from gateau.errors import SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.benchmarks.base import Benchmark
from gateau.experiments import Configuration, fingerprints, model_section
from gateau.model_files import ModelSpec

# files beside a model's weights that decide answers too: stop tokens, and the chat format
_BESIDE = ("generation_config.json", "gateau.json")


@dataclass(frozen=True)
class Evaluation:
    """The section ``evaluate`` of a whole configuration, and what follows from it."""

    configuration: Configuration

    @property
    def section(self) -> Mapping[str, Any]:
        """The section ``evaluate`` itself."""
        section: Mapping[str, Any] = self.configuration.config["evaluate"]
        return section

    @cached_property
    def given(self) -> dict[str, dict[str, Any]]:
        """Sections of the models that are evaluated as they are, by name; null stands for ``models.base``."""
        base = self.configuration.model("base")
        return {name: model_section(value) if value else base for name, value in self.section["models"].items()}

    @cached_property
    def trained(self) -> list[str]:
        """Names of the experiments whose models are evaluated."""
        chosen = self.section["experiments"]
        return list(self.configuration.experiments if chosen is None else chosen)

    @property
    def models(self) -> list[str]:
        """Names of all evaluated models: first those given, then those trained."""
        return [*self.given, *self.trained]

    @property
    def baseline(self) -> str | None:
        """The model that the others are compared with, or None if no model is evaluated."""
        return self.section["baseline"] or next(iter(self.models), None)

    def server(self, model: str) -> dict[str, Any] | None:
        """Return the section of the server that answers for a model, or None if it answers in process."""
        server: dict[str, Any] | None = self.section["servers"].get(model)
        return server

    def gpus(self, model: str) -> int:
        """Return the number of GPUs that one job of ``generate`` takes for a model."""
        return 0 if self.server(model) or self.section["generate"]["device"] == "cpu" else 1

    def identity(self, model: str) -> str:
        """Return what a given model is, wherever it lies: digests of its files, and its options, as JSON."""
        section = dict(self.given[model])
        digests = list(fingerprints(section).values())
        folder = Path(section.pop("path")).expanduser()
        beside = [folder / name for name in _BESIDE if (folder / name).is_file()]
        return json.dumps([*digests, section, files_digest(*beside)], sort_keys=True)

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks that are run, in order."""
        return list(self.section["benchmarks"])

    @cached_property
    def judged(self) -> list[str]:
        """Names of the benchmarks that a judge rates."""
        wanted = set(self.section["judge"]["benchmarks"])
        return [
            name
            for name in self.benchmarks
            if name in wanted
            and self.benchmark(name).judge_requests
            and self.benchmark(name).is_rated(self.options(name))
        ]

    @property
    def scored(self) -> list[str]:
        """Names of the benchmarks that get scores. Without a judge, some have answers only."""
        return [name for name in self.benchmarks if name in self.judged or self.benchmark(name).has_own_scores]

    def benchmark(self, name: str) -> Benchmark:
        """Return what is known about a benchmark."""
        return benchmarks.load(name)

    def options(self, benchmark: str) -> dict[str, Any]:
        """Return all options of a benchmark."""
        return dict(self.section[benchmark])

    def question_options(self, benchmark: str) -> dict[str, Any]:
        """Return the options of a benchmark that decide its questions, without those that decide scores only."""
        only_scores = self.benchmark(benchmark).score_options
        return {name: value for name, value in self.options(benchmark).items() if name not in only_scores}

    def asset_options(self, benchmark: str) -> dict[str, Any]:
        """Return the options of a benchmark that decide which released files it has."""
        pinned = self.benchmark(benchmark).pinned
        return {name: self.options(benchmark)[name] for name in (pinned.options if pinned else ())}

    def shards(self, benchmark: str) -> int:
        """Return the number of jobs that share a benchmark's questions; 1 if none is configured."""
        return int(self.section["generate"]["shards"].get(benchmark, 1))

    def check(self) -> None:
        """Raise SettingsError or ModelError for what cannot run."""
        section, experiments = self.section, list(self.configuration.experiments)
        self._check_known("evaluate.benchmarks", section["benchmarks"], benchmarks.names(), "does not exist")
        self._check_known(
            "evaluate.judge.benchmarks", section["judge"]["benchmarks"], benchmarks.names(), "does not exist"
        )
        self._check_known(
            "evaluate.generate.shards", section["generate"]["shards"], benchmarks.names(), "does not exist"
        )
        self._check_known("evaluate.experiments", self.trained, experiments, "is not an experiment")
        for name in self.given:
            if name in experiments:
                raise SettingsError(f"evaluate.models: {name} is also the name of an experiment; choose another name")
        if self.models and self.baseline is not None:
            self._check_known("evaluate.baseline", [self.baseline], self.models, "is not evaluated")
        self._check_known("evaluate.servers", section["servers"], self.models, "is not evaluated")
        for benchmark in self.benchmarks:
            self.benchmark(benchmark).check(self.options(benchmark))
        for model in self.given.values():
            spec = ModelSpec.from_config(model)
            if spec.is_local:
                spec.config()

    @staticmethod
    def _check_known(key: str, found: Iterable[str], known: Iterable[str], what: str) -> None:
        if unknown := sorted(set(found) - set(known)):
            raise SettingsError(f"{key}: {unknown[0]} {what}; choose from {', '.join(known)}")
