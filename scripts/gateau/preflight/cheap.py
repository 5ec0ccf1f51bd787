"""Checks that read the configuration, folders and small files only. They import neither numpy nor torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateau.errors import ModelError, SettingsError
from gateau.evaluation.configured import Evaluation
from gateau.experiments import Configuration
from gateau.gpu_leases import visible_devices
from gateau.hub_entries import is_unfetched, not_fetched
from gateau.model_files import ModelSpec, check_window, local_copy
from gateau.places import ROOT
from gateau.preflight.findings import ERROR, OK, WARNING, Finding, error_of
from gateau.raw_files import expanded

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def cheap_checks(configuration: Configuration, rules: Collection[str] | None = None) -> list[Finding]:
    """Return the findings of all cheap checks.

    Args:
        configuration: the configuration of the run.
        rules: names of the rules that will run, so that a finished part of a run is not checked; None checks all.
    """
    found: list[Finding] = []
    for check, concerned in _CHECKS.items():
        if rules is None or not concerned.isdisjoint(rules):
            found += check(configuration)
    return found


def sections(configuration: Configuration) -> dict[str, dict[str, Any]]:
    """Return the sections of all models that are loaded here, by their key in the configuration."""
    evaluation = Evaluation(configuration)
    found = {f"models.{role}": configuration.model(role) for role in configuration.roles}
    for name, section in evaluation.given.items():
        if (evaluation.benchmarks or evaluation.harness_tasks) and not evaluation.server(name):
            found[f"evaluate.models.{name}"] = section
    return {
        key: section for number, (key, section) in enumerate(found.items())
        if section["path"] != "unset" and section not in list(found.values())[:number]
    }  # fmt: skip


def window_of(section: Mapping[str, Any]) -> int | None:
    """Return the context window of a model, or None if it is unknown here."""
    spec = ModelSpec.from_config(section)
    try:
        return (spec if spec.window else local_copy(spec)).context_window()
    except ModelError:
        return None


def is_cached(spec: ModelSpec) -> bool:
    """Return whether a model's config.json is here."""
    return not error_of("", lambda: local_copy(spec))


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() not in ("", "0", "NO", "FALSE", "OFF")


def check_unset(configuration: Configuration) -> list[Finding]:
    """Check that the keys without which nothing can start are set."""
    return [
        Finding(ERROR, key, "not set; set it in your configuration file, or start from a file of config/presets")
        for key in configuration.unset
    ]


def check_files(configuration: Configuration) -> list[Finding]:
    """Check that the raw files exist or can be fetched, and that the results can be written."""
    config, found = configuration.config, []
    needed = [*["long"] * configuration.needs_rows, *["short"] * ("short" in configuration.sources)]
    for source in needed:
        for entry in configuration.raw_files(source) if not config["data"]["planted"] else ():
            if is_unfetched(entry):
                found.append(Finding(WARNING, f"data.{source}", not_fetched(entry)))
            else:
                found += error_of(f"data.{source}", partial(expanded, [entry], f"data.{source}"))
    found += [
        Finding(ERROR, key, f"{config[key]} cannot be written; choose another folder")
        for key in ("results_dir", "progress_dir")
        if config[key] and not os.access(existing(config[key]), os.W_OK)
    ]
    return found


def existing(folder: str | Path) -> Path:
    """Return the folder, or the nearest folder above it that exists."""
    path = Path(folder).absolute()
    return next(one for one in (path, *path.parents) if one.is_dir())


def check_models(configuration: Configuration) -> list[Finding]:
    """Check that each model is a whole folder, or is cached, or can be downloaded."""
    return [finding for key, section in sections(configuration).items() for finding in _check_model(key, section)]


def _check_model(key: str, section: Mapping[str, Any]) -> list[Finding]:
    spec = ModelSpec.from_config(section)
    fetch = f"fetch it with `hf download {spec.path}` where there is a network"
    if not spec.is_local:
        if not is_cached(spec):
            about = f"{spec.path} is neither a folder here nor cached"
            if is_offline():
                return [Finding(ERROR, key, f"{about}, and HF_HUB_OFFLINE is set; {fetch}, or give a local folder")]
            return [Finding(WARNING, key, f"{about}; the first job will download it, or {fetch} before")]
        if not _has_weights(local_copy(spec).directory):
            return [Finding(WARNING, key, f"{spec.path}: config.json is cached, but no weights are; {fetch}")]
        return [Finding(OK, key, f"{spec.path} is cached")]
    if found := error_of(key, spec.config):
        return found
    if not _has_weights(spec.directory):
        return [Finding(ERROR, key, f"{spec.path} holds no weights (*.safetensors, *.bin); copy the whole model there")]
    if not any((spec.directory / name).is_file() for name in _TOKENIZER):
        return [Finding(ERROR, key, f"{spec.path} holds no tokenizer; copy tokenizer.json and its like there")]
    return [Finding(OK, key, f"{spec.path} has config, weights and tokenizer")]


def _has_weights(folder: Path) -> bool:
    return any(file.suffix in _WEIGHTS for file in folder.iterdir())


def check_windows(configuration: Configuration) -> list[Finding]:
    """Check that the window of θ_L holds the scored samples, and that the window of θ_S does not."""
    if not configuration.ranked or "models.long" in configuration.unset:
        return []
    key, scored = "scoring.max_length", configuration.config["scoring"]["max_length"]
    long, short = (configuration.model(role) for role in ("long", "short"))
    window, short_window = window_of(long), window_of(short)
    found = error_of(key, lambda: check_window(ModelSpec.from_config(long), window, scored))
    if window and not found:
        found = [Finding(OK, key, f"{scored} tokens fit models.long (window {window}, or scaled by rope_parameters)")]
    if configuration.short_window is None and short_window and short_window >= scored:
        text = (
            f"its window of {short_window} tokens holds all of {key} ({scored}), so it sees as far as models.long; "
            "set models.short to a model with a short window, or to null and scoring.short_window"
        )
        found.append(Finding(WARNING, "models.short", text))
    return found


def check_plan(configuration: Configuration) -> list[Finding]:
    """Check that the ranks can share the sequences of a step; the plan is made only after all passes."""
    plan, world = configuration.config["plan"], configuration.world_size
    if not configuration.trained or plan["method"] != "sort" or plan["sequences_per_step"] % world == 0:
        return []
    text = f"{plan['sequences_per_step']} sequences cannot be shared evenly by {world} ranks; choose a multiple"
    return [Finding(ERROR, "plan.sequences_per_step", text)]


def check_deepspeed(configuration: Configuration) -> list[Finding]:
    """Check that the DeepSpeed configuration can be read; the training, which reads it, runs only after all passes."""
    path, key = configuration.config["train"]["deepspeed"], "train.deepspeed"
    if not configuration.trained or path == "none":
        return []
    file, advice = ROOT / path, "see config/deepspeed, or set it to none"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [Finding(ERROR, key, f"{file} is not a readable JSON file ({error}); {advice}")]
    zero = content.get("zero_optimization") if isinstance(content, dict) else None
    if not isinstance(zero, dict) or zero.get("stage") not in (0, 1, 2, 3):
        return [Finding(ERROR, key, f"{file} has no zero_optimization.stage from 0 to 3; {advice}")]
    return [Finding(OK, key, f"{file} is for ZeRO-{zero['stage']}")]


def check_prompts(configuration: Configuration) -> list[Finding]:
    """Check that prompts which must not be cut, such as those of the needle test, fit each evaluated model's window."""
    evaluation, found = Evaluation(configuration), []
    for name in evaluation.benchmarks:
        benchmark = evaluation.benchmark(name)
        if not (benchmark.planned_turns and benchmark.cut_advice):
            continue
        key, options, limit = f"evaluate.{name}", evaluation.options(name), evaluation.section["generate"]["max_length"]
        turns = benchmark.planned_turns(options)
        by_window: dict[int, list[str]] = {}
        for model in evaluation.models:
            window = window_of(evaluation.given.get(model) or configuration.model("base"))
            if window and not evaluation.server(model):
                by_window.setdefault(window, []).append(model)
        if benchmark.left_out_by(options):
            found += [_fitting(evaluation, name, window, models) for window, models in by_window.items()]
            continue
        for window, models in by_window.items():
            answers = [min(one.most_new, max(window // 4, 1)) for one in turns]
            most = max(one.most_prompt + new for one, new in zip(turns, answers, strict=True))
            least = max(one.least_prompt + new for one, new in zip(turns, answers, strict=True))
            text = f"{', '.join(models)}: window of {window}; the longest prompt and its answer take {most} tokens"
            if most <= window:
                found.append(Finding(OK, key, text))
            else:
                found.append(Finding(ERROR if least > window else WARNING, key, f"{text}; {benchmark.cut_advice}"))
        if (longest := max(one.least_prompt for one in turns)) > limit:
            text = f"texts are cut to {limit} tokens, and the longest prompt has {longest}; raise it, or "
            found.append(Finding(ERROR, "evaluate.generate.max_length", text + str(benchmark.cut_advice)))
    return found


def _fitting(evaluation: Evaluation, name: str, window: int, models: Sequence[str]) -> Finding:
    """Return how many prompts of a benchmark fit a window, where the others are left out."""
    benchmark, options = evaluation.benchmark(name), evaluation.options(name)
    assert benchmark.planned_turns
    try:
        fitting = benchmark.within(options, window, evaluation.section["generate"]["max_length"])
    except SettingsError as error:
        return Finding(ERROR, f"evaluate.{name}", f"{', '.join(models)}: {error}")
    left, every = len(benchmark.planned_turns(fitting)), len(benchmark.planned_turns(options))
    text = (
        f"{', '.join(models)}: window of {window}; at most {left} of {every} prompts fit, and the others are left out"
    )
    return Finding(OK, f"evaluate.{name}", text)


def check_packages(configuration: Configuration) -> list[Finding]:
    """Check that optional packages are installed if they are asked for."""
    config, train = configuration.config, configuration.config["train"]
    wanted = [
        ("flash_attn", f"{key}.attention", section["attention"], "pip install '.[gpu]', or set it to auto")
        for key, section, is_used in (
            ("scoring", config["scoring"], configuration.ranked),
            ("train", train, configuration.is_fine_tuned),
            ("evaluate.generate", config["evaluate"]["generate"], config["evaluate"]["benchmarks"]),
        )
        if is_used and section["attention"] == "flash_attention_2"
    ]
    if configuration.trained:
        eight_bit, logs = train["optimizer"] == "adamw_8bit", train["report_to"] == "wandb"
        wanted += [("bitsandbytes", "train.optimizer", "adamw_8bit", "pip install '.[gpu]'")] * eight_bit
        wanted += [("wandb", "train.report_to", "wandb", "pip install wandb")] * logs
    return [
        Finding(ERROR, key, f"{value} needs the package {package}, which is not installed; {advice}")
        if find_spec(package) is None
        else Finding(OK, key, f"{value}: {package} is installed")
        for package, key, value, advice in wanted
    ]


def check_gpus(configuration: Configuration) -> list[Finding]:
    """Check that this machine has as many GPUs as a job asks for. On a cluster, jobs run on other machines."""
    evaluation, found = Evaluation(configuration), []
    is_asked = evaluation.benchmarks or evaluation.harness_tasks
    answering = [evaluation.gpus(model) for model in evaluation.models if is_asked]
    wanted = {
        "scoring.gpus_per_job": configuration.gpus_per_pass if configuration.ranked else 0,
        "evaluate.generate.gpus_per_job": max(answering, default=0),
        "evaluate.judge.gpus": evaluation.judge_gpus if evaluation.judged else 0,
    }
    for key, gpus in wanted.items():
        if gpus > 1 and gpus > (here := len(visible_devices(os.environ))):
            text = f"a job asks for {gpus} GPUs, and this machine has {here}; lower it, unless jobs run on others"
            found.append(Finding(WARNING, key, text))
    return found


def check_judge(configuration: Configuration) -> list[Finding]:
    """Check that there is a key for the judge. Evaluation.check asks for its budget."""
    evaluation = Evaluation(configuration)
    judge = evaluation.section["judge"]
    if not (evaluation.judged and evaluation.models) or judge["stand_in"]:
        return []
    variable, limit = judge["key_variable"], judge["budget_tokens"]
    if evaluation.judge_start:
        return [
            Finding(OK, "evaluate.judge", f"each job starts {judge['start']} for {judge['model']}; no key is needed")
        ]
    if os.environ.get(variable, "").strip():
        text = f"the key is in {variable}; {judge['model']} may use {limit} tokens for each model and benchmark"
        return [Finding(OK, "evaluate.judge", text)]
    is_here = urlsplit(judge["base_url"]).hostname in ("localhost", "127.0.0.1", "::1")
    text = f"there is no key for {judge['model']}; export {variable}=… before you start Snakemake"
    return [Finding(WARNING if is_here else ERROR, "evaluate.judge", text)]


_PASSES = {"index", "short_pass", "long_pass", "segment_pass", "contrast_pass", "rewards", "embeddings"}
# the rules whose jobs each check concerns
_CHECKS: dict[Callable[[Configuration], list[Finding]], set[str]] = {
    check_unset: {"samples"},
    check_files: {"samples", "chats"},
    check_models: {*_PASSES, "tokens", "train", "generate"},
    check_windows: _PASSES,
    check_plan: {"plan"},
    check_deepspeed: {"train"},
    check_prompts: {"generate"},
    check_packages: {*_PASSES, "train", "generate"},
    check_gpus: {*_PASSES, "generate"},
    check_judge: {"judge"},
}
