"""Say what the configured training costs on each GPU and whether it fits, before anything is loaded or queued.

Reads config/config.yaml with your files over it, and of models.base only config.json. Nothing is changed.
"""

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from gateau.command import run
from gateau.errors import ModelError, SettingsError
from gateau.model_files import ModelSpec
from gateau.models import Runtime, load_config
from gateau.training.memory import (
    MOMENTS,
    Engine,
    TrainingSetup,
    checkpoint_bytes,
    checkpoints_bytes,
    estimate,
    knobs,
    model_shape,
)
from gateau.training.objective import check_dense_mask
from gateau.training.throughput import peak_flops, training_flops

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "peft", "bitsandbytes", "flash-attn")
_ASSUMED_GIB = 80.0
_COMPARED = ("NVIDIA A100", "NVIDIA H100")
_MFU = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", nargs="+", default=[], help="as for Snakemake: laid over config/config.yaml")
    parser.add_argument("--gpu-memory-gib", type=float, help="memory of one GPU, for planning on another machine")
    parser.add_argument("--devices", type=int, help="in place of train.nodes x train.ranks_per_node")
    parser.add_argument("--preview", type=int, default=0, help="name so many rendered training rows")
    args = parser.parse_args()
    if any(number is not None and number <= 0 for number in (args.devices, args.gpu_memory_gib)):
        raise SettingsError("--devices and --gpu-memory-gib take positive numbers")

    config = read_configuration(args.configfile)
    spec = ModelSpec.from_config(config["models"]["base"] or config["models"]["long"])
    model_config = _model_config(spec)
    target = choose_target(config, args.gpu_memory_gib)
    attention, reason = training_attention(config, model_config, target)
    setup = training_setup(config, spec, model_config, target, attention, args.devices)

    _section("Environment", environment())
    scoring_attention, scoring_reason = attention_of_scoring(config, model_config)
    backends = [["scoring", scoring_attention, scoring_reason], ["training", attention, reason]]
    print(f"\n{_table(['attention', 'backend', 'why'], backends)}")
    _report_memory(config, spec, setup, target)
    _report_disk(config, setup)
    _report_throughput(config, model_config, setup, target)
    if args.preview:
        _report_previews(config, args.preview)


def read_configuration(files: Sequence[str]) -> dict[str, Any]:
    """config/config.yaml with the files laid over it, as the workflow reads it.

    Raises:
        SettingsError: a file is not a YAML mapping, or the whole does not follow the schema.
    """
    from snakemake.exceptions import WorkflowError  # type: ignore[import-untyped]
    from snakemake.utils import validate  # type: ignore[import-untyped]

    config: dict[str, Any] = {}
    for file in (str(_ROOT / "config/config.yaml"), *files):
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file}: not valid YAML ({error})") from error
        if not isinstance(content, dict):
            raise SettingsError(f"{file}: not a mapping of keys; see config/README.md")
        _lay_over(config, content)
    try:
        validate(config, str(_ROOT / "workflow/schemas/config.schema.yaml"))
    except WorkflowError as error:
        raise SettingsError(f"the configuration does not follow the schema: {error}") from error
    return config


def _lay_over(config: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Replace key by key, except that a file's experiments take the place of all earlier ones."""
    for key, value in new.items():
        if key != "experiments" and isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _lay_over(config[key], value)
        else:
            config[key] = dict(value) if isinstance(value, Mapping) else value


def _model_config(spec: ModelSpec) -> Any:
    try:
        return load_config(spec)
    except ModelError as error:
        if spec.is_local:
            raise
        raise ModelError(
            f"{error}. The doctor needs config.json only: fetch it with `hf download {spec.path} config.json` where "
            "there is a network, or set models.base to a local directory"
        ) from error


@dataclass(frozen=True)
class Target:
    """What the training is planned for: ``memory`` in bytes of one device, or of one process on the CPU."""

    name: str
    on_cuda: bool
    is_here: bool
    memory: float


def choose_target(config: Mapping[str, Any], gpu_memory_gib: float | None) -> Target:
    """The GPUs of this machine, an assumed GPU, or the CPU where train.device says so and no GPU memory is given."""
    train = config["train"]
    if gpu_memory_gib is None and train["device"] == "cpu":
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Target("the CPU, memory shared by its processes", False, True, total / train["ranks_per_node"])
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        memory = found.total_memory if gpu_memory_gib is None else gpu_memory_gib * 2**30
        return Target(found.name, True, True, memory)
    assumed = gpu_memory_gib or _ASSUMED_GIB
    return Target(f"an assumed GPU of {assumed:g} GiB (there is none here)", True, False, assumed * 2**30)


def training_attention(config: Mapping[str, Any], model_config: Any, target: Target) -> tuple[str, str]:
    """The attention backend of training, and why."""
    train = config["train"]
    if train["attention"] != "auto":
        return train["attention"], "as train.attention says"
    if target.on_cuda and not target.is_here:
        return "flash_attention_2", "assumed: there is no CUDA device here to ask; pip install '.[gpu]' there"
    runtime = Runtime(train["device"], train["dtype"], setting="train")
    chosen = runtime.resolved_attention(model_config, packed=True)
    return chosen, _why(chosen, runtime, model_config)


def attention_of_scoring(config: Mapping[str, Any], model_config: Any) -> tuple[str, str]:
    """The attention backend that the scoring passes take on this machine, and why."""
    scoring = config["scoring"]
    if scoring["attention"] != "auto":
        return scoring["attention"], "as scoring.attention says"
    if scoring["device"].startswith("cuda") and not torch.cuda.is_available():
        return "unknown", "scoring.device is cuda, and there is no CUDA device here to ask"
    runtime = Runtime(scoring["device"], scoring["dtype"])
    chosen = runtime.resolved_attention(model_config)
    return chosen, _why(chosen, runtime, model_config)


def _why(attention: str, runtime: Runtime, model_config: Any) -> str:
    if attention.startswith("flash"):
        return "the best of those installed for this device"
    if attention == "eager":
        return "the model caps attention logits, which sdpa cannot"
    if runtime.resolved_device().type != "cuda":
        return "on the CPU"
    if runtime.resolved_dtype() == torch.float32:
        return "flash-attn does not compute in float32"
    packed = "; sdpa would mask packed sequences with S x S" if attention == "flex_attention" else ""
    return f"no flash-attn is installed (pip install '.[gpu]'){packed}"


def training_setup(
    config: Mapping[str, Any], spec: ModelSpec, model_config: Any, target: Target, attention: str, devices: int | None
) -> TrainingSetup:
    """The configured training for the memory estimate.

    Raises:
        SettingsError: the DeepSpeed file cannot be read, or does not go with the optimizer.
    """
    train = config["train"]
    lora = train["lora"]
    per_node = train["ranks_per_node"]
    devices = devices or train["nodes"] * per_node
    packed = config["plan"]["method"] != "sort"
    if train["deepspeed"] and train["optimizer"] == "adamw_8bit":
        raise SettingsError("train.optimizer adamw_8bit does not go with DeepSpeed; set train.deepspeed: null")
    return TrainingSetup(
        shape=model_shape(model_config, (lora or {}).get("target_modules", "all-linear"), spec.trust_remote_code),
        tokens=config["plan"]["token_budget"] if packed else config["tokens"]["max_length"],
        devices=devices,
        devices_per_node=min(per_node, devices),
        half=target.on_cuda if train["dtype"] == "auto" else train["dtype"] == "bfloat16",
        attention=attention,
        packed=packed,
        checkpointing=train["gradient_checkpointing"],
        optimizer=train["optimizer"],
        engine=_engine(train["deepspeed"]),
        lora_rank=lora["r"] if lora else None,
        on_cuda=target.on_cuda,
    )


def _engine(path: str | None) -> Engine | None:
    if path is None:
        return None
    file = _ROOT / path
    try:
        return Engine.from_config(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"train.deepspeed: cannot read {file} ({error!r}); see config/deepspeed") from error


def environment() -> list[list[str]]:
    """Versions of what matters here, and the CUDA devices."""
    rows = [["python", platform.python_version()]]
    for package in _PACKAGES:
        try:
            rows.append([package, importlib.metadata.version(package)])
        except importlib.metadata.PackageNotFoundError:
            rows.append([package, "not installed"])
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        rows.append([f"cuda:{number}", f"{found.name}, {found.total_memory / 2**30:.1f} GiB"])
    if torch.cuda.is_available():
        rows.append(
            ["bfloat16", "supported" if torch.cuda.is_bf16_supported() else "not supported: train.dtype float32"]
        )
    else:
        rows.append(["CUDA devices", "none"])
    return rows


def _report_memory(config: Mapping[str, Any], spec: ModelSpec, setup: TrainingSetup, target: Target) -> None:
    found = estimate(setup)
    rows = [
        [item.name, *(_gb(item.size) if moment in item.moments else "" for moment in MOMENTS), item.reason]
        for item in found.items
    ]
    rows.append(["total", *(_gb(found.at(moment)) for moment in MOMENTS), f"peak: {found.peak_moment}"])
    engine = f"ZeRO-{setup.engine.stage}" if setup.engine else ("DDP" if setup.devices > 1 else "one process")
    print(
        f"\nMemory of each device ({setup.devices} in all), in GB (10^9 bytes)\n"
        f"{spec.path}: {setup.shape.parameters:,} parameters, {setup.trained:,} trained; {setup.tokens:,} tokens in a "
        f"micro-batch; {engine}; for {target.name}"
    )
    print(_table(["item", *MOMENTS, "how"], rows, numbers=range(1, 1 + len(MOMENTS))))
    if found.host:
        print(f"Memory of each node for what is offloaded: {_gb(found.host)} GB")
    fits = found.peak <= target.memory
    share = f"{_gb(found.peak)} of {_gb(target.memory)} GB ({target.memory / 2**30:.1f} GiB)"
    print(f"\n{'It fits' if fits else 'It does NOT fit'}: {share}.")
    if setup.packed:
        try:
            check_dense_mask(setup.attention, setup.tokens)
        except SettingsError as error:
            print(f"It may be refused: {error}")
    if advice := knobs(setup, min(config["tokens"]["max_length"], setup.tokens), target.memory):
        print("\nWhat would lower the peak, the cheapest first")
        lines = []
        for knob in advice:
            peak = estimate(knob.setup).peak
            lines.append([knob.change, _gb(peak), "fits" if peak <= target.memory else "no", knob.price])
        print(_table(["change", "GB", "fits", "price"], lines, numbers=[1]))


def _report_disk(config: Mapping[str, Any], setup: TrainingSetup) -> None:
    folder = config["train"]["checkpoint_dir"] or f"{config['results_dir']}/checkpoints"
    rows = [
        ["one checkpoint", _gb(checkpoint_bytes(setup)), f"below {folder}, for each experiment"],
        ["at the most", _gb(checkpoints_bytes(setup)), "two are kept, and a third while it is written"],
        ["the finished model", _gb(setup.shape.parameters * setup.compute_bytes), "for each experiment"],
    ]
    _section("Disk, in GB", rows, numbers=[1])


def _report_throughput(config: Mapping[str, Any], model_config: Any, setup: TrainingSetup, target: Target) -> None:
    longest = min(config["tokens"]["max_length"], setup.tokens)
    peaks = _peaks(config, target)
    rows = []
    for length in (longest, longest // 4, longest // 16):
        per_token = training_flops(model_config, [length], frozen_weights=setup.lora_rank is not None) / length
        hours = [per_token * 1e8 / (_MFU * peak * setup.devices) / 3600 for peak in peaks.values()]
        rows.append([f"{length:,}", f"{per_token / 1e9:.3g}", *(f"{hour:.2g}" for hour in hours)])
    titles = ["tokens of a sequence", "GFLOP a token", *(f"hours on {setup.devices} x {name}" for name in peaks)]
    print(
        f"\nTime for 100 M tokens at {_MFU:.0%} of the peak"
        if peaks
        else "\nWork (no peak is known: set train.peak_tflops)"
    )
    print(_table(titles, rows, numbers=range(len(titles))))


def _peaks(config: Mapping[str, Any], target: Target) -> dict[str, float]:
    """Operations per second by device: as configured, of the device here, or of common ones to compare."""
    if configured := config["train"]["peak_tflops"]:
        return {f"{configured:g} TFLOP/s": configured * 1e12}
    names = [target.name] if target.is_here else _COMPARED
    return {name: peak for name in names if (peak := peak_flops(name))}


def _report_previews(config: Mapping[str, Any], count: int) -> None:
    folder = Path(config["results_dir"]) / "tokens"
    pages = sorted(folder.glob("preview_*.html"))
    rendered = config["tokens"]["preview"]
    print(f"\nRendered training rows, what is learnt marked ({count} asked for, tokens.preview renders {rendered})")
    if pages:
        print("\n".join(f"  {page}" for page in pages))
    else:
        print(f"  none yet: the workflow's rule tokens writes {folder}/preview_*.html")


def _gb(size: float) -> str:
    gigabytes = size / 1e9
    return f"{gigabytes:.1f}" if gigabytes >= 1 else f"{gigabytes:.2g}"


def _section(title: str, rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> None:
    print(f"\n{title}\n{_table(None, rows, numbers)}")


def _table(titles: Sequence[str] | None, rows: Sequence[Sequence[str]], numbers: Sequence[int] | range = ()) -> str:
    """Columns side by side; those of ``numbers`` flush right."""
    lines = [*([titles] if titles else []), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  " + "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
