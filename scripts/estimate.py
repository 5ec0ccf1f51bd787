"""Say what a run will cost before it starts, from lengths alone; after a run, show what was measured beside it.

The script reads the default configuration with your files over it. Lengths come from the tables below the results
folder if they exist, else from the bytes of the raw rows. Of models it reads only config.json and the tokenizer, from a
local folder or the cache. It downloads nothing and changes nothing. Snakemake prints no summary in a dry run, so run
this script beside `snakemake -n`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gateau.command import run
from gateau.costs.lengths import Bounds
from gateau.costs.run import Run
from gateau.costs.stages import DiskItem, Stage
from gateau.errors import SettingsError
from gateau.experiments import Configuration, read_configuration
from gateau.files import write_json
from gateau.reports import UNKNOWN, gigabytes, markdown_table, si, whole
from gateau.work import peak_flops

_ASSUMED_GPU = "NVIDIA A100"
_UNMEASURED = "no measurement"


def main() -> None:
    """Print the estimate, and write it as JSON if a file is given."""
    args = parser().parse_args()
    if not (0 < args.mfu <= 1) or args.bandwidth_tbs <= 0 or (args.peak_tflops is not None and args.peak_tflops <= 0):
        raise SettingsError("--peak-tflops and --bandwidth-tbs take positive numbers, --mfu a share above 0 up to 1")
    config = read_configuration(args.configfile)
    configuration = Configuration(config)
    for experiment in configuration.experiments.values():
        experiment.check(config["models"])
    planned = Run(configuration, Path(args.results or config["results_dir"]))
    stages, disk = planned.stages(), planned.disk()
    peak, peak_source = choose_peak(config, args.peak_tflops)
    speed, bandwidth = peak * args.mfu if peak else None, args.bandwidth_tbs * 1e12
    print(f"# Estimate for {planned.results}\n\nSpeed: {peak_source}, MFU {args.mfu:.0%}; decoding reads "
          f"{args.bandwidth_tbs:g} TB/s.\n")  # fmt: skip
    print("\n".join([*(f"- {name}: {source}" for name, source in planned.sources.items()),
                     *(f"- NOTE {note}" for note in planned.notes)]))  # fmt: skip
    _print_stages(stages, speed, bandwidth)
    _print_disk(disk)
    _print_measured(stages, planned.results, peak)
    if args.json:
        speeds = {"peak_flops": peak, "mfu": args.mfu, "bandwidth": bandwidth}
        write_json(args.json, speeds | _as_json(planned, stages, disk, speed, bandwidth))


def parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument(
        "--configfile", nargs="+", default=[], help="YAML files as for Snakemake, laid over the default configuration"
    )
    found.add_argument("--results", help="folder whose tables and benchmark files are read (default: results_dir)")
    found.add_argument(
        "--peak-tflops", type=float,
        help="peak of one device in TFLOP/s (default: train.peak_tflops, else that of the GPU here, else that of one "
        f"{_ASSUMED_GPU}; none if everything runs on the CPU)",
    )  # fmt: skip
    found.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is used (default: 0.4)")
    found.add_argument(
        "--bandwidth-tbs", type=float, default=2.0,
        help="memory bandwidth of one device in TB/s, which bounds decoding (default: 2.0, an A100)",
    )  # fmt: skip
    found.add_argument("--json", help="file to which everything is written too, unrounded (default: none)")
    return found


def choose_peak(config: Mapping[str, Any], given: float | None) -> tuple[float | None, str]:
    """Return the operations per second of one device and their source; None if all work is on the CPU."""
    if given:
        return given * 1e12, f"{given:g} TFLOP/s a device (--peak-tflops)"
    if configured := config["train"]["peak_tflops"]:
        return configured * 1e12, f"{configured:g} TFLOP/s a device (train.peak_tflops)"
    if all(config[section]["device"] == "cpu" for section in ("scoring", "train")):
        return None, "no hours: everything runs on the CPU, give --peak-tflops of one process"
    here = torch.cuda.get_device_properties(0).name if torch.cuda.is_available() else None
    if here and (peak := peak_flops(here)):
        return peak, f"{peak / 1e12:g} TFLOP/s a device ({here}, in this machine)"
    peak = peak_flops(_ASSUMED_GPU)
    return peak, f"{(peak or 0) / 1e12:g} TFLOP/s a device ({_ASSUMED_GPU}, assumed: give --peak-tflops)"


def _print_stages(stages: Sequence[Stage], speed: float | None, bandwidth: float) -> None:
    rows, flops, all_hours = [], Bounds.exact(0), Bounds.exact(0)
    for stage in stages:
        hours = stage.hours(speed, bandwidth)
        flops, all_hours = flops + (stage.flops or Bounds.exact(0)), all_hours + (hours or Bounds.exact(0))
        where = f"{stage.jobs} x {stage.devices}" if stage.devices else f"{stage.jobs} x CPU"
        rows.append([
            stage.title, whole(stage.samples), _bounds(stage.tokens), _bounds(stage.flops), si(stage.executed),
            _bounds(hours, _hours), where, gigabytes(stage.memory),
        ])  # fmt: skip
    known = any(stage.flops for stage in stages)
    total = [_bounds(flops if known else None), "", _bounds(all_hours if known and speed else None, _hours)]
    rows.append(["total", "", "", *total, "", ""])
    titles = ["stage", "sequences", "tokens", "FLOP", "executed", "device-hours", "jobs x GPUs", "GB a device"]
    print(f"\n{markdown_table(titles, rows)}")
    print(
        f"\nFLOP: causal attention, without recomputation (low to high); executed: with it. {UNKNOWN}: not known, not "
        "in the total. Not counted: loading, idle ranks, padding. Answers that do not exist yet are as long as allowed."
    )


def _print_disk(items: Sequence[DiskItem]) -> None:
    sizes = [(item.name, item.size, item.found()) for item in items]
    sizes.append(("total", sum(size or 0 for _, size, _ in sizes), sum(found or 0 for *_, found in sizes)))
    rows = [[name, gigabytes(size), gigabytes(found)] for name, size, found in sizes]
    print(f"\n## Disk, in GB\n\n{markdown_table(['files', 'estimated', 'there'], rows)}")
    print(
        "\nTraining writes a third checkpoint before it drops the oldest. You may delete progress stores after a run."
    )


def _print_measured(stages: Sequence[Stage], results: Path, peak: float | None) -> None:
    rows = [_measured_row(stage, results, peak) for stage in stages]
    print(f"\n## Measured in {results / 'benchmarks'}\n")
    if all(row[1] == _UNMEASURED for row in rows):
        print("No measurement: no benchmark file of these stages exists yet.")
        return
    titles = ["stage", "jobs", "seconds", "tokens/s", "FLOP/s a device", "of peak", "load", "GB host", "GB estimated"]
    print(markdown_table(titles, rows))
    print(
        "\nSeconds include start and loading. A job that was continued, or found samples in the progress store, did "
        "less than is estimated. GB host: resident memory of processes (Python and its libraries: 0.4), not of a GPU."
    )


def _measured_row(stage: Stage, results: Path, peak: float | None) -> list[str]:
    found = stage.measured(results)
    if found is None:
        return [stage.title, _UNMEASURED, *[""] * 7]
    seconds = max(found.seconds, 1e-9)
    tokens = stage.tokens.likely / seconds if stage.tokens else None
    speed = stage.flops.likely / (seconds * max(stage.devices, 1)) if stage.flops else None
    return [
        stage.title, str(found.jobs), f"{found.seconds:,.1f}", si(tokens),
        si(speed), f"{speed / peak:.1%}" if speed and peak else UNKNOWN,
        f"{found.mean_load:.0f} %" if found.mean_load is not None else UNKNOWN, gigabytes(found.max_rss),
        gigabytes(stage.memory),
    ]  # fmt: skip


def _as_json(
    planned: Run, stages: Sequence[Stage], disk: Sequence[DiskItem], speed: float | None, bandwidth: float
) -> dict[str, Any]:
    """Return FLOP, tokens, bytes, seconds and device-hours, unrounded, with null for an unknown value."""
    described = []
    for stage in stages:
        hours, found = stage.hours(speed, bandwidth), stage.measured(planned.results)
        measured = {"device_hours": asdict(hours) if hours else None, "measured": asdict(found) if found else None}
        described.append(asdict(stage) | measured)
    return {
        "results": str(planned.results),
        "sources": planned.sources,
        "notes": planned.notes,
        "stages": described,
        "disk": [{"name": item.name, "bytes": item.size, "found": item.found()} for item in disk],
    }


def _bounds(value: Bounds | None, show: Callable[[float], str] = si) -> str:
    if value is None:
        return UNKNOWN
    if value.low == value.high:
        return show(value.likely)
    return f"{show(value.likely)} ({show(value.low)} to {show(value.high)})"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


if __name__ == "__main__":
    run(main)
