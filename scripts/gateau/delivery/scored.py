"""All raw rows as they came, and beside them what the run found out about each: status, scores, ranks, selections."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gateau.data.readers import Origin
from gateau.data.whole import WholeRows
from gateau.errors import DataError
from gateau.files import atomic_path
from gateau.schemas import SAMPLES, SCORES
from gateau.tables import iterate_rows

# columns of the scores that are added, in this order
SHOWN = (
    "status", "n_context", "n_instruction", "n_response", "truncated_tokens", "nll_short", "nll_long",
    "nll_instruction_only", "nll_response_only", "cas",
)  # fmt: skip
NOT_SCORED = "not_scored"
_REJECTED = "rejected: "
_PREFIX = "gateau_"
_GROUP_BYTES, _GROUP_ROWS = 32 << 20, 8192  # after which a row group is written


@dataclass(frozen=True)
class Outcome:
    """What an experiment makes of the samples.

    Attributes:
        name: of the experiment.
        selected: ids of the samples that it selects.
        ranking: columns id, rank and score of the samples that it ranks; None if it ranks none.
    """

    name: str
    selected: Collection[str]
    ranking: pd.DataFrame | None


def found_out(ids: list[str], scores: pd.DataFrame | None, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return the columns that are added, one row per sample in the order of ``ids``.

    Args:
        ids: of all samples.
        scores: the columns id and :data:`SHOWN` of the scores; None if nothing was scored.
        outcomes: of all experiments.
    """
    columns: dict[str, tuple[pa.Array, str]] = {"id": (pa.array(ids, pa.string()), "id of the sample")}
    if scores is None:
        columns["status"] = (pa.array([NOT_SCORED] * len(ids)), "")
    else:
        ordered = scores.set_index("id").reindex(ids)
        for name in SHOWN:
            field = SCORES.field(name)
            columns[name] = (pa.array(ordered[name], field.type, from_pandas=True), _description(field))
    for one in outcomes:
        suffix = re.sub(r"\W", "_", one.name, flags=re.ASCII)
        if one.ranking is not None:
            ranked = one.ranking.set_index("id").reindex(ids)
            for name, kind in (("rank", pa.int64()), ("score", pa.float64())):
                values = pa.array(ranked[name], kind, from_pandas=True)
                _add(columns, f"{name}_{suffix}", values, f"{name} of the experiment {one.name}")
        chosen = pa.array(pd.Series(ids, dtype=object).isin(set(one.selected)))
        _add(columns, f"selected_{suffix}", chosen, f"whether the experiment {one.name} selects the row")
    columns["status"] = (
        columns["status"][0],
        f"ok or another status of docs/results.md, '{_REJECTED}' and the reason, or {NOT_SCORED}",
    )
    fields = [pa.field(name, one.type, metadata={"description": text}) for name, (one, text) in columns.items()]
    return pa.Table.from_arrays([one for one, _ in columns.values()], schema=pa.schema(fields))


def _description(field: pa.Field) -> str:
    return str((field.metadata or {}).get(b"description", b"").decode())


def _add(columns: dict[str, tuple[pa.Array, str]], name: str, values: pa.Array, text: str) -> None:
    columns[free_name(name, columns)] = (values, text)


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return ``name``, with the prefix ``gateau_`` until it differs from all ``taken`` ones in more than case."""
    lowered = {one.lower() for one in taken}
    while name.lower() in lowered:
        name = _PREFIX + name
    return name


def write_scored(
    rows: WholeRows,
    samples: str | os.PathLike[str],
    rejects: str | os.PathLike[str],
    found: pa.Table,
    output: str | os.PathLike[str],
) -> dict[str, int]:
    """Write every raw row with its own columns, followed by those of ``found``. Return the number of rows by status.

    Memory holds one row group, and ``found``.

    Args:
        rows: the raw rows.
        samples: samples.parquet, which says where each sample came from.
        rejects: rejects.jsonl, which says the same of the rejected rows.
        found: what :func:`found_out` returns, in the order of ``samples``.
        output: the file to write.

    Raises:
        DataError: the raw rows are not those that the samples were made from.
    """
    names: list[str] = []
    for name in found.schema.names:
        names.append(free_name(name, [*rows.schema.names, *names]))
    added = [field.with_name(name) for field, name in zip(found.schema, names, strict=True)]
    schema = pa.schema([*rows.schema, *added])
    places = _Places(samples, rejects)
    counts: dict[str, int] = {}
    with atomic_path(output) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        n_bytes = n_rows = 0
        for origins, table in rows.batches():
            extra = _extra(found, [places.of(origin) for origin in origins])
            for status in extra.column("status").to_pylist():
                counts[status] = counts.get(status, 0) + 1
            waiting.append(pa.Table.from_arrays([*table.columns, *extra.columns], schema=schema))
            n_bytes, n_rows = n_bytes + table.nbytes, n_rows + len(table)
            if n_bytes > _GROUP_BYTES or n_rows >= _GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                waiting, n_bytes, n_rows = [], 0, 0
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    places.check_end()
    return dict(sorted(counts.items()))


def _extra(found: pa.Table, places: Sequence[int | tuple[str, str | None]]) -> pa.Table:
    """Return the rows of ``found`` at the places, and for a rejected row its status and id."""
    table = found.take(pa.array([one if isinstance(one, int) else None for one in places], pa.int64()))
    for number, field in enumerate(found.schema):
        column = table.column(number)
        if field.name in ("id", "status") or pa.types.is_boolean(field.type):
            values = column.to_pylist()
            for row, one in enumerate(places):
                if isinstance(one, tuple):
                    reason, row_id = one
                    values[row] = {"id": row_id, "status": _REJECTED + reason}.get(field.name, False)
            table = table.set_column(number, field, pa.array(values, field.type))
    return table


class _Places:
    """Follows the raw rows in order, and tells for each which sample it became, or why it was rejected."""

    def __init__(self, samples: str | os.PathLike[str], rejects: str | os.PathLike[str]) -> None:
        self._samples = enumerate(iterate_rows(samples, SAMPLES, ["file", "line"]))
        self._rejects = _rejected(rejects)
        self._path = samples
        self._sample, self._reject = next(self._samples, None), next(self._rejects, None)

    def of(self, origin: Origin) -> int | tuple[str, str | None]:
        """Return the number of the sample, or the reason of the rejection and the row's own id."""
        here = {"file": origin.file, "line": origin.line}
        if self._sample is not None and self._sample[1] == here:
            number = self._sample[0]
            self._sample = next(self._samples, None)
            return number
        reject = self._reject
        if reject is None or (reject["file"], reject["line"]) != (origin.file, origin.line):
            raise self._other(f"{origin.file} line {origin.line} is neither a sample nor rejected")
        self._reject = next(self._rejects, None)
        return reject["reason"], reject["id"]

    def check_end(self) -> None:
        """Raise DataError if a sample or a rejected row was not met."""
        if self._sample is not None or self._reject is not None:
            raise self._other("rows are missing at the end")

    def _other(self, what: str) -> DataError:
        return DataError(
            f"{self._path}: was not made from these raw files ({what}); run the workflow with --forcerun samples"
        )


def _rejected(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    with Path(path).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
