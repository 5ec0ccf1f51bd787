"""Plans of a large run, measured: eight experiments, trained, exported and evaluated, and many shards."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmark.harness import measured
from helpers import ROOT, merged, small_config, snakemake_command

PASSES = ("short_pass", "long_pass", "segment_pass")

# Snakemake waits for a tenth of a second at every file that it touches
_TOUCH = """
import sys
from snakemake.cli import main
from snakemake.executors.touch import Executor
Executor.SLEEPING_TIME = 0
main(sys.argv[1:])
"""


@dataclass
class Plan:
    """A dry run: jobs in all and of the three passes, seconds by the clock and of CPU, peak bytes."""

    jobs: int
    shard_jobs: int
    wall: float
    cpu: float
    peak: int

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs ({self.shard_jobs} of shards): {self.wall:.1f} s, of them CPU {self.cpu:.1f} s, "
            f"peak {self.peak / 1e6:.0f} MB"
        )


def large_config(directory: Path, shards: int) -> dict:
    """Eight experiments that are all ranked, on all four benchmarks."""
    benchmarks = ["longbench", "longbench_chat", "needle", "mt_bench"]
    return merged(
        small_config(directory),
        {"scoring": {"shards": shards}},
        {"evaluate": {"benchmarks": benchmarks, "experiments": "all", "needle": {"lengths": "auto"}}},
        {"experiments": {"gateau": {}} | {f"alpha_{number}": {"alpha": number / 10} for number in range(7)}},
    )


def plan(directory: Path, config: dict) -> Plan:
    """Measure ``snakemake -n`` of everything."""
    command = snakemake_command(directory, config, "--dry-run", "--quiet", "rules")
    used = measured(command, cwd=ROOT, timeout=600)
    counts = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", used.output, re.M)}
    return Plan(counts.get("total", 0), sum(counts.get(name, 0) for name in PASSES), used.wall, used.cpu, used.peak)


def pretend(directory: Path, config: dict) -> None:
    """Files for all outputs, and Snakemake's records of them, as if everything had run."""
    dry = subprocess.run(
        snakemake_command(directory, config, "--dry-run"), capture_output=True, text=True, check=True, cwd=ROOT
    )
    for line in re.findall(r"^    output: (.*)$", dry.stdout + dry.stderr, re.M):
        for name in line.split(", "):
            path = directory / name.split(" (")[0]
            path = path if path.suffix else path / "file"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("pretended")
    python, _, _, *arguments = snakemake_command(directory, config, "--touch", "--forceall", "--quiet")
    subprocess.run([python, "-c", _TOUCH, *arguments], capture_output=True, check=True, cwd=ROOT)
