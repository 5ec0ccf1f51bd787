"""Say what a run will cost before it starts, from lengths alone; after a run, show what was measured beside it.

The script reads the default configuration with your files over it. Lengths come from the tables below the results
folder if they exist. Otherwise they are estimated from the raw rows. Of models it reads only config.json and the
tokenizer, from a local folder or the cache. It downloads nothing and changes nothing. Snakemake prints no summary in a
dry run, so run this script beside `snakemake -n`.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateau.command import argument_parser, run
from gateau.config_files import read_configuration
from gateau.costs.run import Run, Stage
from gateau.errors import SettingsError
from gateau.experiments import Configuration
from gateau.files import write_json
from gateau.reports import UNKNOWN, gigabytes, markdown_table, si, whole
from gateau.work import peak_flops

_ASSUMED_GPU = "NVIDIA A100"


def main() -> None:
    """Print the estimate, and write it as JSON if a file is given."""
    args = parser().parse_args()
    if not 0 < args.utilization <= 1 or (args.peak_tflops is not None and args.peak_tflops <= 0):
        raise SettingsError("--peak-tflops takes a positive number, --utilization a share above 0 up to 1")
    config = read_configuration(args.configfile)
    configuration = Configuration(config)
    configuration.check_names()
    for experiment in configuration.experiments.values():
        experiment.check(config["models"])
    planned = Run(configuration, Path(config["results_dir"]))
    peak, source = choose_peak(config, args.peak_tflops)
    speed = peak * args.utilization if peak else None
    stages = [_described(stage, planned.results, speed) for stage in planned.stages()]
    print(f"# Estimate for {planned.results}\n\nSpeed: {args.utilization:.0%} of {source}\n")
    print("\n".join([_table(stages), "", _LEGEND, *(f"- {note}" for note in planned.notes)]))
    if args.json:  # unrounded, with null for an unknown value
        about = {"results": str(planned.results), "peak_flops": peak, "notes": planned.notes}
        write_json(args.json, {**about, "stages": stages})


def parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    found = argument_parser(__doc__)
    found.add_argument(
        "--configfile", nargs="+", default=[], help="YAML files as for Snakemake, laid over the default configuration"
    )
    found.add_argument(
        "--peak-tflops", type=float,
        help=f"peak of one device in TFLOP/s (default: train.peak_tflops, else that of one {_ASSUMED_GPU})",
    )  # fmt: skip
    found.add_argument("--utilization", type=float, default=0.4, help="share of the peak that is reached")
    found.add_argument("--json", help="file to which everything is written too, unrounded (default: none)")
    return found


def choose_peak(config: Mapping[str, Any], given: float | None) -> tuple[float | None, str]:
    """Return the operations per second of one device and their source; None if all work is on the CPU."""
    if number := given or config["train"]["peak_tflops"]:
        return (
            number * 1e12,
            f"{number:g} TFLOP/s a device ({'--' if given else 'train.'}peak{'-' if given else '_'}tflops)",
        )
    if all(config[section]["device"] == "cpu" for section in ("scoring", "train")):
        return None, "an unknown peak: everything runs on the CPU; give --peak-tflops of one process"
    peak = peak_flops(_ASSUMED_GPU) or 0.0
    return peak, f"{peak / 1e12:g} TFLOP/s a device ({_ASSUMED_GPU}, ASSUMED: give --peak-tflops)"


_LEGEND = f"""\
FLOP: causal attention, recomputation included. Answers are as long as allowed. Decoding is bound by memory, so answers
take longer than their operations. If layers are spread over GPUs (gpus_per_job), one of them computes at a time, and
the hours of all count. measured: device-hours of finished jobs, loading included. GB a device: at the longest sequence.
GB disk: files of results and progress, checkpoints included. {UNKNOWN}: unknown, not in the total.
Not counted: loading, idle ranks, padding, held-out losses, embeddings, rewards.
"""


def _described(stage: Stage, results: Path, speed: float | None) -> dict[str, Any]:
    hours = stage.device_hours(speed) if speed else None
    return asdict(stage) | {"disk": stage.disk, "device_hours": hours, "measured_hours": stage.measured_hours(results)}


def _table(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{one['rule']} {one['name']}".strip(), whole(one["sequences"]), si(one["tokens"]), si(one["flops"]),
            _hours(one["device_hours"]), _hours(one["measured_hours"]), f"{one['jobs']} x {one['devices'] or 'CPU'}",
            gigabytes(one["memory"]), gigabytes(one["disk"]),
        ]
        for one in stages
    ]  # fmt: skip
    sums = {key: sum(one[key] or 0 for one in stages) for key in ("flops", "device_hours", "measured_hours", "disk")}
    hours = [_hours(sums[key] or None) for key in ("device_hours", "measured_hours")]
    rows.append(["total", "", "", si(sums["flops"]), *hours, "", "", gigabytes(sums["disk"])])
    titles = [
        "stage",
        "sequences",
        "tokens",
        "FLOP",
        "device-hours",
        "measured",
        "jobs x GPUs",
        "GB a device",
        "GB disk",
    ]
    return markdown_table(titles, rows)


def _hours(hours: float | None) -> str:
    if hours is None:
        return UNKNOWN
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


if __name__ == "__main__":
    run(main)
