"""What the section ``evaluate`` of a configuration means: models, benchmarks, judge, servers, and all checks.

The workflow and the estimate ask this module. It imports no model library, because every cluster job reads the
workflow again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gateau.errors import SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.benchmarks.base import Benchmark
from gateau.evaluation.client.server import ServerSettings
from gateau.evaluation.client.start import Start
from gateau.evaluation.harness.configured import check_harness
from gateau.experiments import Configuration, check_known, chosen, model_section
from gateau.model_files import ModelSpec
from gateau.scoring_section import check_gpus


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
        """Sections of the models that are evaluated as they are, by name; ``base`` stands for ``models.base``."""
        base = self.configuration.model("base")
        given = self.section["models"].items()
        return {name: base if value == "base" else model_section(value) for name, value in given}

    @cached_property
    def trained(self) -> list[str]:
        """Names of the experiments whose models are evaluated."""
        return chosen(self.section["experiments"], self.configuration.trained)

    @property
    def models(self) -> list[str]:
        """Names of all evaluated models: first those given, then those trained."""
        return [*self.given, *self.trained]

    @property
    def baseline(self) -> str | None:
        """The model that the others are compared with, or None if no model is evaluated."""
        baseline: str = self.section["baseline"]
        return next(iter(self.models), None) if baseline == "first" else baseline

    def server(self, model: str) -> dict[str, Any] | None:
        """Return the section of the server that answers for a model, or None if it answers in process."""
        server: dict[str, Any] | None = self.section["servers"].get(model)
        return server

    def memory_mb(self, model: str) -> int:
        """Return the memory of one job that asks a model. A job that only calls a server needs little."""
        server = self.server(model)
        return 8000 if server and Start.from_config(server) is None else 64000

    def gpus(self, model: str) -> int:
        """Return the number of GPUs that one job of ``generate`` takes for a model."""
        server, generate = self.server(model), self.section["generate"]
        if server:
            start = Start.from_config(server)
            return start.gpus if start else 0
        return 0 if generate["device"] == "cpu" else int(generate["gpus_per_job"])

    @property
    def judge_start(self) -> Start | None:
        """How each job of ``judge`` starts the judge's server; None if the judge runs elsewhere."""
        return Start.from_config(self.section["judge"])

    @property
    def judge_gpus(self) -> int:
        """The number of GPUs that one job of ``judge`` takes."""
        return self.judge_start.gpus if self.judge_start else 0

    @property
    def judge_name(self) -> str:
        """The judge's name in tables and files. A judge in a local folder is named after the folder."""
        model: str = self.section["judge"]["model"]
        return ModelSpec(model).directory.name if self.judge_start and ModelSpec(model).is_local else model

    def identity(self, model: str) -> str:
        """Return what a given model is, wherever it lies, as JSON."""
        return json.dumps(ModelSpec.from_config(self.given[model]).identity(), sort_keys=True)

    @property
    def judge_served(self) -> str:
        """What may change a rating: of a judge that the jobs start, its server and its files, wherever they lie."""
        if self.judge_start is None:
            return "elsewhere"
        files = ModelSpec(self.section["judge"]["model"]).identity()
        return f"{self.judge_start.identity} {json.dumps(files, sort_keys=True)}"

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

    @property
    def harness_tasks(self) -> list[str]:
        """Names of the tasks, groups and tags of lm-evaluation-harness that are run, in order."""
        return list(self.section["harness"]["tasks"])

    def benchmark(self, name: str) -> Benchmark:
        """Return what is known about a benchmark."""
        return benchmarks.load(name)

    def options(self, benchmark: str) -> dict[str, Any]:
        """Return all options of a benchmark."""
        return dict(self.section[benchmark])

    def question_options(self, benchmark: str) -> dict[str, Any]:
        """Return the options of a benchmark that decide its questions, without those that decide scores only."""
        return dict(_without(self.options(benchmark), self.benchmark(benchmark).score_options))

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
        check_known("evaluate.benchmarks", section["benchmarks"], benchmarks.names(), "does not exist")
        check_known("evaluate.judge.benchmarks", section["judge"]["benchmarks"], benchmarks.names(), "does not exist")
        check_known("evaluate.generate.shards", section["generate"]["shards"], benchmarks.names(), "does not exist")
        check_known("evaluate.experiments", self.trained, self.configuration.trained, "is not one of train.experiments")
        for name in self.given:
            if name in experiments:
                raise SettingsError(f"evaluate.models: {name} is also the name of an experiment; choose another name")
        if self.benchmarks and not self.models:
            raise SettingsError(
                "evaluate.benchmarks: no model is evaluated; set evaluate.models, or evaluate.experiments to trained "
                "experiments"
            )
        if self.models and self.baseline is not None:
            check_known("evaluate.baseline", [self.baseline], self.models, "is not evaluated")
        check_known("evaluate.servers", section["servers"], self.models, "is not evaluated")
        for name in section["servers"]:
            self._check_server(name)
        check_harness(section["harness"], self.models, self.server)
        check_gpus("evaluate.generate", section["generate"])
        self._check_judge()
        for benchmark in self.benchmarks:
            self.benchmark(benchmark).check(self.options(benchmark))
        for name, model in self.given.items():
            spec = ModelSpec.from_config(model)
            if spec.path == "unset":
                raise SettingsError(f"evaluate.models.{name}: models.base is models.long, which is not set")
            if spec.is_local:
                spec.config()

    def _check_judge(self) -> None:
        """Raise SettingsError if the judge may cost money without a limit, or cannot be started."""
        judge, start = self.section["judge"], self.judge_start
        if start is None:
            if self.judged and judge["budget_tokens"] is None and not judge["stand_in"]:
                raise SettingsError(
                    f"evaluate.judge.budget_tokens: the judge {judge['model']} may cost money, so a budget is needed; "
                    "set a number of tokens, or unlimited"
                )
            return
        if judge["stand_in"]:
            raise SettingsError("evaluate.judge: stand_in and start exclude each other; remove one of them")
        if judge["base_url"] != ServerSettings.base_url:
            raise SettingsError(
                "evaluate.judge: a judge that is started has no base_url of its own; remove base_url or start"
            )
        start.check("evaluate.judge")
        spec = ModelSpec(judge["model"])
        if spec.is_local:
            spec.config()
        elif "/" not in spec.path:
            raise SettingsError(
                f"evaluate.judge.model: {spec.path} is neither a folder nor OWNER/NAME on the hub, so it cannot be "
                "started; name the judge's folder, or remove start"
            )

    def _check_server(self, name: str) -> None:
        """Raise SettingsError if a server has neither or both of an address and a start, or cannot be started."""
        server, setting = self.section["servers"][name], f"evaluate.servers.{name}"
        start = Start.from_config(server)
        given = [key for key in ("base_url", "model") if server.get(key) is not None]
        if start is None:
            if len(given) < 2:
                raise SettingsError(f"{setting}: set base_url and model of a running server, or start")
            return
        if given:
            raise SettingsError(
                f"{setting}: a server that is started has no {given[0]} of its own; remove {given[0]} or start"
            )
        start.check(setting)
        options = self.given.get(name, {})
        if unknown := [key for key in ("window", "rope_parameters") if options.get(key)]:
            raise SettingsError(
                f"{setting}: a server does not know {unknown[0]} of the model; give the server's own option in "
                f"{setting}.options, or evaluate the model without a server"
            )


def _without(value: Any, names: Collection[str]) -> Any:
    """Return JSON-ready options without these keys, also in objects within lists."""
    if isinstance(value, Mapping):
        return {name: _without(one, names) for name, one in value.items() if name not in names}
    return [_without(one, names) for one in value] if isinstance(value, list) else value
