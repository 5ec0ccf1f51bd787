"""Merging of the passes' shards into one row per sample, by id. A missing or doubled sample is an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateau.errors import ScoreError
from gateau.schemas import INDEX, LONG_RESULT, SEGMENT_RESULT, SHORT_RESULT, shard_schema
from gateau.selection.awareness import DEFAULT_IMPORTANCE, contextual_awareness, segment_means
from gateau.tables import iterate_rows, read_rows

Row = dict[str, Any]
_BAD = ("no_response", "too_long", "non_finite", "no_context")


def shard_files(folder: Path, shards: int) -> list[str]:
    """Return the files of one pass in the order of shards. Files of a different number of shards are ignored.

    Raises:
        ScoreError: a shard is missing.
    """
    files = sorted(folder.glob(f"*-of-{shards:04d}.parquet"))
    if len(files) != shards:
        raise ScoreError(f"{folder} holds {len(files)} of {shards} shards; rerun the workflow to make the missing ones")
    return [str(file) for file in files]


def merge_scores(
    index_path: str, short: Sequence[str], long: Sequence[str], segments: Sequence[str], segment_length: int
) -> list[Row]:
    """Return rows of :data:`gateau.schemas.SCORES`, sorted by id.

    One shard is held in memory at a time. The status of a sample is the worst one that any of its passes reports.

    Args:
        index_path: index.parquet.
        short: files of the short pass, in the order of shards.
        long: files of the long pass.
        segments: files of the segment pass.
        segment_length: in tokens.

    Raises:
        ScoreError: a pass lacks a sample of the index, has one twice, or has one that is not in the index.
    """
    index = {row["id"]: row for row in iterate_rows(index_path, INDEX)}
    merged: dict[str, Row] = {}
    for short_path, long_path, segment_path in zip(short, long, segments, strict=True):
        short_rows = _by_id(short_path, SHORT_RESULT)
        segment_rows = _by_id(segment_path, SEGMENT_RESULT)
        for row in iterate_rows(long_path, shard_schema(LONG_RESULT)):
            key = row["id"]
            if key in merged:
                raise ScoreError(f"{long_path}: sample {key} is scored twice; delete the shard files and rerun")
            if key not in index:
                raise ScoreError(f"{long_path}: sample {key} is not in {index_path}; delete the shard files and rerun")
            short_row, segment_row = short_rows.pop(key, None), segment_rows.pop(key, None)
            if short_row is None or segment_row is None:
                raise ScoreError(
                    f"sample {key} is in {long_path}, but not in both {short_path} and {segment_path}; delete the "
                    "shard files and rerun"
                )
            merged[key] = _merge(index[key], short_row, row, segment_row, segment_length)
        for path, rest in ((short_path, short_rows), (segment_path, segment_rows)):
            if rest:
                raise ScoreError(f"{path}: {_some(rest)} are not in {long_path}; delete the shard files and rerun")
    missing = [key for key in index if key not in merged]
    if missing:
        raise ScoreError(f"no scores for {_some(missing)} of {index_path}; delete the shard files and rerun")
    return [merged[key] for key in sorted(merged)]


def merge_contrast(index_path: str, shards: Sequence[str]) -> list[Row]:
    """Return rows of :data:`gateau.schemas.CONTRAST`, sorted by id.

    Args:
        index_path: index.parquet.
        shards: files of the contrast's pass.

    Raises:
        ScoreError: the shards lack a sample of the index, have one twice, or have one that is not in the index.
    """
    index = {row["id"]: row for row in iterate_rows(index_path, INDEX)}
    merged: dict[str, Row] = {}
    for path in shards:
        for key, row in _by_id(path, SHORT_RESULT).items():
            if key in merged or key not in index:
                wrong = "scored twice" if key in merged else f"not in {index_path}"
                raise ScoreError(f"{path}: sample {key} is {wrong}; delete the shard files and rerun")
            status = _worst({index[key]["status"], row["status"]})
            merged[key] = {"id": key, "status": status, "nll": _mean(row["token_nll"])}
    missing = [key for key in index if key not in merged]
    if missing:
        raise ScoreError(f"no scores for {_some(missing)} of {index_path}; delete the shard files and rerun")
    return [merged[key] for key in sorted(merged)]


def _worst(statuses: set[str]) -> str:
    return next((bad for bad in _BAD if bad in statuses), "ok")


def _by_id(path: str, result: Any) -> dict[str, Row]:
    rows = read_rows(path, shard_schema(result))
    by_id = {row["id"]: row for row in rows}
    if len(by_id) != len(rows):
        raise ScoreError(f"{path}: a sample is scored twice; delete the file and rerun")
    return by_id


def _some(ids: Sequence[str] | dict[str, Row]) -> str:
    names = list(ids)
    return f"{len(names)} samples ({', '.join(names[:10])}{', …' if len(names) > 10 else ''})"


def _merge(index: Row, short: Row, long: Row, segments: Row, segment_length: int) -> Row:
    statuses = {index["status"], short["status"], long["status"], segments["status"]}
    status = _worst(statuses)
    profiles = {
        "segment_attention": long["attention"],
        "segment_attention_second_half": long["attention_second_half"],
    }
    row = {
        "id": index["id"],
        "status": status,
        **{name: index[name] for name in ("n_context", "n_instruction", "n_response", "truncated_tokens")},
        "nll_short": _mean(short["token_nll"]),
        "nll_long": _mean(long["token_nll"]),
        "token_nll_short": short["token_nll"],
        "token_nll_long": long["token_nll"],
        "nll_instruction_only": segments["nll_instruction_only"],
        "nll_response_only": segments["nll_response_only"],
        "segment_nll": segments["segment_nll"],
        **{
            name: None if profile is None else segment_means(profile, segment_length)
            for name, profile in profiles.items()
        },
        "cas": None,
    }
    if status == "ok":
        row["cas"] = float(contextual_awareness(row["segment_nll"], row["segment_attention"], DEFAULT_IMPORTANCE))
    return row


def _mean(token_nll: Sequence[float] | None) -> float | None:
    return None if token_nll is None else float(np.mean(np.asarray(token_nll, dtype=np.float64)))


def check_finite(rows: Sequence[Row], largest_share: float) -> None:
    """Raise ScoreError if more than this share of the samples has NaN or infinite scores."""
    bad = [row["id"] for row in rows if row["status"] == "non_finite"]
    if len(bad) > largest_share * len(rows):
        raise ScoreError(
            f"{len(bad)} of {len(rows)} samples have NaN or infinite scores ({', '.join(bad[:10])}), more than "
            "scoring.max_non_finite_share allows; the usual cause is half precision: set scoring.dtype to bfloat16 or "
            "float32, and check that the model works at this length"
        )
