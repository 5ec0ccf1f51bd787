"""A configured run as a list of stages: its models, the lengths of its rows, and what each stage costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from gateau.costs.disk import pass_files, signature_file, token_table
from gateau.costs.generation import Turn, answered_turns, asked_turns, generation_stage, planned_turns
from gateau.costs.lengths import (
    ASSUMED_BYTES_PER_TOKEN,
    BoundedRows,
    Bounds,
    SampleLength,
    SourceBytes,
    TrainingRow,
    extremes,
    fitted,
    lengths_of_index,
    sequences_of_mixture,
    sequences_of_samples,
    sequences_of_tokens,
    spread,
)
from gateau.costs.passes import PASSES, PassOptions, contrast_stage, pass_stage
from gateau.costs.raw_rows import read_bytes
from gateau.costs.stages import DiskItem, Stage
from gateau.costs.training_memory import TrainingSetup, checkpoint_bytes, estimate
from gateau.costs.training_setup import choose_target, training_setup
from gateau.errors import DataError, ModelError, UserError
from gateau.evaluation.configured import Evaluation
from gateau.experiments import ALWAYS, Configuration, Experiment
from gateau.model_files import ModelSpec, local_copy
from gateau.models import load_config, load_tokenizer
from gateau.places import OWN_SETS
from gateau.prompts import PromptEncoder
from gateau.selection.near_duplicates import PERMUTATIONS
from gateau.training.checkpoints import KEPT
from gateau.training.plans import PlanOptions, make_plan, read_plan
from gateau.work import DecoderShape, forward_flops, recomputation_flops, training_flops

_VOCABULARY = 32000  # tokens, if the model is unknown


@dataclass
class Run:
    """What is known of a configured run.

    ``sources`` say by name where lengths come from. ``notes`` say what is unknown, or not counted.
    """

    configuration: Configuration
    results: Path
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = self.configuration.config
        self.world_size = self.configuration.world_size
        self._shapes: dict[str, DecoderShape | None] = {}
        for role in (*ALWAYS, "non_homologous"):
            if role in self.configuration.roles:
                self._shape(f"models.{role}", self.configuration.model(role))
        self._steps: dict[str, int] = {}
        self.long = self._long_lengths()
        self._rows = {"long": self._long_rows(), "short": self._short_rows()}

    def stages(self) -> list[Stage]:
        """Return all stages in the order of the workflow."""
        return [*self._passes(), *self._texts(), *self._tokens(), *self._trainings(), *self._generations()]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    # models

    def _shape(self, setting: str, section: Mapping[str, Any]) -> DecoderShape | None:
        """Return the shape of a model, or None with a note if its configuration cannot be read."""
        key = json.dumps(section, sort_keys=True)
        if key not in self._shapes:
            self._shapes[key] = None
            try:
                spec = ModelSpec.from_config(section)
                self._shapes[key] = DecoderShape.from_config(load_config(local_copy(spec)), spec.path)
            except ModelError as error:
                self._note(f"{setting}: {error}. Its operations and memory are left out.")
        return self._shapes[key]

    def _shape_of(self, role: str) -> DecoderShape | None:
        return self._shape(f"models.{role}", self.configuration.model(role))

    def _window(self, role: str) -> int | None:
        """Return the context window of a model, or None if it is unknown."""
        spec = ModelSpec.from_config(self.configuration.model(role))
        known = (
            getattr(load_config(local_copy(spec)), "max_position_embeddings", None) if self._shape_of(role) else None
        )
        return known or spec.window

    def _tokenizer(self, section: Mapping[str, Any]) -> PreTrainedTokenizerBase | None:
        try:
            return load_tokenizer(local_copy(ModelSpec.from_config(section)))
        except ModelError:
            return None

    def _counter(self, section: Mapping[str, Any]) -> Callable[[list[str]], list[int]] | None:
        tokenizer = self._tokenizer(section)
        return (lambda texts: [len(ids) for ids in tokenizer(texts, verbose=False).input_ids]) if tokenizer else None

    # lengths

    def _long_lengths(self) -> BoundedRows[SampleLength] | None:
        index = self.results / "index/index.parquet"
        if index.is_file():
            self.sources["long rows"] = f"{index}, exact"
            return BoundedRows.exact(lengths_of_index(index))
        if (raw := self._bytes("long")) is None:
            return None
        scoring = self.config["scoring"]
        tokenizer = self._tokenizer(self.configuration.model("long"))
        ratio = raw.bytes_per_token(PromptEncoder(tokenizer, scoring["prompt"]).count_tokens if tokenizer else None)
        self.sources["long rows"] = _ratio_source("data.long", ratio)
        return raw.samples(ratio, scoring["max_length"])

    def _long_rows(self) -> BoundedRows[TrainingRow] | None:
        table = self.results / "tokens/long.parquet"
        if table.is_file():
            return BoundedRows.exact(sequences_of_tokens(table))
        return self._fitted(self.long.each(sequences_of_samples)) if self.long else None

    def _short_rows(self) -> BoundedRows[TrainingRow] | None:
        table = self.results / "tokens/short.parquet"
        if table.is_file():
            self.sources["short chats"] = f"{table}, exact"
            return BoundedRows.exact(sequences_of_tokens(table))
        if not any(one.options["n_short"] for one in self.configuration.experiments.values()):
            return None
        if (raw := self._bytes("short")) is None:
            return None
        ratio = raw.bytes_per_token(self._counter(self.configuration.model("base")))
        self.sources["short chats"] = _ratio_source("data.short", ratio)
        return self._fitted(raw.sequences(ratio))

    def _fitted(self, rows: BoundedRows[TrainingRow]) -> BoundedRows[TrainingRow]:
        options = self.config["tokens"]
        return rows.each(lambda some: fitted(some, options["max_length"], options["over_long"]))

    def _bytes(self, source: str) -> SourceBytes | None:
        """Return the bytes of the raw rows that the run would keep, or None with a note if there are none to read."""
        paths = self.configuration.raw_files(source)
        if not paths:
            return None
        if absent := [path for path in paths if not Path(path).is_file()]:
            planted = self.config["data"]["planted"]
            advice = "the rule planted_rows writes it" if planted else "name files that exist"
            self._note(
                f"data.{source}: no {absent[0]}, and no lengths under {self.results}: the {source} rows are left out "
                f"({advice}; paths are relative to the working directory)."
            )
            return None
        return read_bytes(self.configuration, source)

    # stages

    @property
    def _pass_options(self) -> PassOptions:
        truncates = self.config["scoring"]["short_context"] == "truncate"
        return PassOptions.from_config(self.config, self._window("short") if truncates else None)

    def _passes(self) -> list[Stage]:
        """Return the three passes and those of contrasts; none if no experiment needs a score."""
        if not self.configuration.ranked:
            self._note("No experiment needs scores: no pass runs.")
            return []
        options = self._pass_options
        shapes = dict.fromkeys(PASSES, self._shape_of("long")) | {"short_pass": self._shape_of("short")}
        stages = [pass_stage(rule, shape, self.long, options) for rule, shape in shapes.items()]
        for name, contrast in self.configuration.contrasts.items():
            if self.configuration.repeats_short_pass(contrast):
                self._note(
                    f"contrast_pass {name}: as models and scoring.short_context are, it computes what short_pass does: "
                    "whichever comes second finds it in the progress store, and takes no time."
                )
            shape, window = self._shape_of(contrast.role), self._window(contrast.window_of)
            stages.append(contrast_stage(name, contrast, shape, window, self.long, options))
        return stages

    def _texts(self) -> list[Stage]:
        """Return rule minhash, which reads the texts alone; note the rules that are not counted."""
        any_ranked = self.configuration.any_ranked
        for rule, reads in (
            ("rewards", lambda one: one.reads_rewards),
            ("embeddings", lambda one: one.takes_of_each_cluster),
        ):
            if any_ranked(reads):
                self._note(f"{rule}: a model of its own reads the texts; its work is not counted here.")
        if not self._needs_signatures:
            return []
        samples = len(self.long.likely) if self.long else None
        return [Stage("minhash", "", 1, 0, samples, benchmarks="minhash/minhash.tsv")]

    @property
    def _needs_signatures(self) -> bool:
        return self.configuration.any_ranked(lambda one: one.leaves_out_near_duplicates)

    def _tokens(self) -> list[Stage]:
        """Return rule tokens for each source."""
        stages = []
        for source in self.configuration.sources:
            stage, rows = Stage("tokens", source, 1, 0, benchmarks=f"tokens/{source}.tsv"), self._rows[source]
            if rows:
                stage = replace(stage, samples=len(rows.likely), tokens=rows.total(lambda one: float(one.tokens)))
            stages.append(stage)
        return stages

    def _trainings(self) -> list[Stage]:
        """Return rule train for each experiment; note why the work of one is unknown."""
        devices = self.world_size if self.config["train"]["device"] != "cpu" else 0
        memory = estimate(self._setup).peak if self._setup else None
        stages = []
        for name, experiment in self.configuration.experiments.items():
            stage = Stage("train", name, 1, devices, memory=memory, benchmarks=f"train/{name}.tsv")
            try:
                stage = self._training(stage, experiment)
            except UserError as error:
                self._note(f"train {name}: {error}.")
            stages.append(stage)
        return stages

    def _training(self, stage: Stage, experiment: Experiment) -> Stage:
        """Return the stage with its work. Raises UserError if the experiment asks for more rows than exist."""
        train, shape = self.config["train"], self._shape_of("base")
        mixture = self._mixture(experiment)
        if mixture is None:
            return stage
        rows, held_out = mixture
        epochs, steps = self.config["plan"]["epochs"], self._plan(experiment.name, rows.likely)
        tokens = rows.total(lambda one: float(epochs * one.tokens))
        stage = replace(stage, samples=len(rows.likely) * epochs, tokens=tokens)
        if shape is None:
            return stage
        evaluations = 1 + steps // train["evaluate_steps"] if held_out else 0
        measuring = evaluations * sum(forward_flops(shape, one.tokens, one.targets) for one in held_out)
        frozen, checkpointing = bool(train["lora"]), train["gradient_checkpointing"]
        flops = rows.total(lambda one: epochs * training_flops(shape, one.tokens, one.targets, frozen), measuring)
        again = sum(recomputation_flops(shape, one.tokens, one.targets, checkpointing) for one in rows.likely)
        return replace(stage, flops=flops, executed=flops.likely + epochs * again)

    def _mixture(self, experiment: Experiment) -> tuple[BoundedRows[TrainingRow], list[TrainingRow]] | None:
        """Return what an experiment trains on and its held-out rows, or None if lengths are unknown."""
        table = self.results / f"mixture/{experiment.name}/mixture.parquet"
        if table.is_file():
            train, held_out = sequences_of_mixture(table)
            return BoundedRows.exact(train), held_out
        options, parts, held_out = experiment.options, list[BoundedRows[TrainingRow]](), list[TrainingRow]()
        for source in ("long", "short"):
            rows, count, aside = self._rows[source], options[f"n_{source}"], options["held_out"]
            if count == 0 and not (rows and aside):
                continue
            if rows is None:
                return None
            held_out += spread(rows.likely, aside) if aside else []
            there = max(len(rows.likely) - aside, 0)
            wanted = there if count is None else count
            if wanted > there:
                raise DataError(f"n_{source} is {wanted}, but about {there} rows can be used; lower it or add data")
            part = rows.each(partial(spread, count=wanted))
            if source == "long" and experiment.is_ranked and wanted < there:  # whichever are ranked first
                part = replace(part, low=extremes(rows.low, wanted)[0], high=extremes(rows.high, wanted)[1])
            parts.append(part)
        whole = sum(parts, BoundedRows[TrainingRow].exact([]))
        return (whole, held_out) if whole.likely else None

    def _plan(self, experiment: str, rows: Sequence[TrainingRow]) -> int:
        """Return the number of steps of the plan if it exists, else of one made for these lengths."""
        file = self.results / f"plan/{experiment}/plan.parquet"
        mixture = self.results / f"mixture/{experiment}/mixture.parquet"
        if file.is_file() and mixture.is_file():
            train, held_out = sequences_of_mixture(mixture)  # held-out rows come last
            plan = read_plan(file).for_world(self.world_size, [one.tokens for one in [*train, *held_out]])
        else:
            plan = make_plan([one.tokens for one in rows], PlanOptions(**self.config["plan"]), self.world_size)
        steps, micro_steps = len(plan.steps), sum(step.n_micro_steps for step in plan.steps)
        self._steps[experiment] = steps
        ranks = f"{self.world_size} rank{'s' * (self.world_size > 1)}"
        self.sources[f"train {experiment}"] = f"{steps:,} steps, {micro_steps:,} micro-steps on {ranks}"
        return steps

    @cached_property
    def _setup(self) -> TrainingSetup | None:
        """The training as the doctor describes it, or None if the model is unknown."""
        if self._shape_of("base") is None:
            return None
        spec = local_copy(ModelSpec.from_config(self.configuration.model("base")))
        return training_setup(self.config, spec, load_config(spec), choose_target(self.config, None))

    def _generations(self) -> list[Stage]:
        """Return rule generate for each model and benchmark that is not asked through a server."""
        evaluation, stages = Evaluation(self.configuration), []
        for name in evaluation.models:
            if evaluation.server(name):
                self._note(f"generate {name}: a server answers; its work is not counted here.")
                continue
            section = evaluation.given.get(name) or self.configuration.model("base")
            shape = self._shape(f"evaluate.models.{name}", section)
            for benchmark in evaluation.benchmarks:
                folder = self.results / f"generate/{name}/{benchmark}"
                turns = answered_turns(folder, evaluation.shards(benchmark))
                if turns:
                    answered = self.sources.get("answers that are there, exact")
                    named = f"{answered}, {name} {benchmark}" if answered else f"{name} {benchmark}"
                    self.sources["answers that are there, exact"] = named
                else:
                    turns = self._asked(evaluation, benchmark, section)
                stages.append(generation_stage(name, benchmark, evaluation, shape, turns))
        return stages

    def _asked(self, evaluation: Evaluation, name: str, section: Mapping[str, Any]) -> BoundedRows[Turn] | None:
        """Return the lengths of answers that do not exist yet, or None with a note if no question is here."""
        benchmark, options = evaluation.benchmark(name), evaluation.options(name)
        if benchmark.planned_turns:
            return planned_turns(benchmark.planned_turns(options))
        folder = self.results / "assets" / name
        if not folder.is_dir() and evaluation.section["assets"]["source"] == "own":
            folder = OWN_SETS / name
        if not folder.is_dir():
            count = f"its {benchmark.known_count:,}" if benchmark.known_count else "its"
            self._note(
                f"generate {name}: {count} questions are not fetched (rule assets), so their lengths are not known."
            )
            return None
        no_tokenizer = cast("PreTrainedTokenizerBase", None)  # no benchmark without planned turns reads it
        questions = list(benchmark.questions(folder, options, no_tokenizer))
        return asked_turns(questions, self._counter(section), evaluation.section["generate"]["max_length"])

    # files

    def disk(self) -> list[DiskItem]:
        """Return what the stages leave on the disk, after :meth:`stages` has counted the steps of trainings."""
        items, long = [], self.long.likely if self.long else None
        progress = Path(self.config["progress_dir"] or self.results / "progress")
        if self.configuration.ranked:
            contrasts = self.configuration.contrasts
            own = {name: not self.configuration.repeats_short_pass(one) for name, one in contrasts.items()}
            shape = self._shape_of("long")
            layers = shape.layers if shape else None
            items += pass_files(layers, long, self._pass_options, self.results, progress, own)
        if self._needs_signatures:
            items.append(signature_file(None if long is None else len(long), PERMUTATIONS, self.results))
        base = self._shape_of("base")
        for source, rows in self._rows.items():
            if rows:
                items.append(token_table(source, rows.likely, base.vocabulary if base else _VOCABULARY, self.results))
        return [*items, *self._model_files()]

    def _model_files(self) -> list[DiskItem]:
        """Return checkpoints, trained models and exported models of all experiments."""
        setup, names = self._setup, list(self.configuration.experiments)
        count, folder = len(names), self.config["train"]["checkpoint_dir"]
        checkpoints = model = export = None
        if setup:
            save_steps = self.config["train"]["save_steps"]
            kept = [min(KEPT, -(-self._steps.get(name, KEPT * save_steps) // save_steps)) for name in names]
            checkpoints = checkpoint_bytes(setup) * sum(kept)
            weights = setup.trained if setup.lora_rank else setup.model.parameters
            model = float(count * weights * setup.weight_bytes)
            export = float(count * setup.model.parameters * setup.compute_bytes)
        return [
            DiskItem(
                f"checkpoints, {KEPT} newest of {count} trainings",
                checkpoints,
                (Path(folder) if folder else self.results / "checkpoints",),
            ),
            DiskItem(f"train, {count} models", model, (self.results / "train",)),
            DiskItem(f"export, {count} models", export, (self.results / "export",)),
        ]


def _ratio_source(setting: str, ratio: Bounds) -> str:
    if ratio == ASSUMED_BYTES_PER_TOKEN:
        return (
            f"{setting}, {ratio.likely:g} bytes a token ASSUMED ({ratio.high:g} to {ratio.low:g}): no tokenizer is here"
        )
    return f"{setting}, {ratio.likely:.3g} bytes a token, measured on a sample ({ratio.high:.3g} to {ratio.low:.3g})"
