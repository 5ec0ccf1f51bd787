"""The meaning of a configuration: defaults, options of each experiment, required models and passes, and all checks.

The workflow, the estimate and the doctor all use this module, so that each key has one meaning. It imports neither
numpy nor torch, because every cluster job parses the workflow again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gateau.errors import SettingsError
from gateau.hub_entries import HubEntry, name_of
from gateau.methods import FORMULA, METHODS, UNRANKED, Contrast, contrasts
from gateau.model_files import ModelSpec, check_window, fingerprints
from gateau.scoring_section import check_scoring
from gateau.templates import template_text

_CUT_LONG = ("one_model", "no_extended_window")  # contrasts that repeat the short pass if models.short is null
DIVERSITY = ("near_duplicates", "per_cluster", "clusters")  # options that only apply to methods that rank
# what every selection depends on, in addition to the options that its method reads
_SELECTS = ("method", "n_long", "held_out", "seed", *DIVERSITY)
# options of a training that change its result; all others only change how it runs
TRAIN_OPTIONS = (
    "learning_rate", "lr_scheduler", "warmup_share", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm",
    "optimizer", "lora", "dtype", "attention", "device", "seed",
)  # fmt: skip


def model_section(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a model as a mapping of the options that are set; a path alone becomes ``path``."""
    return {"path": value} if isinstance(value, str) else {key: v for key, v in value.items() if v is not None}


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

    @property
    def further_models(self) -> dict[str, str]:
        """The models that the experiment needs besides the pair, by role, and the option that needs each."""
        method = f"method {self.method}"
        needs = {
            "non_homologous": (self.contrast == "non_homologous", method),
            "reward": (self.reads_rewards, method),
            "embedder": (self.takes_of_each_cluster, "per_cluster"),
        }
        return {role: option for role, (is_needed, option) in needs.items() if is_needed}

    def selection_options(self) -> dict[str, Any]:
        """Return the options on which the ranking and the selected rows depend."""
        return {name: self.options[name] for name in (*METHODS[self.method].reads, *_SELECTS)}

    def check(self, models: Mapping[str, Any]) -> None:
        """Check options and models of a known method. ``models`` is the section of the configuration.

        Raises:
            SettingsError: an option is not used by the method, or a required model is not set.
        """
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
        if self.contrast in _CUT_LONG and models["short"] is None:
            raise SettingsError(
                f"experiment {self.name}: method {self.method} is the same as gateau if models.short is null; "
                "use method gateau"
            )
        if self.options["clusters"] is not None and not self.takes_of_each_cluster:
            raise SettingsError(f"experiment {self.name}: clusters has no effect without per_cluster; set both")
        for role, option in self.further_models.items():
            if not models[role]:
                raise SettingsError(f"experiment {self.name}: {option} needs a model; set models.{role}")


@dataclass(frozen=True)
class Configuration:
    """A complete configuration, with all defaults filled in, and what follows from it.

    Attributes:
        config: the configuration.
        place: returns the place of a path, which has the prefix of a module in front.
    """

    config: Mapping[str, Any]
    place: Callable[[str], str] = str

    @cached_property
    def experiments(self) -> dict[str, Experiment]:
        """All experiments by name."""
        found = {}
        for name, own in self.config["experiments"].items():
            options: dict[str, Any] = {**self.config["selection"], **self.config["mixture"], **own}
            options["n_long"] = None if options["n_long"] == "all" else options["n_long"]
            found[name] = Experiment(name, own, options)
        return found

    @cached_property
    def trained(self) -> list[str]:
        """Names of the experiments that are trained, in order."""
        return chosen(self.config["train"]["experiments"], self.experiments)

    @cached_property
    def ranked(self) -> list[str]:
        """Names of the experiments that need scores."""
        return [name for name, experiment in self.experiments.items() if experiment.is_ranked]

    @cached_property
    def delivered(self) -> list[str]:
        """Names of the experiments whose rows are handed to other programs as a data set."""
        return [name for name, one in self.experiments.items() if one.options["n_long"] != 0 or self.mixes_chats(name)]

    def mixes_chats(self, name: str) -> bool:
        """Return whether an experiment mixes short chats with its long samples."""
        return bool(self.experiments[name].options["n_short"] and self.raw_files("short"))

    @cached_property
    def drawn_by_tokens(self) -> list[str]:
        """Names of the experiments that draw samples without a ranking until they have ``n_long`` tokens."""
        budgets = {name: one.options["n_long"] for name, one in self.experiments.items() if name not in self.ranked}
        return [name for name, n_long in budgets.items() if isinstance(n_long, Mapping) and "tokens" in n_long]

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

    @property
    def is_compared(self) -> bool:
        """Whether the ranked experiments are compared on labelled rows."""
        return bool(self.config["comparison"]["positive"] and self.ranked)

    def raw_files(self, source: str) -> list[str]:
        """Return the entries of ``data.long`` or ``data.short`` as a list; empty if there are none.

        An entry may be a folder or a glob, see :mod:`gateau.raw_files`. The list of its files stands for a data set on
        the hub.
        """
        return [one if isinstance(one, str) else self._listing(one) for one in self._entries(source)]

    def _entries(self, source: str) -> list[Any]:
        value = self.config["data"][source]
        return [] if value in (None, "none") else list(value) if isinstance(value, list | tuple) else [value]

    def _listing(self, entry: Mapping[str, Any]) -> str:
        return HubEntry.from_config(entry).listing(self.config["results_dir"], self.place)

    @cached_property
    def hub_data(self) -> dict[str, HubEntry]:
        """The data sets on the hub by the names of their folders."""
        given = [one for source in ("long", "short") for one in self._entries(source) if not isinstance(one, str)]
        return {name_of(self._listing(one)): HubEntry.from_config(one) for one in given}

    def intake_options(self, source: str) -> dict[str, Any]:
        """Return the options by which the rows of ``long`` or ``short`` are read, and which of them are kept."""
        data = self.config["data"]
        columns = data["columns" if source == "long" else "short_columns"] or {}
        own = {name: column for name, column in columns.items() if column is not None}
        further = ("split", "system", "limit", "seed", "min_tokens", "max_tokens") if source == "long" else ()
        return {"columns": own, **{name: data[name] for name in further}}

    @property
    def counts_tokens(self) -> bool:
        """Whether long rows are left out by their number of tokens."""
        return any(self.config["data"][name] is not None for name in ("min_tokens", "max_tokens"))

    @property
    def sources(self) -> list[str]:
        """Kinds of rows that are tokenized, for training or because an experiment's draw depends on it."""
        has_long = bool(self.trained or self.drawn_by_tokens)
        has_short = any(map(self.mixes_chats, self.experiments)) or bool(self.trained and self.raw_files("short"))
        return ["long"] * has_long + ["short"] * has_short

    @property
    def world_size(self) -> int:
        """Number of ranks of a training."""
        return int(self.config["train"]["nodes"] * self.config["train"]["ranks_per_node"])

    @property
    def gpus_per_pass(self) -> int:
        """Number of GPUs that one job of a scoring pass takes."""
        scoring = self.config["scoring"]
        return 0 if scoring["device"] == "cpu" else int(scoring["gpus_per_job"])

    @property
    def is_fine_tuned(self) -> bool:
        """Whether the run trains ``models.base``."""
        return bool(self.trained or self.config["miniature"])

    @property
    def roles(self) -> list[str]:
        """Names of the models that the run needs."""
        needed = [*["short", "long"] * bool(self.ranked), *["base"] * self.is_fine_tuned]
        further = {role for name in self.ranked for role in self.experiments[name].further_models}
        return [*needed, *sorted(role for role in further if self.config["models"][role])]

    @property
    def short_window(self) -> int | None:
        """Tokens of the short view if ``models.short`` is null and θ_L reads it too, else None."""
        return self.config["scoring"]["short_window"] if self.config["models"]["short"] is None else None

    @property
    def files_of_auto_format(self) -> list[Path]:
        """Files of θ_L, beside its tokenizer, from which ``scoring.format: auto`` follows; none for a fixed format."""
        folder = ModelSpec.from_config(self.model("long")).directory
        return [*folder.glob("generation_config.json")] if self.config["scoring"]["format"] == "auto" else []

    def model(self, role: str) -> dict[str, Any]:
        """Return a model of the section ``models`` as a mapping.

        The long model takes the place of ``short: null`` and of ``base: long``. The path of a model that is not set is
        ``unset``.
        """
        models = self.config["models"]
        section = models[role]
        if (role, section) in (("short", None), ("base", "long")):
            section = models["long"]
        return model_section(section or "unset")

    def fingerprints(self, role: str) -> dict[str, str]:
        """Return digests of a model of the section ``models``. A model that the run does not need may be missing.

        Raises:
            ModelError: a needed model is missing. Data sets and counts of tokens need one, too.
        """
        spec = ModelSpec.from_config(self.model(role))
        also = ["base", *["long"] * self.counts_tokens] if self.needs_rows else []
        if role not in [*self.roles, *also] and spec.is_local and not (spec.directory / "config.json").is_file():
            return {"weights": "missing", "tokenizer": "missing"}
        return fingerprints(self.model(role))

    @property
    def format_settings(self) -> dict[str, Any]:
        """Settings of the chat format of training, with the template's text instead of its file."""
        tokens = self.config["tokens"]
        template = tokens["chat_template"] and template_text(tokens["chat_template"])
        given = {name: tokens[name] for name in ("turns", "stop_token", "template_options")}
        return {**given, "chat_template": template}

    @property
    def needs_rows(self) -> bool:
        """Whether the run reads long samples. A run that only evaluates does not."""
        return bool(self.delivered or self.is_fine_tuned)

    @property
    def unset(self) -> list[str]:
        """Keys without which the run cannot start and which are not set."""
        roles = [*self.roles, *["long"] * self.counts_tokens, *["base"] * bool(self.sources)]
        needs_long = any(self.model(role)["path"] == "unset" for role in roles)
        needed = {"data.long": self.needs_rows and not self.raw_files("long"), "models.long": needs_long}
        return [key for key, is_missing in needed.items() if is_missing]

    def check_names(self) -> None:
        """Raise SettingsError for an unknown experiment or method. Everything else looks these names up."""
        for name, one in self.experiments.items():
            if one.method not in METHODS and one.method not in UNRANKED:
                known = ", ".join([*METHODS, *UNRANKED])
                raise SettingsError(f"experiment {name}: method {one.method!r} does not exist; choose one of {known}")
        check_known("train.experiments", self.trained, self.experiments, "is not an experiment")

    def check(self) -> None:
        """Check the whole configuration before anything runs for hours.

        Raises:
            SettingsError: a setting is invalid or contradicts another one.
            ModelError: a local model is missing or its context window is too short.
        """
        self.check_names()
        for experiment in self.experiments.values():
            experiment.check(self.config["models"])
        for name in self.trained:
            if self.experiments[name].options["n_short"] and not self.raw_files("short"):
                raise SettingsError(f"experiment {name} mixes short chats (n_short), but data.short is none")
        settings, tokens = self.format_settings, self.config["tokens"]
        if tokens["format"] == "longalign" and (settings["chat_template"] or settings["template_options"]):
            raise SettingsError(
                "tokens.chat_template and tokens.template_options have no effect with the format longalign; set "
                "tokens.format: tokenizer_template, or remove them"
            )
        train = self.config["train"]
        if train["optimizer"] == "adamw_8bit" and train["deepspeed"] != "none":
            raise SettingsError("train.optimizer adamw_8bit cannot be used with DeepSpeed; set train.deepspeed: none")
        ranked = {name: self.experiments[name].options for name in self.ranked}
        check_scoring(self.config["scoring"], self.config["cam"], ranked)
        if self.config["miniature"] and not self.config["data"]["planted"]:
            raise SettingsError(
                "miniature asks planted questions, so it needs data.planted; use --configfile config/miniature.yaml"
            )
        self._check_data()
        self._check_models()

    def _check_data(self) -> None:
        """Check the regular expression that splits rows, and the limits of tokens."""
        data = self.config["data"]
        if isinstance(data["split"], Mapping):
            try:
                groups = re.compile(data["split"]["regex"]).groupindex
            except re.error as error:
                raise SettingsError(f"data.split.regex: not a regular expression of Python ({error})") from error
            if absent := {"context", "instruction"} - groups.keys():
                raise SettingsError(
                    f"data.split.regex: the group {min(absent)} is missing; write (?P<context>...) and "
                    "(?P<instruction>...) around the two parts"
                )
        low, high = data["min_tokens"], data["max_tokens"]
        if low is not None and high is not None and low > high:
            raise SettingsError("data.min_tokens is above data.max_tokens, so that no row is left; lower it")

    def _check_models(self) -> None:
        """Check that local models exist and that θ_L's window holds ``scoring.max_length`` tokens."""
        for role in self.roles:
            spec = ModelSpec.from_config(self.model(role))
            if spec.path != "unset" and spec.is_local:
                spec.config()
                if role == "long":
                    check_window(spec, spec.context_window(), self.config["scoring"]["max_length"])
        short, long, scoring = self.model("short"), self.model("long"), self.config["scoring"]
        if not self.ranked or long["path"] == "unset" or short["path"] != long["path"]:
            return
        if scoring["short_context"] != "truncate" and (self.short_window or scoring["short_context"] == "ntk"):
            raise SettingsError(
                f"one model ({long['path']}) has both windows, so its short view can only be cut: set "
                "scoring.short_context: truncate, and scoring.short_window to the short window"
            )
        if self.short_window and self.short_window >= scoring["max_length"]:
            raise SettingsError(
                f"scoring.short_window ({self.short_window}) must be below scoring.max_length "
                f"({scoring['max_length']}): otherwise the short view is the long one"
            )


def chosen(value: str | Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the names that ``all``, ``none`` or a list of names stands for."""
    return {"all": list(known), "none": []}[value] if isinstance(value, str) else list(value)


def check_known(key: str, found: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise SettingsError for the first name, in alphabetical order, that is not among the known ones."""
    if unknown := sorted(set(found) - set(known)):
        raise SettingsError(f"{key}: {unknown[0]} {what}; choose from {', '.join(known) or 'none'}")
