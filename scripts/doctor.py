"""Say what the configured training costs on each device and whether it fits, before anything is loaded or queued.

The script reads the default configuration with your files over it, and of models.base only config.json. It changes
nothing.
"""

import argparse
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gateau.command import run
from gateau.costs.advice import knobs
from gateau.costs.training_memory import (
    MOMENTS,
    TrainingSetup,
    checkpoint_bytes,
    checkpoints_bytes,
    estimate,
)
from gateau.costs.training_setup import Target, choose_target, scoring_attention, training_attention, training_setup
from gateau.errors import ModelError, SettingsError
from gateau.experiments import Configuration, read_configuration
from gateau.model_files import ModelSpec
from gateau.models import load_config
from gateau.reports import gigabytes, markdown_table
from gateau.training.objective import check_dense_mask
from gateau.work import peak_flops, training_flops

_PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "peft", "bitsandbytes", "flash-attn")
_COMPARED = ("NVIDIA A100", "NVIDIA H100")
_MFU = 0.4


def main() -> None:
    """Print environment, memory, disk, time and previews."""
    args = parser().parse_args()
    if any(number is not None and number <= 0 for number in (args.devices, args.gpu_memory_gib)):
        raise SettingsError("--devices and --gpu-memory-gib take positive numbers")
    config = read_configuration(args.configfile)
    spec = ModelSpec.from_config(Configuration(config).model("base"))
    model_config = _model_config(spec)
    target = choose_target(config, args.gpu_memory_gib)
    setup = training_setup(config, spec, model_config, target, args.devices)
    print(f"# Environment\n\n{markdown_table(['package', 'version'], environment(), numbers=())}\n")
    backends = [
        ["scoring", *scoring_attention(config, model_config)],
        ["training", *training_attention(config, model_config, target)],
    ]
    print(markdown_table(["attention", "backend", "why"], backends, numbers=()))
    _report_memory(config, spec, setup, target)
    _report_disk(config, setup)
    _report_time(config, setup, target)
    if args.preview:
        _report_previews(config, args.preview)


def parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument(
        "--configfile", nargs="+", default=[], help="YAML files as for Snakemake, laid over the default configuration"
    )
    found.add_argument(
        "--gpu-memory-gib", type=float,
        help="memory of one GPU in GiB, to plan for another machine (default: that of the GPU here, else 80)",
    )  # fmt: skip
    found.add_argument("--devices", type=int, help="number of devices (default: train.nodes x train.ranks_per_node)")
    found.add_argument(
        "--preview", type=int, default=0, help="list the pages of so many rendered training rows (default: 0, none)"
    )
    return found


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


def environment() -> list[list[str]]:
    """Return the versions of the packages that matter here, and the CUDA devices."""
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
        supported = torch.cuda.is_bf16_supported()
        return [*rows, ["bfloat16", "supported" if supported else "not supported: set train.dtype: float32"]]
    return [*rows, ["CUDA devices", "none"]]


def _report_memory(config: Mapping[str, Any], spec: ModelSpec, setup: TrainingSetup, target: Target) -> None:
    found = estimate(setup)
    rows = [
        [item.name, *(gigabytes(item.size) if moment in item.moments else "" for moment in MOMENTS), item.reason]
        for item in found.items
    ]
    rows.append(["total", *(gigabytes(found.at(moment)) for moment in MOMENTS), f"peak: {found.peak_moment}"])
    engine = f"ZeRO-{setup.engine.stage}" if setup.engine else ("DDP" if setup.devices > 1 else "one process")
    print(
        f"\n# Memory of each device ({setup.devices} in all), in GB (10^9 bytes)\n\n"
        f"{spec.path}: {setup.model.parameters:,} parameters, {setup.trained:,} trained; {setup.tokens:,} tokens in a "
        f"micro-batch; {engine}; for {target.name}\n"
    )
    print(markdown_table(["item", *MOMENTS, "how"], rows, numbers=range(1, 1 + len(MOMENTS))))
    if found.host:
        print(f"\nMemory of each node for what is offloaded: {gigabytes(found.host)} GB")
    share = f"{gigabytes(found.peak)} of {gigabytes(target.memory)} GB ({target.memory / 2**30:.1f} GiB)"
    print(f"\n{'It fits' if found.peak <= target.memory else 'It does NOT fit'}: {share}.")
    if setup.packed:
        try:
            check_dense_mask(setup.attention, setup.tokens)
        except SettingsError as error:
            print(f"Training may refuse this: {error}")
    lines = []
    for knob in knobs(setup, min(config["tokens"]["max_length"], setup.tokens), target.memory):
        peak = estimate(knob.setup).peak
        lines.append([knob.change, gigabytes(peak), "fits" if peak <= target.memory else "no", knob.price])
    if lines:
        print("\nChanges that would lower the peak, the cheapest first\n")
        print(markdown_table(["change", "GB", "fits", "price"], lines, numbers=[1]))


def _report_disk(config: Mapping[str, Any], setup: TrainingSetup) -> None:
    folder = config["train"]["checkpoint_dir"] or f"{config['results_dir']}/checkpoints"
    model = setup.model.parameters * setup.compute_bytes
    rows = [
        ["one checkpoint", gigabytes(checkpoint_bytes(setup)), f"below {folder}, for each experiment"],
        ["at most", gigabytes(checkpoints_bytes(setup)), "two are kept, and a third exists while it is written"],
        ["the finished model", gigabytes(model), "for each experiment"],
    ]
    print(f"\n# Disk\n\n{markdown_table(['files', 'GB', 'where'], rows, numbers=[1])}")


def _report_time(config: Mapping[str, Any], setup: TrainingSetup, target: Target) -> None:
    """Print the work of one token, every token taken for a target, and hours for 100 million tokens."""
    longest = min(config["tokens"]["max_length"], setup.tokens)
    peaks = _peaks(config, target)
    rows = []
    for length in (longest, longest // 4, longest // 16):
        flops = training_flops(setup.model.decoder, length, length, frozen_weights=setup.lora_rank is not None)
        hours = [flops / length * 1e8 / (_MFU * peak * setup.devices) / 3600 for peak in peaks.values()]
        rows.append([f"{length:,}", f"{flops / length / 1e9:.3g}", *(f"{hour:.2g}" for hour in hours)])
    titles = ["tokens of a sequence", "GFLOP a token", *(f"hours on {setup.devices} x {name}" for name in peaks)]
    known, unknown = (
        f"Time for 100 M tokens at {_MFU:.0%} of the peak",
        "Work (no peak is known: set train.peak_tflops)",
    )
    print(f"\n# {known if peaks else unknown}\n\n{markdown_table(titles, rows, numbers=range(len(titles)))}")


def _peaks(config: Mapping[str, Any], target: Target) -> dict[str, float]:
    """Return operations per second by device: as configured, of the device here, or of common ones to compare."""
    if configured := config["train"]["peak_tflops"]:
        return {f"{configured:g} TFLOP/s": configured * 1e12}
    names = [target.name] if target.is_here else _COMPARED
    return {name: peak for name in names if (peak := peak_flops(name))}


def _report_previews(config: Mapping[str, Any], count: int) -> None:
    pages = sorted(Path(config["results_dir"], "tokens").glob("*_preview.html"))
    rendered = config["tokens"]["preview"]
    print(f"\n# Rendered training rows with targets marked ({count} asked for, tokens.preview renders {rendered})\n")
    print("\n".join(f"- {page}" for page in pages) or "None yet: rule tokens writes tokens/<source>_preview.html.")


if __name__ == "__main__":
    run(main)
