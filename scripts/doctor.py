"""Check a configuration before hours are spent on it, and say what to do about each problem.

The script reads the default configuration with your files over it, the first rows of your data, and of models
config.json and the tokenizer. It changes nothing. Its exit code is 1 if there is an error. It also prints the parts of
ten random rows and, for the training, what a device will hold.
"""

import argparse
import importlib.metadata
import platform
import shutil
import sys

from gateau.command import argument_parser, run
from gateau.config_files import read_configuration
from gateau.costs.run import shape_of
from gateau.costs.training_memory import MOMENTS, TrainingSetup, bytes_at, memory_items
from gateau.errors import ModelError, SettingsError
from gateau.experiments import Configuration
from gateau.model_files import ModelSpec
from gateau.preflight.findings import ERROR, render
from gateau.preflight.rows import preview_rows
from gateau.preflight.thorough import ASSUMED_GIB, all_checks
from gateau.reports import gigabytes, markdown_table


def main() -> None:
    """Print all findings and the memory of a training."""
    args = parser().parse_args()
    if any(number is not None and number <= 0 for number in (args.devices, args.gpu_memory_gib)):
        raise SettingsError("--devices and --gpu-memory-gib take positive numbers")
    configuration = Configuration(read_configuration(args.configfile))
    findings = all_checks(configuration, args.gpu_memory_gib)
    print(f"{environment()}\n\n{render(findings, shutil.get_terminal_size((120, 24)).columns)}")
    if rows := preview_rows(configuration):
        print(f"\nRandom rows among the first of data.long, as they are split\n\n{rows}")
    if configuration.is_fine_tuned:
        report_training(configuration, args.devices)
    sys.exit(any(one.level == ERROR for one in findings))


def parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    found = argument_parser(__doc__)
    found.add_argument(
        "--configfile", nargs="+", default=[], help="YAML files as for Snakemake, laid over the default configuration"
    )
    found.add_argument(
        "--gpu-memory-gib", type=float,
        help=f"memory of one GPU in GiB, to plan for another machine (default: the GPU here, else {ASSUMED_GIB:g})",
    )  # fmt: skip
    found.add_argument(
        "--devices", type=int,
        help="number of devices of the table (default: train.nodes x train.ranks_per_node)",
    )  # fmt: skip
    return found


def environment() -> str:
    """Return the versions of the packages that matter, and the GPUs, in one line."""
    import torch

    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "deepspeed")]
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([f"Python {platform.python_version()}", *packages, *(gpus or ["no GPU here"])])


def report_training(configuration: Configuration, devices: int | None) -> None:
    """Print all items of a device's memory, unless the model is unknown."""
    spec = ModelSpec.from_config(configuration.model("base"))
    try:
        setup = TrainingSetup.from_config(configuration.config, shape_of(spec), devices)
    except (ModelError, SettingsError):  # among the findings
        return
    items = memory_items(setup)
    rows = [[item.name, *(gigabytes(item.size) if one in item.moments else "" for one in MOMENTS)] for item in items]
    rows.append(["total", *(gigabytes(bytes_at(items, moment)) for moment in MOMENTS)])
    engine = f"ZeRO-{setup.engine.stage}" if setup.engine else ("DDP" if setup.devices > 1 else "one process")
    print(
        f"\nMemory of each device in training ({setup.devices} in all), in GB (10^9 bytes)\n{spec.path}: "
        f"{setup.shape.parameters:,} parameters, {setup.trained:,} trained; {setup.tokens:,} tokens in a micro-batch; "
        f"{engine}\n\n{markdown_table(['item', *MOMENTS], rows)}"
    )
    if setup.host_bytes:
        print(f"\nMemory of each node for what is offloaded: {gigabytes(setup.host_bytes)} GB")


if __name__ == "__main__":
    run(main)
