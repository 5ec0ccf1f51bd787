"""Merging of the passes' shards into one row per sample, by id. A missing or doubled sample is an error.

The three passes write the samples of a shard in the same order, so their files are read side by side, one row group
at a time. Once the attention of a row is averaged over segments, the row is small. The rows are sorted by id in runs of
bounded size, and the runs are merged. Only the index is held in memory as a whole.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gateau.attention_profiles import segment_means
from gateau.command import progress
from gateau.errors import ScoreError
from gateau.schemas import (
    CONTRAST,
    INDEX,
    LONG_RESULT,
    SCORES,
    SCREENED_OUT,
    SEGMENT_RESULT,
    SHORT_RESULT,
    shard_schema,
)
from gateau.selection.awareness import DEFAULT_IMPORTANCE, Array, contextual_awareness_rows
from gateau.sorted_runs import SortedRuns
from gateau.tables import lists_of, open_table, write_table_stream

_BAD = ("no_response", "too_long", "non_finite", "no_context", SCREENED_OUT)  # the worst first
_LENGTHS = ("n_context", "n_instruction", "n_response", "truncated_tokens")
_RESULTS = (SHORT_RESULT, LONG_RESULT, SEGMENT_RESULT)
_UNREAD = ("layer_attention", "layer_attention_peak", "n_layers")
_RUN_BYTES = 64 * 2**20
_AGAIN = "delete the shard files and rerun"


@dataclass(frozen=True)
class Lengths:
    """Tokens of a context segment, and of a block of stored attention. A segment consists of whole blocks."""

    segment: int
    block: int


def shard_files(folder: Path, shards: int) -> list[str]:
    """Return the files of one pass in the order of shards. Files of a different number of shards are ignored.

    Raises:
        ScoreError: a shard is missing.
    """
    files = sorted(folder.glob(f"*-of-{shards:04d}.parquet"))
    if len(files) != shards:
        raise ScoreError(f"{folder} holds {len(files)} of {shards} shards; rerun the workflow to make the missing ones")
    return [str(file) for file in files]


def write_scores(
    index_path: str,
    short: Sequence[str],
    long: Sequence[str],
    segments: Sequence[str],
    lengths: Lengths,
    largest_bad_share: float,
    output: str | os.PathLike[str],
    run_bytes: int = _RUN_BYTES,
) -> Counter[str]:
    """Write the table :data:`gateau.schemas.SCORES`, sorted by id. Return the number of samples of each status.

    The status of a sample is the worst one that any of its passes reports.

    Args:
        index_path: index.parquet.
        short: files of the short pass, in the order of shards.
        long: files of the long pass.
        segments: files of the segment pass.
        lengths: of segments and of blocks of attention.
        largest_bad_share: see :func:`check_finite`.
        output: file to write.
        run_bytes: merged rows that are held in memory, in bytes. More of them are sorted on disk, beside ``output``.

    Raises:
        ScoreError: a pass lacks a sample of the index, has one twice, or has one that is not in the index; or too many
            samples have NaN or infinite scores.
    """
    index = Index(index_path)
    statuses: Counter[str] = Counter()
    bad: list[str] = []
    with SortedRuns(SCORES, Path(output).parent, run_bytes) as runs:
        shards = zip(short, long, segments, strict=True)
        groups = (parts for paths in shards for parts in side_by_side(index, paths, _RESULTS, _UNREAD))
        total = sum(pq.read_metadata(path).num_row_groups for path in long)
        for places, parts in progress(groups, "scores", "row group", total):
            table = _merge(index.take(places), parts, lengths)
            statuses.update(table["status"].to_pylist())
            bad += non_finite(table)
            runs.add(table)
        index.check_complete()
        check_finite(sorted(bad), index.count, largest_bad_share)
        write_table_stream(output, SCORES, runs.sorted_by_id())
    return statuses


def merge_contrast(index_path: str, shards: Sequence[str]) -> pa.Table:
    """Return the table :data:`gateau.schemas.CONTRAST`, sorted by id.

    Args:
        index_path: index.parquet.
        shards: files of the contrast's pass.

    Raises:
        ScoreError: the shards lack a sample of the index, have one twice, or have one that is not in the index.
    """
    index = Index(index_path)
    tables = []
    for path in shards:
        with open_table(path, shard_schema(SHORT_RESULT)) as file:
            places = index.find(path, file.read(columns=["id"])["id"])
            for start, part in _row_groups(file):
                status = worst([index.take(places[start : start + len(part)])["status"], part["status"]])
                tables.append(pa.table([part["id"], status, means(part["token_nll"])], schema=CONTRAST))
    index.check_complete()
    return pa.concat_tables(tables or [CONTRAST.empty_table()]).sort_by("id")


def non_finite(table: pa.Table) -> list[str]:
    """Return the ids of the samples with NaN or infinite scores."""
    ids: list[str] = table.filter(pc.equal(table["status"], "non_finite"))["id"].to_pylist()
    return ids


def check_finite(bad: Sequence[str], count: int, largest_share: float) -> None:
    """Raise ScoreError if more than this share of ``count`` samples has NaN or infinite scores.

    Args:
        bad: ids of the samples with such scores.
        count: number of all samples.
        largest_share: the largest share that is allowed.
    """
    if len(bad) > largest_share * count:
        raise ScoreError(
            f"{len(bad)} of {count} samples have NaN or infinite scores ({', '.join(bad[:10])}), more than "
            "scoring.max_non_finite_share allows; the usual cause is half precision: set scoring.dtype to bfloat16 or "
            "float32, and check that the model works at this length"
        )


class Index:
    """The index, sorted by id, and which of its samples have been found in shards.

    Attributes:
        table: id, status and lengths of all samples.
        count: number of samples.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with open_table(path, INDEX) as file:
            self.table = file.read(columns=["id", "status", "shard", *_LENGTHS]).sort_by("id").combine_chunks()
        self._ids = self.table["id"].combine_chunks()
        self.count = len(self.table)
        self._found = np.zeros(self.count, dtype=bool)

    def take(self, places: NDArray[np.int64]) -> pa.Table:
        """Return status and lengths of the samples at these places."""
        return self.table.take(pa.array(places))

    def find(self, path: str, ids: pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the places of the samples of one shard file, in their order.

        Raises:
            ScoreError: one of them is not in the index, or was found before.
        """
        if (twice := _repeated(ids)) is not None:
            raise ScoreError(f"{path}: sample {twice} is scored twice; {_AGAIN}")
        # the shard is hashed and not the index, because the index may be a thousand times as long
        places = pc.index_in(self._ids, value_set=ids)
        rows = np.full(len(ids), -1)
        rows[places.drop_null().to_numpy()] = np.flatnonzero(places.is_valid())
        if (rows < 0).any():
            raise ScoreError(f"{path}: sample {ids[int(np.argmin(rows))]} is not in {self._path}; {_AGAIN}")
        if self._found[rows].any():
            twice = ids[int(np.argmax(self._found[rows]))]
            raise ScoreError(f"{path}: sample {twice} is scored twice; {_AGAIN}")
        self._found[rows] = True
        return rows

    def check_complete(self) -> None:
        """Raise ScoreError if a sample was not found."""
        if not self._found.all():
            missing = self._ids.filter(pa.array(~self._found)).to_pylist()
            raise ScoreError(f"no scores for {_some(missing)} of {self._path}; {_AGAIN}")


def side_by_side(
    index: Index, paths: Sequence[str], results: Sequence[pa.Schema], unread: Sequence[str] = ()
) -> Iterator[tuple[NDArray[np.int64], list[pa.Table]]]:
    """Yield places in the index, and the same rows of the files of several passes, one row group at a time.

    Args:
        index: the index.
        paths: a shard's file of each pass, among them that of the long pass as the second one.
        results: schema of each pass's result.
        unread: columns that are left out.

    Raises:
        ScoreError: the files do not hold the same samples in the same order, or the index lacks one of them.
    """
    with ExitStack() as stack:
        files = [
            stack.enter_context(open_table(path, shard_schema(result)))
            for path, result in zip(paths, results, strict=True)
        ]
        all_ids = [file.read(columns=["id"])["id"] for file in files]
        long, long_path = all_ids[1], paths[1]
        places = index.find(long_path, long)
        for path, ids in zip(paths, all_ids, strict=True):
            if not ids.equals(long):
                raise ScoreError(f"{_difference(path, ids, long_path, long)}; {_AGAIN}")
        for groups in zip(*(_row_groups(file, unread) for file in files), strict=True):
            start, parts = groups[0][0], [part for _, part in groups]
            yield places[start : start + len(parts[0])], parts


def _difference(path: str, ids: pa.ChunkedArray, long_path: str, long_ids: pa.ChunkedArray) -> str:
    if (twice := _repeated(ids)) is not None:
        return f"{path}: sample {twice} is scored twice"
    for one, its, other, its_ids in ((path, ids, long_path, long_ids), (long_path, long_ids, path, ids)):
        if lacking := its_ids.filter(pc.invert(pc.is_in(its_ids, value_set=its))).to_pylist():
            return f"{one} lacks {_some(lacking)} of {other}"
    return f"{path} holds its samples in another order than {long_path}"


def _row_groups(file: pq.ParquetFile, unread: Sequence[str] = ()) -> Iterator[tuple[int, pa.Table]]:
    """Yield each row group without the columns ``unread``, and the place of its first row in the file."""
    place, columns = 0, [name for name in file.schema_arrow.names if name not in unread]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=columns)
        yield place, table
        place += len(table)


def _repeated(ids: pa.ChunkedArray) -> str | None:
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    return repeated[0].as_py() if len(repeated) else None


def _some(ids: Sequence[str]) -> str:
    return f"{len(ids)} samples ({', '.join(ids[:10])}{', …' if len(ids) > 10 else ''})"


def worst(statuses: Sequence[pa.ChunkedArray]) -> pa.Array:
    """Return the worst status of each row."""
    return pa.array(
        [
            next((bad for bad in _BAD if bad in row), "ok")
            for row in zip(*(s.to_pylist() for s in statuses), strict=True)
        ],
        pa.string(),
    )


def means(token_nll: pa.ChunkedArray) -> pa.Array:
    """Return the mean of each list, in float64."""
    return pa.array([None if row is None else float(row.astype(np.float64).mean()) for row in lists_of(token_nll)])


def _merge(known: pa.Table, parts: Sequence[pa.Table], lengths: Lengths) -> pa.Table:
    short, long, segments = parts
    status = worst([known["status"], short["status"], long["status"], segments["status"]])
    attention = {
        f"segment_{name}": _segment_attention(long[name], long[f"{name}_peak"], known["n_context"], lengths)
        for name in ("attention", "attention_second_half")
    }
    usable = np.flatnonzero([one == "ok" for one in status.to_pylist()]).tolist()
    nll = lists_of(segments["segment_nll"])
    cas: list[float | None] = [None] * len(nll)
    weights = lists_of(segments["segment_weight"])
    for row, value in zip(usable, _cas(nll, attention["segment_attention"], weights, usable), strict=True):
        cas[row] = value
    columns: Mapping[str, Any] = {
        "id": long["id"],
        "status": status,
        **{name: known[name] for name in _LENGTHS},
        "nll_short": means(short["token_nll"]),
        "nll_long": means(long["token_nll"]),
        "token_nll_short": short["token_nll"],
        "token_nll_long": long["token_nll"],
        **{name: segments[name] for name in SEGMENT_RESULT.names},
        **{name: pa.array(rows, SCORES.field(name).type) for name, rows in attention.items()},
        "cas": pa.array(cas, pa.float64()),
    }
    return pa.table([columns[name] for name in SCORES.names], schema=SCORES)


def _segment_attention(
    blocks: pa.ChunkedArray, peaks: pa.ChunkedArray, n_context: pa.ChunkedArray, lengths: Lengths
) -> list[Array | None]:
    rows = zip(lists_of(blocks), peaks.to_pylist(), n_context.to_pylist(), strict=True)
    return [
        None if values is None else segment_means(values, peak, n_tokens, lengths.block, lengths.segment)
        for values, peak, n_tokens in rows
    ]


def _cas(
    nll: Sequence[Array | None],
    attention: Sequence[Array | None],
    weights: Sequence[Array | None],
    rows: Sequence[int],
) -> list[float]:
    first, second, third = ([column[row] for row in rows] for column in (nll, attention, weights))
    found: list[float] = contextual_awareness_rows(first, second, third, DEFAULT_IMPORTANCE).tolist()  # type: ignore
    return found
