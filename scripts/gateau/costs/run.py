"""A configured run as a list of stages, and what each stage costs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gateau.costs.generation import generation_memory, turns_of
from gateau.costs.lengths import (
    ASSUMED_BYTES_PER_TOKEN,
    RawRows,
    SampleLength,
    TrainingRow,
    fitted,
    lengths_of_index,
    rows_of_mixture,
    rows_of_samples,
    rows_of_tokens,
    spread,
)
from gateau.costs.passes import ScoringPass, shares_read
from gateau.costs.training_memory import TrainingSetup, memory_items, peak_bytes
from gateau.draws import wanted_rows
from gateau.errors import DataError, ModelError, SettingsError
from gateau.evaluation.configured import Evaluation
from gateau.experiments import Configuration, Experiment
from gateau.model_files import ModelSpec, local_copy
from gateau.work import DecoderShape, generation_flops, recomputation_flops, training_flops


@dataclass(frozen=True)
class Stage:
    """The jobs of one rule, of all or of one experiment, model or benchmark. None stands for an unknown value.

    ``flops`` are all operations, recomputation included. ``memory`` is the peak of one device in bytes, and ``files``
    the bytes by the file or folder that they are written to.
    """

    rule: str
    name: str
    jobs: int
    devices: int  # of each job; 0 for jobs on the CPU
    benchmarks: str  # pattern of its files below the folder of benchmark files
    sequences: int | None = None
    tokens: float | None = None
    flops: float | None = None
    memory: float | None = None
    files: Mapping[str, float] | None = None

    @property
    def disk(self) -> float | None:
        """Bytes of all files."""
        return None if self.files is None else sum(self.files.values())

    @property
    def title(self) -> str:
        """Rule and name."""
        return f"{self.rule} {self.name}".strip()

    def device_hours(self, speed: float) -> float | None:
        """Return the device-hours at ``speed`` operations per second of a device, without loading.

        The devices of a training compute together. If a model's layers are spread over a job's devices, one of them
        computes at a time, and the time of all counts.
        """
        together = self.rule == "train"
        return None if self.flops is None else self.flops / speed / 3600 * (1 if together else max(self.devices, 1))

    def measured_hours(self, results: Path) -> float | None:
        """Return the device-hours of all finished jobs from Snakemake's benchmark files, or None without any file.

        Loading counts. A job that was continued counts from its last start.
        """
        seconds = []
        for file in sorted((results / "benchmarks").glob(self.benchmarks)):
            with file.open(encoding="utf-8", newline="") as lines:
                rows = list(csv.DictReader(lines, delimiter="\t"))
            if any("s" not in row for row in rows):
                raise DataError(f"{file}: not a benchmark file of Snakemake (no column s); delete it")
            seconds += [float(row["s"]) for row in rows if row["s"] not in ("NA", "-")]
        return sum(seconds) * max(self.devices, 1) / 3600 if seconds else None


def shape_of(spec: ModelSpec) -> DecoderShape:
    """Return the shape of a local or cached model.

    Raises:
        ModelError: there is no config.json here, or the model is not configured like Llama.
    """
    spec = local_copy(spec)
    try:
        return DecoderShape.from_config(spec.config(), spec.path)
    except ModelError:  # transformers fills in entries that config.json leaves to their defaults
        from gateau.models import load_config

        return DecoderShape.from_config(load_config(spec), spec.path)


class Run:
    """A configured run.

    Attributes:
        notes: what an estimate rests on, what is unknown, and what is not counted.
        faults: why the rows of a source cannot be read, by its setting.
    """

    def __init__(self, configuration: Configuration, results: Path) -> None:
        self.configuration, self.config, self.results = configuration, configuration.config, results
        self.evaluation = Evaluation(configuration)
        self.notes: list[str] = []
        self.faults: dict[str, str] = {}
        self._shapes: dict[str, DecoderShape | None] = {}
        self._counters: dict[str, Callable[[list[str]], list[int]] | None] = {}

    def stages(self) -> list[Stage]:
        """Return all stages with a model, in the order of the workflow."""
        trainings = [self._training(self.configuration.experiments[name]) for name in self.configuration.trained]
        models, benchmarks = self.evaluation.models, self.evaluation.benchmarks
        generations = [self._generation(model, benchmark) for model in models for benchmark in benchmarks]
        return [*self.passes(), *self._tokens(), *trainings, *generations]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def shape(self, setting: str, section: Mapping[str, Any]) -> DecoderShape | None:
        """Return the shape of a model, or None with a note if its configuration cannot be read."""
        key = json.dumps(section, sort_keys=True)
        if section["path"] == "unset":
            self._note("models.long is not set.")
            return None
        if key not in self._shapes:
            try:
                self._shapes[key] = shape_of(ModelSpec.from_config(section))
            except ModelError as error:
                self._shapes[key] = None
                self._note(f"{setting}: {error}. Its operations and memory are left out.")
        return self._shapes[key]

    def shape_of_role(self, role: str) -> DecoderShape | None:
        """Return the shape of a model of the section ``models``, or None."""
        return self.shape(f"models.{role}", self.configuration.model(role))

    def window(self, role: str) -> int | None:
        """Return the context window of a model, or None if it is unknown."""
        if role == "short" and self.configuration.short_window:
            return self.configuration.short_window
        spec = ModelSpec.from_config(self.configuration.model(role))
        return (spec if spec.window or not self.shape_of_role(role) else local_copy(spec)).context_window()

    def _counter(self, section: Mapping[str, Any]) -> Callable[[list[str]], list[int]] | None:
        """Return a function that counts tokens with a model's tokenizer, or None if there is no tokenizer here."""
        key = json.dumps(section, sort_keys=True)
        if key not in self._counters:
            from gateau.models import load_tokenizer

            try:
                tokenizer = load_tokenizer(local_copy(ModelSpec.from_config(section)))
                self._counters[key] = lambda texts: [len(ids) for ids in tokenizer(texts, verbose=False).input_ids]
            except ModelError:
                self._counters[key] = None
        return self._counters[key]

    # lengths

    @property
    def _index(self) -> Path:
        return self.results / "index/index.parquet"

    @property
    def is_indexed(self) -> bool:
        """Whether the lengths come from the index of an earlier run."""
        return self._index.is_file()

    @cached_property
    def long(self) -> list[SampleLength] | None:
        """Lengths of all scored samples, or None if there are no rows."""
        if self.is_indexed:
            return lengths_of_index(self._index)
        raw, ratio = self._raw("long", "long")
        return raw.samples(ratio, self.config["scoring"]["max_length"]) if raw else None

    @cached_property
    def rows(self) -> dict[str, list[TrainingRow] | None]:
        """Training rows of each source, or None if there are no rows."""
        found: dict[str, list[TrainingRow] | None] = {}
        options = self.config["tokens"]
        for source in self.configuration.sources:
            table = self.results / f"tokens/{source}.parquet"
            if table.is_file():
                found[source] = rows_of_tokens(table)
                continue
            if source == "long":
                rows = rows_of_samples(self.long) if self.long else None
            else:
                raw, ratio = self._raw("short", "base")
                rows = raw.training_rows(ratio) if raw else None
            found[source] = fitted(rows, options["max_length"], options["over_long"]) if rows else None
        return found

    def _raw(self, source: str, role: str) -> tuple[RawRows | None, float]:
        """Return the raw rows that the run would keep, and their bytes per token; no rows if they cannot be read."""
        if not self.configuration.raw_files(source):
            return None, 0.0
        options, key = self.configuration.intake_options(source), f"data.{source}"
        try:
            usable = RawRows.read(self.configuration, source)
            ratio = usable.bytes_per_token(self._counter(self.configuration.model(role)))
            kept = usable.kept(ratio, options)
        except DataError as error:
            self.faults[key] = str(error)
            self._note(f"{key}: {error}. The {source} rows are left out.")
            return None, 0.0
        how = "ASSUMED, no tokenizer is here" if ratio == ASSUMED_BYTES_PER_TOKEN else "measured on a sample"
        self._note(f"{key}: lengths are estimates, {ratio:.3g} bytes a token ({how}).")
        if filters := [f"data.{name}" for name in ("min_tokens", "max_tokens", "limit") if options.get(name)]:
            about = "" if filters == ["data.limit"] else "about "
            self._note(f"{key}: {', '.join(filters)} keep {about}{len(kept.sizes)} of {len(usable.sizes)} rows.")
        return kept, ratio

    # stages

    def passes(self) -> list[Stage]:
        """Return the three passes and those of contrasts; none if no experiment needs a score."""
        if not self.configuration.ranked:
            return []
        truncates = self.config["scoring"]["short_context"] == "truncate"
        passes = [self._pass("short_pass", "", "short", "short" if truncates else None)]
        passes += [self._pass(rule, "", "long", None) for rule in ("long_pass", "segment_pass")]
        for name, one in self.configuration.contrasts.items():
            window_of = one.window_of if one.short_context == "truncate" else None
            passes.append(self._pass("contrast_pass", name, one.role, window_of))
        if (share := shares_read(self.config["scoring"])[0]) < 1:
            self._note(
                f"segment_pass: scoring.screen and scoring.segments let it read {share:.0%} of the segments; the "
                "samples that it reads as a whole are taken to be like all samples."
            )
        return passes

    def _pass(self, rule: str, name: str, role: str, window_of: str | None) -> Stage:
        shape, shards, folder = self.shape_of_role(role), self.config["scoring"]["shards"], f"{rule}/{name}".strip("/")
        one = ScoringPass(rule, self.window(window_of) if window_of else None, self.config)
        read = [sample for sample in self.long if one.sequences(sample)] if self.long else None
        known = shape if one.window or not window_of else None  # costs are unknown without the window
        samples = shares_read(self.config["scoring"])[1] if rule == "segment_pass" else 1
        written = sum(one.file_bytes(shape, sample) for sample in read) if read and shape else None
        store = "short_pass" if rule == "contrast_pass" else rule  # a contrast is a short pass of another model
        places = [f"{self.results}/{folder}", f"{self.config['progress_dir'] or f'{self.results}/progress'}/{store}"]
        return Stage(
            rule, name, shards, self.configuration.gpus_per_pass, f"{folder}/*-of-{shards:04d}.tsv",
            sequences=round(samples * len(read)) if read else None,
            tokens=float(sum(map(one.tokens, read))) if read and known else None,
            flops=sum(one.flops(known, sample) for sample in read) if read and known else None,
            memory=one.memory(known) if known else None,
            files=dict.fromkeys(places, written) if written else None,
        )  # fmt: skip

    def _tokens(self) -> list[Stage]:
        """Return rule tokens for each source. Its table takes two bytes for every id and every target."""
        return [
            Stage(
                "tokens", source, 1, 0, f"tokens/{source}.tsv",
                sequences=len(rows) if rows else None,
                tokens=float(sum(one.tokens for one in rows)) if rows else None,
                files={f"{self.results}/tokens/{source}.parquet": 2.0 * sum(one.tokens + one.targets for one in rows)}
                if rows
                else None,
            )
            for source, rows in self.rows.items()
        ]  # fmt: skip

    @cached_property
    def training(self) -> TrainingSetup | None:
        """The training of ``models.base``, or None if the model is unknown."""
        shape = self.shape_of_role("base")
        return TrainingSetup.from_config(self.config, shape) if shape else None

    def _training(self, experiment: Experiment) -> Stage:
        """Return rule train for an experiment, with the files of rule export."""
        setup, rows, flops = self.training, None, None
        try:
            rows = self.mixture(experiment)
        except DataError as error:
            self._note(f"train {experiment.name}: {error}.")
        epochs, again = self.config["plan"]["epochs"], self.config["train"]["gradient_checkpointing"]
        if setup and rows:
            shape, frozen = setup.shape, bool(setup.adapters)
            flops = epochs * sum(
                training_flops(shape, one.tokens, one.targets, frozen)
                + recomputation_flops(shape, one.tokens, one.targets, again)
                for one in rows
            )
        checkpoints = self.config["train"]["checkpoint_dir"] or f"{self.results}/checkpoints"
        folders = [checkpoints, *(f"{self.results}/{rule}/{experiment.name}" for rule in ("train", "export"))]
        return Stage(
            "train", experiment.name, 1, self.configuration.world_size * (self.config["train"]["device"] != "cpu"),
            f"train/{experiment.name}.tsv",
            sequences=epochs * len(rows) if rows else None,
            tokens=float(epochs * sum(one.tokens for one in rows)) if rows else None,
            flops=flops,
            memory=peak_bytes(memory_items(setup)) if setup else None,
            files=dict(zip(folders, setup.file_bytes, strict=True)) if setup else None,
        )  # fmt: skip

    def mixture(self, experiment: Experiment) -> list[TrainingRow] | None:
        """Return the rows that an experiment trains on, or None if they are unknown.

        The rows that a ranking will choose are not known before it exists. Their lengths are taken to be distributed
        like those of all rows.

        Raises:
            DataError: the experiment asks for more rows than there are.
        """
        table = self.results / f"mixture/{experiment.name}/mixture.parquet"
        if table.is_file():
            return rows_of_mixture(table)
        chosen: list[TrainingRow] = []
        for source in ("long", "short"):
            count, rows = experiment.options[f"n_{source}"], self.rows.get(source)
            if count == 0:
                continue
            if rows is None:
                return None
            usable = max(len(rows) - experiment.options["held_out"], 0)
            mean = sum(one.tokens for one in rows) / max(len(rows), 1)
            wanted = wanted_rows(usable if count is None else count, len(rows), [mean] * usable) or 0
            if wanted > usable:
                raise DataError(
                    f"n_{source} is {wanted}, but data.{source} has about {usable} usable rows; lower it or add data"
                )
            chosen += spread(rows, wanted)
        return chosen or None

    def _generation(self, model: str, benchmark: str) -> Stage:
        evaluation, shards = self.evaluation, self.evaluation.shards(benchmark)
        stage = (f"{model} {benchmark}", shards, evaluation.gpus(model), f"generate/{model}/{benchmark}/*.tsv")
        if evaluation.server(model):
            self._note(f"generate {model}: a server answers, and its work is not counted.")
            return Stage("generate", *stage)
        section = evaluation.given.get(model) or self.configuration.model("base")
        shape = self.shape(f"evaluate.models.{model}", section)
        spec = ModelSpec.from_config(section)
        window = (spec if spec.window else local_copy(spec)).context_window() if shape else None
        try:
            turns = turns_of(evaluation, benchmark, self.results, self._counter(section), window)
        except SettingsError as error:
            self._note(f"generate {model}: {error}.")
            return Stage("generate", *stage)
        if turns is None:
            self._note(
                f"generate {benchmark}: its questions are not fetched (rule assets), so their number is unknown."
            )
        return Stage(
            "generate", *stage,
            sequences=len(turns) if turns else None,
            tokens=float(sum(prompt + new for prompt, new in turns)) if turns else None,
            flops=sum(generation_flops(shape, *turn) for turn in turns) if turns and shape else None,
            memory=generation_memory(shape, evaluation, benchmark, window) if shape else None,
        )  # fmt: skip
