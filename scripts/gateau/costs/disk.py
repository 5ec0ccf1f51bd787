"""What the stages of a run leave on the disk, in bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateau.costs.lengths import SampleLength, TrainingRow
from gateau.costs.passes import PASSES, PassOptions
from gateau.costs.stages import DiskItem

_NUMBER = 4  # bytes of a float32 or a uint32
_ROW = 120  # bytes of id, status and content digest of a row in a Parquet file
_FILE = 3000  # bytes of the footer of a Parquet file


def pass_files(
    layers: int | None, samples: Sequence[SampleLength] | None, options: PassOptions, results: Path, progress: Path,
    contrasts: Mapping[str, bool],
) -> list[DiskItem]:  # fmt: skip
    """Return the shard files and progress stores of the three passes and of contrasts.

    A progress store takes as much as the shard files, and up to twice while parts are merged.

    Args:
        layers: of θ_L, or None if unknown.
        samples: lengths of all long samples, or None if unknown.
        options: those of the passes.
        results: the results folder.
        progress: the folder of the progress stores.
        contrasts: by name, whether the contrast computes anything that the short pass does not.
    """
    items = []
    for rule in PASSES:
        size = None
        if samples is not None and (layers is not None or rule != "long_pass"):
            scored = [one for one in samples if one.scored]
            size = sum(_pass_row(rule, one, layers or 0, options) for one in scored) + float(options.shards * _FILE)
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


def _pass_row(rule: str, sample: SampleLength, layers: int, options: PassOptions) -> float:
    """Return the bytes of one sample in a shard file. Floats compress by a twentieth only, which is left out."""
    if rule == "short_pass":
        return float(_NUMBER * sample.response + _ROW)
    if rule == "segment_pass":
        return float(2 * _NUMBER * (math.ceil(sample.context / options.segment_length) + 2) + _ROW)
    blocks = layers * math.ceil(sample.context / options.layer_block)
    return float(_NUMBER * (sample.response + 2 * sample.context + blocks) + 4 + _ROW)


def signature_file(samples: int | None, values: int, results: Path) -> DiskItem:
    """Return what rule minhash writes: ``values`` numbers for every sample, whether it is scored or not."""
    size = float(samples * (_NUMBER * values + _ROW) + _FILE) if samples is not None else None
    return DiskItem("minhash, signatures", size, (results / "minhash/signatures.parquet",))


def token_table(source: str, rows: Sequence[TrainingRow], vocabulary: int, results: Path) -> DiskItem:
    """Return what rule tokens writes: for every id and every target as many bits as the vocabulary needs."""
    numbers = sum(one.tokens + one.targets for one in rows)
    size = numbers * math.log2(max(vocabulary, 2)) / 8 + len(rows) * _ROW + _FILE
    return DiskItem(f"tokens {source}", size, (results / f"tokens/{source}.parquet",))
