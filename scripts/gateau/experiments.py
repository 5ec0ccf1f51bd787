"""The meaning of a configuration: defaults, options of each experiment, required models and passes, and all checks.

The workflow, the estimate and the doctor all use this module, so that each key has one meaning. It imports neither
numpy nor torch, because every cluster job parses the workflow again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gateau.errors import SettingsError, UserError
from gateau.methods import FORMULA, METHODS, UNRANKED, Contrast, contrasts
from gateau.model_files import ModelSpec, check_window, tokenizer_fingerprint, weights_fingerprint
from gateau.places import DEFAULT_CONFIG, SCHEMA

ALWAYS = ("short", "long", "base")  # models of every run
OPTIONAL = ("non_homologous", "reward", "embedder")  # models that only some experiments need
DIVERSITY = ("near_duplicates", "per_cluster", "clusters")  # options that only apply to methods that rank
# what every selection depends on, in addition to the options that its method reads
_SELECTS = ("method", "n_long", "held_out", "seed", *DIVERSITY)
# options of a training that change its result; all others only change how it runs
TRAIN_OPTIONS = (
    "learning_rate", "lr_scheduler", "warmup_share", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm",
    "optimizer", "lora", "dtype", "attention", "device", "seed",
)  # fmt: skip


def with_defaults(config: Mapping[str, Any], defaults: Path = DEFAULT_CONFIG) -> dict[str, Any]:
    """Return ``config`` merged key by key into the default configuration.

    If ``config`` has experiments, they replace all default ones.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    result: dict[str, Any] = yaml.load(defaults.read_text(encoding="utf-8"), Loader=loader)
    lay_over(result, config)
    return result


def lay_over(config: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Replace entries of ``config`` with those of ``new``, key by key, but the section experiments as a whole."""
    experiments = new.get("experiments") or config.get("experiments")
    _merge(config, {key: value for key, value in new.items() if key != "experiments"})
    if experiments:
        config["experiments"] = deepcopy(experiments)


def _merge(config: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = deepcopy(value)


def read_configuration(files: Sequence[str]) -> dict[str, Any]:
    """Return the default configuration with the given files merged into it, as the workflow reads it.

    Raises:
        SettingsError: a file is not a YAML mapping, or the whole does not follow the schema.
    """
    import yaml
    from snakemake.exceptions import WorkflowError  # type: ignore[import-untyped]
    from snakemake.utils import validate  # type: ignore[import-untyped]

    given: dict[str, Any] = {}
    for file in files:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file}: not valid YAML ({error})") from error
        if not isinstance(content, dict):
            raise SettingsError(f"{file}: not a mapping of keys; see config/README.md")
        lay_over(given, content)
    config = with_defaults(given)
    try:
        validate(config, str(SCHEMA))
    except WorkflowError as error:
        raise SettingsError(f"the configuration does not follow the schema: {error}") from error
    return config


def model_section(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a model as a mapping of the options that are set; a path alone becomes ``path``."""
    return {"path": value} if isinstance(value, str) else {key: v for key, v in value.items() if v is not None}


def fingerprints(section: Mapping[str, Any]) -> dict[str, str]:
    """Return digests of a model's weights and of its tokenizer, which do not depend on path or time."""
    path, revision = section["path"], section.get("revision")
    return {"weights": weights_fingerprint(path, revision), "tokenizer": tokenizer_fingerprint(path, revision)}


@dataclass(frozen=True)
class Experiment:
    """One experiment: what it selects, mixes and trains on.

    ``own`` holds the options of its entry under ``experiments``. ``options`` holds all options of the sections
    ``selection`` and ``mixture``, overridden by ``own``.
    """

    name: str
    own: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def method(self) -> str:
        """Name of the selection method."""
        return str(self.options["method"])

    @property
    def is_ranked(self) -> bool:
        """Whether the experiment needs scores. If it does not, no scoring pass runs for it."""
        return self.method not in UNRANKED and self.options["n_long"] != 0

    @property
    def contrast(self) -> str | None:
        """Name of the contrast that the method needs, or None."""
        return METHODS[self.method].contrast

    @property
    def reads_rewards(self) -> bool:
        """Whether the method reads rewards."""
        return METHODS[self.method].rewards

    @property
    def leaves_out_near_duplicates(self) -> bool:
        """Whether the selection needs MinHash signatures of the texts."""
        return self.options["near_duplicates"] is not None

    @property
    def takes_of_each_cluster(self) -> bool:
        """Whether the selection needs embeddings of the texts."""
        return self.options["per_cluster"] is not None

    def selection_options(self) -> dict[str, Any]:
        """Return the options on which the ranking and the selected rows depend."""
        return {name: self.options[name] for name in (*METHODS[self.method].reads, *_SELECTS)}

    def check(self, models: Mapping[str, Any]) -> None:
        """Check method, options and models.

        Raises:
            SettingsError: the method is unknown, an option is not used by it, or a required model is not set.
        """
        if self.method not in METHODS and self.method not in UNRANKED:
            known = ", ".join([*METHODS, *UNRANKED])
            raise SettingsError(f"experiment {self.name}: method {self.method!r} does not exist; choose one of {known}")
        reads = METHODS[self.method].reads if self.method in METHODS else ()
        if unread := [option for option in self.own if option in FORMULA and option not in reads]:
            raise SettingsError(
                f"experiment {self.name}: method {self.method} does not read {', '.join(unread)}; remove the option"
            )
        if self.method in UNRANKED:
            for option in DIVERSITY:
                if self.own.get(option) is not None:
                    raise SettingsError(
                        f"experiment {self.name}: {option} needs a method that ranks, and {self.method} does not rank"
                    )
            return
        if self.options["clusters"] is not None and not self.takes_of_each_cluster:
            raise SettingsError(f"experiment {self.name}: clusters has no effect without per_cluster; set both")
        for role, needed, what in (
            ("non_homologous", self.contrast == "non_homologous", f"method {self.method}"),
            ("reward", self.reads_rewards, f"method {self.method}"),
            ("embedder", self.takes_of_each_cluster, "per_cluster"),
        ):
            if needed and not models[role]:
                raise SettingsError(f"experiment {self.name}: {what} needs a model; set models.{role}")


@dataclass(frozen=True)
class Configuration:
    """A complete configuration, with all defaults filled in, and what follows from it."""

    config: Mapping[str, Any]

    @cached_property
    def experiments(self) -> dict[str, Experiment]:
        """All experiments by name."""
        shared = {**self.config["selection"], **self.config["mixture"]}
        return {name: Experiment(name, own, {**shared, **own}) for name, own in self.config["experiments"].items()}

    @cached_property
    def ranked(self) -> list[str]:
        """Names of the experiments that need scores."""
        return [name for name, experiment in self.experiments.items() if experiment.is_ranked]

    def any_ranked(self, needs: Callable[[Experiment], bool]) -> bool:
        """Return whether ``needs`` is true for at least one ranked experiment."""
        return any(needs(self.experiments[name]) for name in self.ranked)

    @cached_property
    def contrasts(self) -> dict[str, Contrast]:
        """The contrasts whose pass at least one experiment needs, sorted by name."""
        needed = {self.experiments[name].contrast for name in self.ranked}
        return {name: one for name, one in sorted(self.all_contrasts.items()) if name in needed}

    @cached_property
    def all_contrasts(self) -> dict[str, Contrast]:
        """Every contrast that a method can need."""
        return contrasts(self.config["scoring"]["short_context"])

    def repeats_short_pass(self, contrast: Contrast) -> bool:
        """Return whether a contrast would compute the same values as the short pass."""
        return (
            self.config["models"].get(contrast.role) == self.config["models"]["short"]
            and contrast.short_context == self.config["scoring"]["short_context"]
            and contrast.window_of == contrast.role
        )

    @property
    def is_compared(self) -> bool:
        """Whether the ranked experiments are compared on labelled rows."""
        return bool(self.config["comparison"]["positive"] and self.ranked)

    def raw_files(self, source: str) -> list[str]:
        """Return the files of ``data.long`` or ``data.short`` as a list; empty if the key is null."""
        value = self.config["data"][source]
        return [value] if isinstance(value, str) else list(value or [])

    @property
    def sources(self) -> list[str]:
        """Kinds of rows that are tokenized: ``long``, and ``short`` if there are short chats."""
        return ["long", "short"] if self.raw_files("short") else ["long"]

    @property
    def world_size(self) -> int:
        """Number of ranks of a training."""
        return int(self.config["train"]["nodes"] * self.config["train"]["ranks_per_node"])

    @property
    def roles(self) -> list[str]:
        """Names of the run's models; optional ones only if they are set."""
        return [*ALWAYS, *(role for role in OPTIONAL if self.config["models"][role])]

    def model(self, role: str) -> dict[str, Any]:
        """Return a model of the section ``models`` as a mapping; null stands for ``models.long``."""
        return model_section(self.config["models"][role] or self.config["models"]["long"])

    def check(self) -> None:
        """Check the whole configuration before anything runs for hours.

        Raises:
            SettingsError: a setting is invalid or contradicts another one.
            ModelError: a local model is missing or its context window is too short.
        """
        if not all(isinstance(name, str) for name in self.config["experiments"]):
            raise SettingsError("the names of experiments must be text; put numbers in quotes")
        for experiment in self.experiments.values():
            experiment.check(self.config["models"])
            if experiment.options["n_short"] and not self.raw_files("short"):
                raise SettingsError(f"experiment {experiment.name} mixes short chats (n_short), but data.short is null")
        if self.config["miniature"] and not self.config["data"]["planted"]:
            raise SettingsError(
                "miniature asks planted questions, so it needs data.planted; use --configfile config/miniature.yaml"
            )
        self._check_models()

    def _check_models(self) -> None:
        """Check that local models exist and that θ_L's window holds ``scoring.max_length`` tokens."""
        for role in self.roles:
            spec = ModelSpec.from_config(self.model(role))
            if spec.is_local:
                spec.config()
                if role == "long":
                    check_window(spec, spec.context_window(), self.config["scoring"]["max_length"])
        short, long = self.model("short"), self.model("long")
        if short["path"] == long["path"] and self.config["scoring"]["short_context"] == "ntk":
            raise SettingsError(
                f"models.short and models.long are the same model ({long['path']}), which already knows long contexts: "
                "set scoring.short_context: truncate, and models.short.window to the short window"
            )


def explained(check: Callable[[], None], raised: type[Exception]) -> None:
    """Call ``check`` and convert a :class:`~gateau.errors.UserError` into ``raised``, with the same message."""
    try:
        check()
    except UserError as error:
        raise raised(str(error)) from None
