"""Say what a run will cost before it is started, from lengths alone; after a run, beside what was measured.

Reads config/config.yaml with your files over it. Lengths come from the tables under the results folder where they are
there, else from the bytes of the raw rows. Of models only config.json and tokenizer are read, local or cached; nothing
is fetched and nothing is changed. Snakemake prints no summary in a dry run: call this script beside `snakemake -n`.
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from doctor import choose_target, read_configuration, training_attention, training_setup
from gateau.cached_models import local_copy
from gateau.command import run
from gateau.data.chats import CHAT_ROWS
from gateau.data.intake import Intake
from gateau.data.readers import Rejection, read_records
from gateau.data.samples import LONG_ROWS
from gateau.errors import DataError, ModelError, SettingsError, UserError
from gateau.estimates import (
    SHAPE_KEYS,
    Bounds,
    DecoderShape,
    cache_bytes,
    forward_bytes,
    forward_flops,
    generation_flops,
    generation_reads,
    recomputation_flops,
    tokens_disk,
    training_flops,
)
from gateau.evaluation.benchmarks.catalogue import questions
from gateau.files import write_json
from gateau.methods import METHODS, UNRANKED, Contrast, contrasts
from gateau.model_files import ModelSpec
from gateau.models import load_config, load_tokenizer
from gateau.prompts import PromptEncoder, PromptTemplate
from gateau.row_lengths import (
    ASSUMED_BYTES_PER_TOKEN,
    Bytes,
    LongLengths,
    TrainingRow,
    extremes,
    fitted,
    lengths_of_bytes,
    lengths_of_index,
    sequences_of_bytes,
    sequences_of_mixture,
    sequences_of_samples,
    sequences_of_tokens,
    spread,
)
from gateau.selection.near_duplicates import PERMUTATIONS
from gateau.stage_costs import (
    DiskItem,
    PassOptions,
    Stage,
    contrast_stage,
    measured,
    pass_files,
    pass_options,
    pass_stages,
    signature_file,
)
from gateau.training.checkpoints import KEPT
from gateau.training.memory import TrainingSetup, checkpoint_bytes
from gateau.training.memory import estimate as training_memory
from gateau.training.plans import PlanOptions, make_plan, read_plan
from gateau.training.throughput import peak_flops

_ROOT = Path(__file__).resolve().parents[1]
_ASSUMED_GPU = "NVIDIA A100"
_QUESTION_SAMPLE = 48
_UNMEASURED = "no measurement"
_KNOWN_COUNTS = {"longbench": 4750, "longbench_chat": 50, "mt_bench": 80}  # of the released benchmarks

Rows = tuple[list[TrainingRow], list[TrainingRow], list[TrainingRow]]  # low, likely, high


def main() -> None:
    args = _arguments()
    if not (0 < args.mfu <= 1) or args.bandwidth_tbs <= 0 or (args.peak_tflops is not None and args.peak_tflops <= 0):
        raise SettingsError("--peak-tflops and --bandwidth-tbs take positive numbers, --mfu a share above 0 up to 1")
    config = read_configuration(args.configfile)
    planned = Run(config, Path(args.results or config["results_dir"]))
    stages = [*planned.passes(), *planned.texts(), *planned.tokens(), *planned.trainings(), *planned.generations()]
    peak, peak_source = choose_peak(config, args.peak_tflops)
    speed = peak * args.mfu if peak else None
    disk = planned.disk()
    _print_estimate(planned, stages, speed, args.bandwidth_tbs * 1e12, f"{peak_source}, MFU {args.mfu:.0%}")
    _print_disk(disk)
    _print_measured(stages, planned.results, peak)
    if args.json:
        write_json(args.json, _as_json(planned, stages, disk, speed, peak, args.mfu, args.bandwidth_tbs * 1e12))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", nargs="+", default=[], help="as for Snakemake: laid over config/config.yaml")
    parser.add_argument("--results", help="results folder to look into (results_dir)")
    parser.add_argument(
        "--peak-tflops", type=float,
        help=f"of one device (train.peak_tflops, else the GPU here, else one {_ASSUMED_GPU}; none on the CPU)",
    )  # fmt: skip
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is used (0.4)")
    parser.add_argument(
        "--bandwidth-tbs", type=float, default=2.0, help="memory of one device, in TB/s: bounds decoding (2.0, an A100)"
    )
    parser.add_argument("--json", help="write everything to this file too, for machines")
    return parser.parse_args()


def choose_peak(config: Mapping[str, Any], given: float | None) -> tuple[float | None, str]:
    """Operations per second of one device, and where the number comes from; None where all work is on the CPU."""
    if given:
        return given * 1e12, f"{given:g} TFLOP/s a device (--peak-tflops)"
    if configured := config["train"]["peak_tflops"]:
        return configured * 1e12, f"{configured:g} TFLOP/s a device (train.peak_tflops)"
    if all(section["device"] == "cpu" for section in (config["scoring"], config["train"])):
        return None, "no hours: everything runs on the CPU, give --peak-tflops of one process"
    here = torch.cuda.get_device_properties(0).name if torch.cuda.is_available() else None
    if here and (peak := peak_flops(here)):
        return peak, f"{peak / 1e12:g} TFLOP/s a device ({here}, in this machine)"
    peak = peak_flops(_ASSUMED_GPU)
    return peak, f"{(peak or 0) / 1e12:g} TFLOP/s a device ({_ASSUMED_GPU}, assumed: give --peak-tflops)"


@dataclass
class Run:
    """What is known of a configured run: models, lengths, and ``notes`` about what is not."""

    config: Mapping[str, Any]
    results: Path
    notes: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        models = self.config["models"]
        self.progress = Path(self.config["progress_dir"] or self.results / "progress")
        self._shapes: dict[str, DecoderShape | None] = {}
        self._specs = {role: models[role] or models["long"] for role in ("short", "long", "base")}
        self._specs |= {"non_homologous": models["non_homologous"]} if models["non_homologous"] else {}
        self.shapes = {role: self._shape(f"models.{role}", value) for role, value in self._specs.items()}
        self._raw_long: Bytes | None = None
        self.long = self._long_lengths()
        self.vocabulary = shape.vocabulary if (shape := self.shapes["base"]) else 32000
        self._rows = {"long": self._long_rows(), "short": self._short_rows()}
        self._mixtures: dict[str, int] = {}

    # models

    def _shape(self, setting: str, value: Any) -> DecoderShape | None:
        """From the model's configuration; a note where it cannot be had."""
        spec = ModelSpec.from_config(value)
        key = json.dumps(asdict(spec), sort_keys=True)
        if key not in self._shapes:
            self._shapes[key] = None
            try:
                config = load_config(local_copy(spec)).get_text_config()
                entries = {name: getattr(config, name, None) for name in SHAPE_KEYS}
                self._shapes[key] = DecoderShape.from_config(entries, spec.path)
            except ModelError as error:
                self._note(f"{setting}: {error}. Its operations and memory are left out.")
        return self._shapes[key]

    def _tokenizer(self, value: Any) -> PreTrainedTokenizerBase | None:
        try:
            return load_tokenizer(local_copy(ModelSpec.from_config(value)))
        except ModelError:
            return None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    # lengths

    def _long_lengths(self) -> LongLengths | None:
        index = self.results / "index/index.parquet"
        scoring = self.config["scoring"]
        if index.is_file():
            found = lengths_of_index(index)
        else:
            raw = self._bytes("long")
            if raw is None:
                return None
            self._raw_long = raw
            tokenizer = self._tokenizer(self._specs["long"])
            encoder = PromptEncoder(tokenizer, scoring["prompt"]) if tokenizer else None
            ratio = raw.bytes_per_token(encoder.count_tokens if encoder else None)
            found = lengths_of_bytes(raw, ratio, scoring["max_length"], _ratio_source("data.long", ratio))
        self.sources["long rows"] = found.source
        return found

    def _bytes(self, source: str) -> Bytes | None:
        """Bytes of the raw rows that the run would keep; a note where there are none to read."""
        value = self.config["data"][source]
        paths = [value] if isinstance(value, str) else list(value or [])
        if not paths:
            return None
        if absent := [path for path in paths if not Path(path).is_file()]:
            advice = (
                "the rule planted_rows writes it" if self.config["data"]["planted"] else "name the files that there are"
            )
            self._note(
                f"data.{source}: no {absent[0]}, and no lengths under {self.results}: the {source} rows are left out "
                f"({advice}; paths are relative to the working directory)."
            )
            return None
        logging.info("reading data.%s, %.3g GB", source, sum(Path(path).stat().st_size for path in paths) / 1e9)
        kind = LONG_ROWS if source == "long" else CHAT_ROWS
        intake = Intake(kind, self.config["data"]["duplicate_content"] == "keep")
        template = PromptTemplate.parse(self.config["scoring"]["prompt"])
        frame = template.head + template.before_instruction + template.after_instruction

        def rows() -> Iterator[tuple[str, str, str]]:
            for row in intake.read(read_records(paths, f"data.{source}")):
                if isinstance(row, Rejection):
                    continue
                if source == "long":
                    yield row["context"], frame + row["instruction"], row["response"]
                else:
                    messages = json.loads(row["messages"])
                    asked = [f"[INST]{one['content']}[/INST]" for one in messages if one["role"] != "assistant"]
                    answers = [one["content"] for one in messages if one["role"] == "assistant"]
                    yield "", "\n\n".join(asked), "\n\n".join(answers)

        return Bytes.of(rows())

    def _long_rows(self) -> Rows | None:
        table = self.results / "tokens/long.parquet"
        if table.is_file():
            return _exact(sequences_of_tokens(table))
        if self.long is None:
            return None
        low, likely, high = (sequences_of_samples(rows) for rows in (self.long.low, self.long.likely, self.long.high))
        return self._fitted(low), self._fitted(likely), self._fitted(high)

    def _short_rows(self) -> Rows | None:
        table = self.results / "tokens/short.parquet"
        if table.is_file():
            self.sources["short chats"] = f"{table}, exact"
            return _exact(sequences_of_tokens(table))
        if not (self.config["data"]["short"] and any(self._options(name)["n_short"] for name in self.experiments)):
            return None
        raw = self._bytes("short")
        if raw is None:
            return None
        tokenizer = self._tokenizer(self._specs["base"])
        ratio = raw.bytes_per_token(
            (lambda texts: [len(ids) for ids in tokenizer(texts, verbose=False).input_ids]) if tokenizer else None
        )
        self.sources["short chats"] = _ratio_source("data.short", ratio)
        low, likely, high = (sequences_of_bytes(raw, at) for at in (ratio.low, ratio.likely, ratio.high))
        return self._fitted(low), self._fitted(likely), self._fitted(high)

    def _fitted(self, rows: list[TrainingRow]) -> list[TrainingRow]:
        return fitted(rows, self.config["tokens"]["max_length"], self.config["tokens"]["over_long"])

    # stages

    @property
    def experiments(self) -> list[str]:
        """Their names."""
        return list(self.config["experiments"])

    def _options(self, experiment: str) -> dict[str, Any]:
        own = self.config["experiments"][experiment]
        return {**self.config["selection"], **self.config["mixture"], **own}

    @property
    def ranked(self) -> list[str]:
        """Experiments that need scores."""
        chosen = {name: self._options(name) for name in self.experiments}
        return [name for name, one in chosen.items() if one["method"] not in UNRANKED and one["n_long"] != 0]

    @cached_property
    def contrasts(self) -> dict[str, Contrast]:
        """Those whose pass some experiment needs."""
        methods = [METHODS.get(self._options(name)["method"]) for name in self.ranked]
        needed = {method.contrast for method in methods if method}
        known = contrasts(self.config["scoring"]["short_context"])
        return {name: contrast for name, contrast in sorted(known.items()) if name in needed}

    def _window(self, role: str) -> int | None:
        """Of a model; None where it is not known."""
        if role not in self._specs:
            return None
        spec = ModelSpec.from_config(self._specs[role])
        window = getattr(load_config(local_copy(spec)), "max_position_embeddings", None) if self.shapes[role] else None
        return window or spec.window

    def _pass_options(self) -> PassOptions:
        scoring = self.config["scoring"]
        window = self._window("short") if scoring["short_context"] == "truncate" else None
        attention = "sdpa" if scoring["attention"] == "auto" else scoring["attention"]
        return pass_options(self.config, window, scoring["device"] != "cpu", attention)

    def passes(self) -> list[Stage]:
        """The three passes and those of contrasts; none where no experiment needs a score."""
        if not self.ranked:
            self._note("No experiment needs scores: no pass runs.")
            return []
        shapes = {"short_pass": self.shapes["short"], "long_pass": self.shapes["long"]}
        options = self._pass_options()
        stages = pass_stages({**shapes, "segment_pass": self.shapes["long"]}, self.long, options)
        for name, contrast in self.contrasts.items():
            if contrast.role not in self._specs:
                self._note(f"contrast_pass {name}: models.{contrast.role} names no model.")
            elif self._repeats_short_pass(contrast):
                self._note(
                    f"contrast_pass {name}: as models and scoring.short_context are, it computes what short_pass does: "
                    "whichever comes second finds it in the progress store, and takes no time."
                )
            shape, window = self.shapes.get(contrast.role), self._window(contrast.window_of)
            stages.append(contrast_stage(name, contrast, shape, window, self.long, options))
        return stages

    def _repeats_short_pass(self, contrast: Contrast) -> bool:
        same_model = self._specs.get(contrast.role) == self._specs["short"]
        same_view = contrast.short_context == self.config["scoring"]["short_context"]
        return same_model and same_view and contrast.window_of == contrast.role

    def _leaves_out_near_duplicates(self) -> bool:
        return any(self._options(name)["near_duplicates"] is not None for name in self.ranked)

    def texts(self) -> list[Stage]:
        """What is computed of the texts alone: rule minhash, on the CPU. Notes what is not counted."""
        for rule, reads in (
            ("rewards", lambda one: one["method"] in METHODS and METHODS[one["method"]].rewards),
            ("embeddings", lambda one: one["per_cluster"] is not None),
        ):
            if any(reads(self._options(name)) for name in self.ranked):
                self._note(f"{rule}: a model of its own reads the texts; its work is not counted here.")
        if not self._leaves_out_near_duplicates():
            return []
        samples = len(self.long.likely) if self.long else None
        return [Stage("minhash", "", 1, 0, samples, benchmarks="minhash/minhash.tsv")]

    def tokens(self) -> list[Stage]:
        """Rule tokens, on the CPU, once for each source."""
        sources = ["long", "short"] if self.config["data"]["short"] else ["long"]
        stages = []
        for source in sources:
            rows = self._rows[source]
            counted = Bounds.around(*(float(sum(one.tokens for one in some)) for some in rows)) if rows else None
            stages.append(Stage("tokens", source, 1, 0, len(rows[1]) if rows else None, counted,
                                benchmarks=f"tokens/{source}.tsv"))  # fmt: skip
        return stages

    def trainings(self) -> list[Stage]:
        """Rule train, for each experiment."""
        train = self.config["train"]
        devices = train["nodes"] * train["ranks_per_node"] if train["device"] != "cpu" else 0
        memory = training_memory(self._setup).peak if self._setup else None
        stages = []
        for name in self.experiments:
            stage = Stage("train", name, 1, devices, memory=memory, benchmarks=f"train/{name}.tsv")
            try:
                stage = self._training(stage)
            except UserError as error:
                self._note(f"train {name}: {error}.")
            stages.append(stage)
        return stages

    def _training(self, stage: Stage) -> Stage:
        """The stage with what it will do. Raises UserError where the experiment asks for what there is not."""
        train, experiment = self.config["train"], stage.name
        world = train["nodes"] * train["ranks_per_node"]
        rows = self._mixture(experiment)
        if rows is None:
            return stage
        (low, likely, high), held_out = rows
        epochs, steps, micro_steps = self._steps(experiment, likely, world)
        self._mixtures[experiment] = steps
        self.sources[f"train {experiment}"] = (
            f"{steps:,} steps, {micro_steps:,} micro-steps on {world} rank{'s' * (world > 1)}"
        )
        tokens = Bounds.around(*(float(epochs * sum(one.tokens for one in some)) for some in (low, likely, high)))
        shape = self.shapes["base"]
        if shape is None:
            return replace(stage, samples=len(likely) * epochs, tokens=tokens)
        frozen, checkpointing = bool(train["lora"]), train["gradient_checkpointing"]
        evaluations = 1 + steps // train["evaluate_steps"] if held_out else 0
        measuring = evaluations * sum(forward_flops(shape, one.tokens, one.targets) for one in held_out)

        def work(some: Sequence[TrainingRow]) -> float:
            return epochs * sum(training_flops(shape, one.tokens, one.targets, frozen) for one in some) + measuring

        again = epochs * sum(recomputation_flops(shape, one.tokens, one.targets, checkpointing) for one in likely)
        flops = Bounds.around(work(low), work(likely), work(high))
        executed = flops.likely + again
        return replace(stage, samples=len(likely) * epochs, tokens=tokens, flops=flops, executed=executed)

    def _mixture(self, experiment: str) -> tuple[Rows, list[TrainingRow]] | None:
        """What an experiment trains on and its held-out rows; None where lengths are missing."""
        table = self.results / f"mixture/{experiment}/mixture.parquet"
        if table.is_file():
            train, held_out = sequences_of_mixture(table)
            return _exact(train), held_out
        options = self._options(experiment)
        parts: list[Rows] = []
        held: list[TrainingRow] = []
        for source, wanted in (("long", options["n_long"]), ("short", options["n_short"])):
            rows = self._rows[source]
            if wanted == 0 and not (rows and options["held_out"]):
                continue
            if rows is None:
                return None
            held += spread(rows[1], options["held_out"]) if options["held_out"] else []
            there = max(len(rows[1]) - options["held_out"], 0)
            count = there if wanted is None else wanted
            if count > there:
                raise DataError(f"n_{source} is {count}, but about {there} rows can be used; lower it or add data")
            low, likely, high = (spread(some, min(count, len(some))) for some in rows)
            if source == "long" and options["method"] not in UNRANKED and count < there:  # whichever are ranked first
                low, high = extremes(rows[0], count)[0], extremes(rows[2], count)[1]
            parts.append((low, likely, high))
        low, likely, high = ([one for part in parts for one in part[bound]] for bound in range(3))
        return ((low, likely, high), held) if likely else None

    def _steps(self, experiment: str, rows: Sequence[TrainingRow], world: int) -> tuple[int, int, int]:
        """Epochs, steps and micro-steps: of the plan where there is one, else of one made for these lengths."""
        folder = self.results / f"plan/{experiment}/plan.parquet"
        mixture = self.results / f"mixture/{experiment}/mixture.parquet"
        options = PlanOptions(**self.config["plan"])
        if folder.is_file() and mixture.is_file():
            train, held_out = sequences_of_mixture(mixture)  # held-out rows come last
            plan = read_plan(folder).for_world(world, [one.tokens for one in [*train, *held_out]])
        else:
            plan = make_plan([one.tokens for one in rows], options, world)
        return options.epochs, len(plan.steps), sum(step.n_micro_steps for step in plan.steps)

    @cached_property
    def _setup(self) -> TrainingSetup | None:
        """The doctor's description of the training; None where the model is not known."""
        if self.shapes["base"] is None:
            return None
        spec = local_copy(ModelSpec.from_config(self._specs["base"]))
        model_config = load_config(spec)
        target = choose_target(self.config, None)
        attention, _ = training_attention(self.config, model_config, target)
        return training_setup(self.config, spec, model_config, target, attention, None)

    def generations(self) -> list[Stage]:
        """Rule generate, for each model and benchmark that is not asked through a server."""
        evaluate = self.config["evaluate"]
        trained = self.experiments if evaluate["experiments"] is None else evaluate["experiments"]
        models = {**evaluate["models"], **dict.fromkeys(trained)}
        stages = []
        for name, value in models.items():
            if name in evaluate["servers"]:
                self._note(f"generate {name}: a server answers; its work is not counted here.")
                continue
            model = value or self._specs["base"]
            shape = self._shape(f"evaluate.models.{name}", model)
            stages += [self._generation(name, benchmark, shape, model) for benchmark in evaluate["benchmarks"]]
        return stages

    def _generation(self, model: str, benchmark: str, shape: DecoderShape | None, value: Any) -> Stage:
        generate = self.config["evaluate"]["generate"]
        on_cuda = generate["device"] != "cpu"
        shards = generate["shards"][benchmark]
        half = on_cuda if generate["dtype"] == "auto" else generate["dtype"] != "float32"
        size = 2 if half else 4
        stage = Stage("generate", f"{model} {benchmark}", shards, int(on_cuda),
                      benchmarks=f"generate/{model}/{benchmark}/*-of-{shards:04d}.tsv")  # fmt: skip
        answers = self._answered(model, benchmark, shards) or self._questions(benchmark, value)
        if answers is None:
            return stage
        samples = len(answers)
        tokens = Bounds.around(
            *(float(sum(answer[bound][0] + answer[bound][1] for answer in answers)) for bound in range(3))
        )
        if shape is None:
            return replace(stage, samples=samples, tokens=tokens)

        def batch(prompt: int, new: int) -> int:
            return max(min(int(generate["batch_tokens"]) // (prompt + new), samples), 1)

        def total(count: Callable[[int, int], float]) -> Bounds:
            return Bounds.around(*(sum(count(*answer[bound]) for answer in answers) for bound in range(3)))

        flops = total(lambda prompt, new: generation_flops(shape, prompt, new))
        longest = max(answer[2] for answer in answers)
        together = batch(*longest)
        filled = together * sum(longest)
        memory = forward_bytes(shape, filled, together, size, on_cuda=on_cuda)
        memory += cache_bytes(shape, filled, size)
        reads = total(lambda prompt, new: generation_reads(shape, prompt, new, batch(prompt, new), size))
        return replace(
            stage, samples=samples, tokens=tokens, flops=flops, executed=flops.likely, reads=reads, memory=memory
        )

    def _answered(self, model: str, benchmark: str, shards: int) -> list[tuple[tuple[int, int], ...]] | None:
        """(prompt, new) tokens of answers that are there already, each bound the same."""
        files = sorted((self.results / f"generate/{model}/{benchmark}").glob(f"*-of-{shards:04d}.jsonl"))
        if len(files) < shards:
            return None
        turns = [
            turn for file in files for line in file.read_text(encoding="utf-8").splitlines()
            for turn in json.loads(line)["turns"]
        ]  # fmt: skip
        there = self.sources.get("answers that are there, exact")
        self.sources["answers that are there, exact"] = (
            f"{there}, {model} {benchmark}" if there else f"{model} {benchmark}"
        )
        return [((turn["prompt_tokens"], turn["new_tokens"]),) * 3 for turn in turns]

    def _questions(self, benchmark: str, value: Any) -> list[tuple[tuple[int, int], ...]] | None:
        """(prompt, new) tokens of every turn at the bounds: answers of one token, and as long as allowed."""
        evaluate = self.config["evaluate"]
        options, limit = evaluate[benchmark], evaluate["generate"]["max_length"]
        if benchmark == "needle":
            allowed = options["max_new_tokens"]
            return [
                ((max(length - options["reserve"], 1), 1), (length, allowed), (length, allowed))
                for length in options["lengths"] for _ in options["depths"]
            ]  # fmt: skip
        folder = self.results / "assets" / benchmark
        if not folder.is_dir() and evaluate["assets"]["source"] == "own":
            folder = _ROOT / "workflow/resources/small_benchmarks" / benchmark
        if not folder.is_dir():
            self._note(
                f"generate {benchmark}: its {_KNOWN_COUNTS[benchmark]:,} questions are not fetched (rule assets), so "
                "their lengths are not known."
            )
            return None
        # only the needle's questions depend on a tokenizer
        asked = questions(benchmark, folder, options, cast("PreTrainedTokenizerBase", None))
        tokenizer = self._tokenizer(value)
        texts = [text for question in asked for text in question.users]
        some = texts[:: max(len(texts) // _QUESTION_SAMPLE, 1)]
        ratio = ASSUMED_BYTES_PER_TOKEN
        if tokenizer:
            counted = sum(len(ids) for ids in tokenizer(some, verbose=False).input_ids)
            ratio = Bounds.exact(sum(len(text.encode()) for text in some) / max(counted, 1))
        found = []
        for question in asked:
            for turn in range(len(question.users)):
                said = sum(len(text.encode()) for text in question.users[: turn + 1])
                bounds = (
                    (ratio.low, 1),
                    (ratio.likely, question.max_new_tokens),
                    (ratio.high, question.max_new_tokens),
                )
                found.append(tuple(
                    (max(min(round(said / each), limit) + turn * new, 1), new) for each, new in bounds
                ))  # fmt: skip
        return found

    # files

    def disk(self) -> list[DiskItem]:
        """What the stages leave on the disk."""
        items = []
        if self.ranked:
            own = {name: not self._repeats_short_pass(contrast) for name, contrast in self.contrasts.items()}
            items += pass_files(self.shapes["long"], self.long, self._pass_options(), self.results, self.progress, own)
        if self._leaves_out_near_duplicates():
            items.append(signature_file(self.long, PERMUTATIONS, self.results))
        for source, rows in self._rows.items():
            if rows:
                tokens, targets = (sum(getattr(one, name) for one in rows[1]) for name in ("tokens", "targets"))
                size = tokens_disk(tokens, targets, len(rows[1]), self.vocabulary)
                items.append(DiskItem(f"tokens {source}", size, (self.results / f"tokens/{source}.parquet",)))
        setup, count = self._setup, len(self.experiments)
        folder = self.config["train"]["checkpoint_dir"]
        checkpoints = model = export = None
        if setup:
            kept = [min(KEPT, self._checkpoints(name)) for name in self.experiments]
            checkpoints = checkpoint_bytes(setup) * sum(kept)
            model = float(count * (setup.trained if setup.lora_rank else setup.shape.parameters) * setup.weight_bytes)
            export = float(count * setup.shape.parameters * setup.compute_bytes)
        per = [(f"checkpoints, {KEPT} newest of {count} trainings", checkpoints,
                Path(folder) if folder else self.results / "checkpoints"),
               (f"train, {count} models", model, self.results / "train"),
               (f"export, {count} models", export, self.results / "export")]  # fmt: skip
        return [*items, *(DiskItem(name, size, (path,)) for name, size, path in per)]

    def _checkpoints(self, experiment: str) -> int:
        """How many a training writes: one every save_steps and one at its end."""
        steps = self._mixtures.get(experiment)
        return KEPT if steps is None else -(-steps // self.config["train"]["save_steps"])


def _exact(rows: list[TrainingRow]) -> Rows:
    return rows, rows, rows


def _ratio_source(setting: str, ratio: Bounds) -> str:
    if ratio == ASSUMED_BYTES_PER_TOKEN:
        return (
            f"{setting}, {ratio.likely:g} bytes a token ASSUMED ({ratio.high:g} to {ratio.low:g}): no tokenizer is here"
        )
    return f"{setting}, {ratio.likely:.3g} bytes a token, measured on a sample ({ratio.high:.3g} to {ratio.low:.3g})"


# output


def _print_estimate(
    planned: Run, stages: Sequence[Stage], speed: float | None, bandwidth: float, speed_source: str
) -> None:
    print(f"# Estimate for {planned.results}\n\nSpeed: {speed_source}; decoding reads {bandwidth / 1e12:g} TB/s.\n")
    for name, source in planned.sources.items():
        print(f"- {name}: {source}")
    for note in planned.notes:
        print(f"- NOTE {note}")
    rows, total_flops, total_hours = [], Bounds.exact(0), Bounds.exact(0)
    for stage in stages:
        hours = stage.hours(speed, bandwidth)
        total_flops += stage.flops or Bounds.exact(0)
        total_hours += hours or Bounds.exact(0)
        where = f"{stage.jobs} x {stage.devices}" if stage.devices else f"{stage.jobs} x CPU"
        rows.append([
            stage.title, _number(stage.samples), _bounds(stage.tokens), _bounds(stage.flops), _si(stage.executed),
            _hours(hours), where, _gb(stage.memory),
        ])  # fmt: skip
    known = any(stage.flops for stage in stages)
    total = [_bounds(total_flops if known else None), "", _hours(total_hours if known and speed else None)]
    rows.append(["total", "", "", *total, "", ""])
    titles = ["stage", "sequences", "tokens", "FLOP", "executed", "device-hours", "jobs x GPUs", "GB a device"]
    print(f"\n{_markdown(titles, rows)}")
    print(
        "\nFLOP: causal attention, without recomputation (low to high); executed: with it. –: not known, not in the "
        "total. Not counted: loading, idle ranks, pads. Answers that are not there yet are as long as allowed."
    )


def _print_disk(items: Sequence[DiskItem]) -> None:
    rows = [[item.name, _gb(item.size), _gb(item.found())] for item in items]
    rows.append(["total", _gb(sum(item.size or 0 for item in items)), _gb(sum(item.found() or 0 for item in items))])
    print(f"\n## Disk, in GB\n\n{_markdown(['files', 'estimated', 'there'], rows)}")
    print(
        "\nTraining writes a third checkpoint before it drops the oldest; a progress store may be deleted after a run."
    )


def _print_measured(stages: Sequence[Stage], results: Path, peak: float | None) -> None:
    rows = [_measured_row(stage, results, peak) for stage in stages]
    print(f"\n## Measured in {results / 'benchmarks'}\n")
    if all(row[1] == _UNMEASURED for row in rows):
        print("No measurement: no benchmark file of these stages is there yet.")
        return
    titles = ["stage", "jobs", "seconds", "tokens/s", "FLOP/s a device", "of peak", "load", "GB host", "GB estimated"]
    print(_markdown(titles, rows))
    print(
        "\nSeconds hold start and loading; a job that was continued, or found samples in the progress store, did less "
        "than is estimated. GB host: resident memory of the processes (Python and its libraries: 0.4), not of a GPU."
    )


def _measured_row(stage: Stage, results: Path, peak: float | None) -> list[str]:
    found = measured(stage, results)
    if found is None:
        return [stage.title, _UNMEASURED, *[""] * 7]
    device_seconds = max(found.seconds * max(stage.devices, 1), 1e-9)
    speed = stage.flops.likely / device_seconds if stage.flops else None
    tokens = stage.tokens.likely / max(found.seconds, 1e-9) if stage.tokens else None
    return [
        stage.title, str(found.jobs), f"{found.seconds:,.1f}", _si(tokens), _si(speed),
        f"{speed / peak:.1%}" if speed and peak else "–",
        f"{found.mean_load:.0f} %" if found.mean_load is not None else "–", _gb(found.max_rss), _gb(stage.memory),
    ]  # fmt: skip


def _as_json(
    planned: Run, stages: Sequence[Stage], disk: Sequence[DiskItem], speed: float | None, peak: float | None,
    mfu: float, bandwidth: float,
) -> dict[str, Any]:  # fmt: skip
    """FLOP, tokens, bytes, seconds and device-hours, unrounded; null for what is not known."""
    described = []
    for stage in stages:
        hours, found = stage.hours(speed, bandwidth), measured(stage, planned.results)
        described.append({
            **{name: asdict(value) if isinstance(value, Bounds) else value for name, value in vars(stage).items()},
            "device_hours": asdict(hours) if hours else None,
            "measured": asdict(found) if found else None,
        })  # fmt: skip
    return {
        "results": str(planned.results),
        "peak_flops": peak,
        "mfu": mfu,
        "bandwidth": bandwidth,
        "sources": planned.sources,
        "notes": planned.notes,
        "stages": described,
        "disk": [{"name": item.name, "bytes": item.size, "found": item.found()} for item in disk],
    }


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns also line up as text; all but the first flush right."""
    widths = [max(len(line[column]) for line in (titles, *rows)) for column in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["", "-" * (widths[0] + 2), *(f"{'-' * (width + 1)}:" for width in widths[1:]), ""])
    return "\n".join([line(titles), rule, *map(line, rows)])


def _si(value: float | None) -> str:
    """Three digits and a unit."""
    if value is None:
        return "–"
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _bounds(value: Bounds | None, show: Callable[[float | None], str] = _si) -> str:
    if value is None:
        return "–"
    if value.low == value.high:
        return show(value.likely)
    return f"{show(value.likely)} ({show(value.low)} to {show(value.high)})"


def _hours(value: Bounds | None) -> str:
    return _bounds(value, lambda hours: f"{hours or 0:,.0f}" if (hours or 0) >= 100 else f"{hours or 0:.2g}")


def _gb(size: float | None) -> str:
    if size is None:
        return "–"
    gigabytes = size / 1e9
    return f"{gigabytes:,.1f}" if gigabytes >= 1 else f"{gigabytes:.2g}"


if __name__ == "__main__":
    run(main)
