"""The one harness of all measurements: two ways of the same work, in turn, in one run.

A figure is always the ratio of two ways. Both are measured in every round, in changing order, so that a busy or
drifting machine hits both alike. The median of the rounds' ratios is reported with its quartiles.

At import, the module needs nothing beyond Python, because ``gpu.py`` runs where little is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# The child of a small process, because a child's peak memory starts at its parent's.
_MEASURE = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
result = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
wall, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([result.returncode, result.stdout, wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""


@dataclass(frozen=True)
class Settings:
    """What a run measures: small sizes for a smoke test (``quick``), where, how often, and how many rows."""

    quick: bool = False
    device: str = "cpu"
    rounds: int = 3
    rows: tuple[int, ...] = (10_000, 100_000)
    model: str | None = None
    context: int = 1000

    @property
    def script_rounds(self) -> int:
        """Rounds of parts that run scripts."""
        return 1 if self.quick else self.rounds


@dataclass(frozen=True)
class Row:
    """One figure: way a against way b.

    Attributes:
        part: the part of the suite.
        case: what both ways did.
        way_a: the other way, or the bound.
        way_b: this project's way.
        unit: of ``a`` and ``b``; less is better.
        a: what way a took in each round.
        b: what way b took in each round.
        bound: what bounds the ratio a / b.
        limit: the ratio that this bound allows; None if it has no number. A larger ratio counts as all of it.
    """

    part: str
    case: str
    way_a: str
    way_b: str
    unit: str
    a: Sequence[float]
    b: Sequence[float]
    bound: str
    limit: float | None = 1.0

    def record(self) -> dict[str, Any]:
        """Return the row as bench.json has it."""
        ratios = [a / b for a, b in zip(self.a, self.b, strict=True)]
        ratio = statistics.median(ratios)
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else [ratio] * 3
        return {
            "part": self.part, "case": self.case, "way_a": self.way_a, "way_b": self.way_b, "unit": self.unit,
            "a": statistics.median(self.a), "b": statistics.median(self.b), "ratio": ratio, "low": low, "high": high,
            "rounds": len(ratios), "bound": self.bound, "share": self.limit and min(ratio / self.limit, 1.0),
        }  # fmt: skip


def alternate(ways: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Measure all ways in each round, in changing order.

    Returns:
        For each way, one number per round: what the way returns if this is a float, else its seconds.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            wait(device)
            start = time.perf_counter()
            value = ways[name]()
            wait(device)
            found[name].append(value if isinstance(value, float) else time.perf_counter() - start)
    return found


def wait(device: str) -> None:
    """Wait until the device has finished all work."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


@dataclass(frozen=True)
class Used:
    """What a command printed and used: seconds by the clock and of CPU, its children included, and peak bytes."""

    output: str
    wall: float
    cpu: float
    peak: int


def measured(command: Sequence[object], **options: Any) -> Used:
    """Run a command and measure it. Raises RuntimeError with its output if it fails."""
    text = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, command)], check=True, stdout=subprocess.PIPE, text=True, **options
    ).stdout
    code, output, wall, cpu, peak = json.loads(text)
    if code:
        raise RuntimeError(output)
    return Used(output, wall, cpu, peak)


def script(name: str, *arguments: object) -> list[object]:
    """Return the command of a rule's script, for the Python of ``BENCHMARK_PYTHON`` if it is set, else this one."""
    return [os.environ.get("BENCHMARK_PYTHON", sys.executable), ROOT / "scripts" / f"{name}.py", *arguments]


def in_child(function: str, *arguments: object) -> float:
    """Return the number that ``module:name`` returns in a process that gives freed tensors back at once."""
    module, name = function.split(":")
    code = f"import json, sys; from {module} import {name}; print({name}(*json.loads(sys.argv[1])))"
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), str(ROOT / "tests")]),
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # fmt: skip
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        raise RuntimeError(result.stderr)
    return float(result.stdout.split()[-1])


class PeakMemory:
    """The peak memory inside a ``with`` block, beyond that at its start, in bytes; on CUDA, of the allocator.

    On the CPU, it is resident memory (Linux only). Small freed tensors may stay in it, unless the process was started
    by :func:`in_child`.
    """

    def __init__(self, device: str) -> None:
        self._device, self.start, self.peak = device, 0, 0

    def __enter__(self) -> PeakMemory:
        if self._device == "cuda":
            import torch

            wait("cuda")
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            with contextlib.suppress(OSError):  # where it may not be written, the peak is that since the start
                Path("/proc/self/clear_refs").write_text("5")
            self.start = _resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._device == "cuda":
            import torch

            wait("cuda")
            self.peak = torch.cuda.max_memory_allocated()
        else:
            self.peak = _resident("VmHWM")

    @property
    def added(self) -> int:
        """Bytes at the peak beyond those at the start, at least 1."""
        return max(self.peak - self.start, 1)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def matmul_flops_per_second(device: str, dtype: str, size: int) -> float:
    """Return the operations per second of the fastest of some products of two ``size`` × ``size`` matrices."""
    import torch

    matrix = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    taken = []
    for _ in range(20 if device == "cuda" else 3):
        wait(device)
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        wait(device)
        taken.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(taken)
