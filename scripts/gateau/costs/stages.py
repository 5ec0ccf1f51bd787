"""One record for each stage of a run and for the files that it leaves: estimated, and as found after the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateau.costs.lengths import Bounds
from gateau.costs.measured import Measurement, read_benchmarks, size_on_disk


@dataclass(frozen=True)
class Stage:
    """The jobs of one rule, of all or of one experiment, model or benchmark. None stands for an unknown value.

    ``flops`` is what MFU is measured by; ``executed`` includes recomputation. ``reads`` is the memory traffic in bytes
    that bounds decoding. ``memory`` is the peak of one device, in bytes.
    """

    rule: str
    name: str
    jobs: int
    devices: int  # of each job; 0 for jobs on the CPU
    samples: int | None = None
    tokens: Bounds | None = None
    flops: Bounds | None = None
    executed: float | None = None
    reads: Bounds | None = None
    memory: float | None = None
    benchmarks: str = ""  # pattern of its files below the folder of benchmark files

    @property
    def title(self) -> str:
        """Rule and name."""
        return f"{self.rule} {self.name}".strip()

    def hours(self, flops_per_second: float | None, bytes_per_second: float) -> Bounds | None:
        """Return the device-hours at this speed. Decoding takes at least the time that its reads need."""
        if self.flops is None or not flops_per_second:
            return None
        reads = self.reads or Bounds.exact(0)

        def hours(flops: float, read: float) -> float:
            return max(flops / flops_per_second, read / bytes_per_second) / 3600

        return Bounds(
            hours(self.flops.low, reads.low), hours(self.flops.likely, reads.likely), hours(self.flops.high, reads.high)
        )

    def measured(self, results: Path) -> Measurement | None:
        """Return what the stage's jobs took, or None if there is no benchmark file."""
        return read_benchmarks(sorted((results / "benchmarks").glob(self.benchmarks))) if self.benchmarks else None


@dataclass(frozen=True)
class DiskItem:
    """Files of a stage: their estimated size in bytes, None if it is unknown, and where they are."""

    name: str
    size: float | None
    paths: tuple[Path, ...]

    def found(self) -> int | None:
        """Return the bytes that exist already, or None if there is no file."""
        return size_on_disk(self.paths)
