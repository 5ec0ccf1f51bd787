"""What starts and surrounds the work: planning by Snakemake, the start of every script, and the page of a run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmark.harness import ROOT, Row, Settings, alternate, measured, script

MAKERS = {"small_benchmarks", "train_tiny_pair"}  # they made files of this repository; no rule runs them


def planning(settings: Settings) -> Iterator[Row]:
    """What ``snakemake -n`` costs for each job: eight experiments on four benchmarks with many shards, against ten.

    The start of Snakemake is divided among the jobs, so a plan of many jobs should cost less for each. Below 1 it grows
    faster than the number of jobs. ``everything made`` plans over pretended files and Snakemake's records of them.
    """
    from planning import large_config, plan, pretend

    few, many = (2, (6,)) if settings.quick else (10, (1000, 3334))
    with tempfile.TemporaryDirectory() as name:
        folders = {shards: Path(name) / str(shards) for shards in (few, *many)}
        for folder in folders.values():
            folder.mkdir()
        configs = {shards: large_config(folder, shards) for shards, folder in folders.items()}
        jobs = {}

        def per_job(shards: int) -> float:
            made = plan(folders[shards], configs[shards])
            jobs[shards] = made.jobs
            return 1000 * made.cpu / max(made.jobs, 1)

        ways = {str(shards): partial(per_job, shards) for shards in folders}
        taken = alternate(ways, settings.script_rounds)
        for shards in many:
            bound = f"linear time; {jobs[few]} and {jobs[shards]:,} jobs"
            yield Row("planning", f"{shards:,} shards", f"{few} shards", f"{shards:,} shards", "CPU ms a job",
                      taken[str(few)], taken[str(shards)], bound)  # fmt: skip
        if not settings.quick:
            shards = many[0]
            pretend(folders[shards], configs[shards])
            again = alternate({"made": lambda: plan(folders[shards], configs[shards]).cpu}, settings.script_rounds)
            new = [milliseconds * jobs[shards] / 1000 for milliseconds in taken[str(shards)]]
            yield Row("planning", f"{shards:,} shards", "nothing made", "everything made", "CPU s", new, again["made"],
                      "the plan of a run that has not started")  # fmt: skip


def start(settings: Settings) -> Iterator[Row]:
    """The start of every script: ``--help`` against a Python that does nothing.

    Every job of a cluster starts a script, and Python itself cannot start faster.
    """
    names = sorted({path.stem for path in (ROOT / "scripts").glob("*.py")} - MAKERS)
    names = names[:2] if settings.quick else names
    ways = {"python -c pass": partial(_cpu, [sys.executable, "-c", "pass"])}
    ways |= {name: partial(_cpu, script(name, "--help")) for name in names}
    taken = alternate(ways, settings.script_rounds)
    for name in names:
        yield Row("start", f"{name}.py", "python -c pass", "--help", "CPU s", taken["python -c pass"], taken[name],
                  "the start of Python")  # fmt: skip


def _cpu(command: list[object]) -> float:
    return measured(command).cpu


def page(settings: Settings) -> Iterator[Row]:
    """The page of a run, for each sample: a large run against a small one.

    The page holds a bounded number of samples, so a sample of a large run costs less.
    """
    from page_results import make_results

    small, large = (60, 240) if settings.quick else (10_000, 200_000)
    with tempfile.TemporaryDirectory() as name:
        folders = {count: make_results(Path(name) / str(count), count) for count in (small, large)}
        used = {count: [] for count in folders}
        for _ in range(settings.script_rounds):
            for count, folder in folders.items():
                used[count].append(measured(script("report_page", "--results", folder)))
        sizes = {count: (folder / "report_page/index.html").stat().st_size for count, folder in folders.items()}
    case, names = f"{large:,} samples", (f"{small:,} samples", f"{large:,} samples")
    seconds = [[1000 * one.cpu / count for one in used[count]] for count in (small, large)]
    yield Row("page", case, *names, "CPU ms a sample", *seconds, "linear time")
    peaks = [[float(one.peak) for one in used[count]] for count in (small, large)]
    yield Row("page", case, *names, "B of peak memory", *peaks, "memory that does not grow")
    yield Row("page", case, *names, "B of the page", [float(sizes[small])], [float(sizes[large])],
              "a page that does not grow")  # fmt: skip
