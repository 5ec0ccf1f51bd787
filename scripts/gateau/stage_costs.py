"""Stages of a run with what they will cost: the passes over the long rows, their files, hours, what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateau.estimates import (
    Bounds,
    DecoderShape,
    SampleLength,
    files_disk,
    forward_bytes,
    long_pass_flops,
    pass_disk,
    segment_lengths,
    segment_pass_flops,
    short_pass_flops,
    short_pass_length,
    signatures_disk,
)
from gateau.measurements import Measurement, read_benchmarks, size_on_disk
from gateau.methods import Contrast
from gateau.row_lengths import LongLengths

PASSES = ("short_pass", "long_pass", "segment_pass")
_AS_SHORT = ("short_pass", "contrast_pass")  # what computes as the short pass does


@dataclass(frozen=True)
class Stage:
    """One rule, or its jobs for one experiment, model or benchmark. None stands for what cannot be known.

    ``flops`` are what MFU is measured by; ``executed`` holds recomputation too. ``reads`` are bytes of memory traffic
    that bound decoding. ``memory`` is that of one device, in bytes.
    """

    rule: str
    name: str
    jobs: int
    devices: int  # of each job; 0: on the CPU
    samples: int | None = None
    tokens: Bounds | None = None
    flops: Bounds | None = None
    executed: float | None = None
    reads: Bounds | None = None
    memory: float | None = None
    benchmarks: str = ""  # of its jobs, as a pattern below the folder of benchmark files

    @property
    def title(self) -> str:
        """Rule and name."""
        return f"{self.rule} {self.name}".strip()

    def hours(self, flops_per_second: float | None, bytes_per_second: float) -> Bounds | None:
        """Device-hours at this speed; decoding takes at least the time that its reads need."""
        if self.flops is None or not flops_per_second:
            return None
        reads = self.reads or Bounds.exact(0)
        return Bounds(*(
            max(flops / flops_per_second, read / bytes_per_second) / 3600
            for flops, read in zip(_three(self.flops), _three(reads), strict=True)
        ))  # fmt: skip


def _three(bounds: Bounds) -> tuple[float, float, float]:
    return bounds.low, bounds.likely, bounds.high


@dataclass(frozen=True)
class PassOptions:
    """What of the configuration decides the passes' cost. ``bytes_each`` is the size of a weight and an activation."""

    window: int | None  # that the context is truncated to under θ_S, or what stands in its place; None: not at all
    segment_length: int
    segment_batch_tokens: int
    layer_block: int
    max_length: int
    shards: int
    on_cuda: bool
    bytes_each: int
    attention: str


def pass_stages(
    shapes: Mapping[str, DecoderShape | None], lengths: LongLengths | None, options: PassOptions
) -> list[Stage]:
    """The three passes. ``shapes`` by rule, None for a model that is not known; without lengths, memory alone."""
    return [_pass_stage(rule, shapes.get(rule), lengths, options) for rule in PASSES]


def contrast_stage(
    name: str,
    contrast: Contrast,
    shape: DecoderShape | None,
    window: int | None,
    lengths: LongLengths | None,
    options: PassOptions,
) -> Stage:
    """Rule contrast_pass for one contrast. ``shape`` is its model's, ``window`` that of the model ``window_of``.

    Without the window that the context is cut to, nothing can be said.
    """
    if contrast.short_context != "truncate":
        window = None
    elif window is None:
        shape = lengths = None
    return _pass_stage("contrast_pass", shape, lengths, replace(options, window=window), name)


def _pass_stage(
    rule: str, shape: DecoderShape | None, lengths: LongLengths | None, options: PassOptions, name: str = ""
) -> Stage:
    def tokens(samples: Sequence[SampleLength]) -> float:
        return float(sum(_pass_tokens(rule, one, options) for one in samples if one.scored))

    def flops(samples: Sequence[SampleLength]) -> float:
        if shape is None:
            raise ValueError("no shape")
        return sum(_pass_flops(rule, shape, one, options) for one in samples if one.scored)

    def bounds(count: Callable[[Sequence[SampleLength]], float]) -> Bounds | None:
        if lengths is None:
            return None
        if lengths.exact:
            return Bounds.exact(count(lengths.likely))
        return Bounds.around(count(lengths.low), count(lengths.likely), count(lengths.high))

    work = bounds(flops) if shape else None
    return Stage(
        rule=rule,
        name=name,
        jobs=options.shards,
        devices=int(options.on_cuda),
        samples=sum(one.scored for one in lengths.likely) if lengths else None,
        tokens=bounds(tokens),
        flops=work,
        executed=work.likely if work else None,
        memory=_pass_memory(rule, shape, lengths.high if lengths else [], options) if shape else None,
        benchmarks=f"{rule}/{name}{'/' if name else ''}*-of-{options.shards:04d}.tsv",
    )


def _pass_tokens(rule: str, sample: SampleLength, options: PassOptions) -> int:
    if rule in _AS_SHORT:
        return short_pass_length(sample, options.window)
    if rule == "long_pass":
        return sample.total
    return sum(tokens * count for tokens, count in segment_lengths(sample, options.segment_length))


def _pass_flops(rule: str, shape: DecoderShape, sample: SampleLength, options: PassOptions) -> float:
    if rule in _AS_SHORT:
        return short_pass_flops(shape, sample, options.window)
    if rule == "long_pass":
        return long_pass_flops(shape, sample)
    return segment_pass_flops(shape, sample, options.segment_length)


def _pass_memory(rule: str, shape: DecoderShape, samples: Sequence[SampleLength], options: PassOptions) -> float:
    """Bytes of a device at the costliest batch; without lengths, for a sample of max_length with a short response."""
    scored = [one for one in samples if one.scored] or [SampleLength(options.max_length - 600, 600, 500)]

    def batch(sample: SampleLength) -> tuple[int, int]:
        if rule != "segment_pass":
            return _pass_tokens(rule, sample, options), sample.response + 1
        return max(
            (min(max(options.segment_batch_tokens // tokens, 1), count) * tokens,
             min(max(options.segment_batch_tokens // tokens, 1), count) * (sample.response + 1))
            for tokens, count in segment_lengths(sample, options.segment_length)
        )  # fmt: skip

    batches = [batch(sample) for sample in scored]
    costliest = {max(batches), max(batches, key=lambda one: one[1])}
    return max(
        forward_bytes(
            shape, tokens, rows, options.bytes_each, attention=options.attention, probe=rule == "long_pass",
            on_cuda=options.on_cuda,
        )
        for tokens, rows in costliest
    )  # fmt: skip


@dataclass(frozen=True)
class DiskItem:
    """Files of a stage: what they will take, in bytes, and where they lie."""

    name: str
    size: float | None
    paths: tuple[Path, ...]

    def found(self) -> int | None:
        """Bytes that are there already."""
        return size_on_disk(self.paths)


def pass_files(
    shape: DecoderShape | None,
    lengths: LongLengths | None,
    options: PassOptions,
    results: Path,
    progress: Path,
    contrasts: Mapping[str, bool],
) -> list[DiskItem]:
    """Shard files and progress stores of the three passes and of contrasts.

    Args:
        shape: θ_L's, for its number of layers.
        contrasts: by name, whether it computes anything but what the short pass does.
    """
    items = []
    for rule in PASSES:
        size = None
        if lengths is not None and (shape is not None or rule != "long_pass"):
            layers = shape.layers if shape else 0
            scored = [one for one in lengths.likely if one.scored]
            size = pass_disk(rule, scored, layers, options.segment_length, options.layer_block)
            size += files_disk(options.shards)
        items.append(DiskItem(f"{rule}, shard files", size, (results / rule,)))
        stored = size
        if rule == "short_pass":  # contrasts write the same columns, into its folder of the progress store
            items += [
                DiskItem(f"contrast_pass {name}, shard files", size, (results / "contrast_pass" / name,))
                for name in contrasts
            ]
            stored = size and size * (1 + sum(contrasts.values()))
        items.append(DiskItem(f"{rule}, progress store", stored, (progress / rule,)))
    return items


def signature_file(lengths: LongLengths | None, values: int, results: Path) -> DiskItem:
    """What rule minhash writes: ``values`` numbers for every sample, be it scored or not."""
    size = signatures_disk(len(lengths.likely), values) if lengths else None
    return DiskItem("minhash, signatures", size, (results / "minhash/signatures.parquet",))


def measured(stage: Stage, results: Path) -> Measurement | None:
    """What the stage's jobs took; None where there is no benchmark file."""
    return read_benchmarks(sorted((results / "benchmarks").glob(stage.benchmarks))) if stage.benchmarks else None


def pass_options(config: Mapping[str, Any], window: int | None, on_cuda: bool, attention: str) -> PassOptions:
    """From the configuration. ``window`` is θ_S's own; it counts only where the context is truncated to it."""
    scoring = config["scoring"]
    half = on_cuda if scoring["dtype"] == "auto" else scoring["dtype"] != "float32"
    return PassOptions(
        window=window if scoring["short_context"] == "truncate" else None,
        segment_length=config["cam"]["segment_length"],
        segment_batch_tokens=scoring["segment_batch_tokens"],
        layer_block=scoring["layer_block"],
        max_length=scoring["max_length"],
        shards=scoring["shards"],
        on_cuda=on_cuda,
        bytes_each=2 if half else 4,
        attention=attention,
    )
