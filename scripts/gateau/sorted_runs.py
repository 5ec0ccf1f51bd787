"""Sorting of more rows than fit into memory: sorted runs on disk, which are merged."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BATCH = 1024
_RUN_BATCH = 64  # rows of each run that are held while the runs are merged


class SortedRuns:
    """Rows in any order, which come out sorted by id. What exceeds a size waits on disk in sorted runs.

    Use it as a context manager: leaving the ``with`` block removes the runs.
    """

    def __init__(self, schema: pa.Schema, folder: Path, run_bytes: int) -> None:
        """Make an empty collection.

        Args:
            schema: of the rows, with a column ``id`` in which no value repeats.
            folder: where there is space for the runs.
            run_bytes: bytes of rows that are held in memory before they are written as a run.
        """
        self._schema, self._folder, self._run_bytes = schema, folder, run_bytes
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._paths: list[str] = []
        self._ids: list[pa.Array] = []
        self._stack = ExitStack()

    def __enter__(self) -> SortedRuns:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, table: pa.Table) -> None:
        """Take rows of the schema."""
        self._held.append(table)
        self._held_bytes += table.nbytes
        if self._held_bytes > self._run_bytes:
            self._write()

    def _write(self) -> None:
        if not self._paths:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._directory = self._stack.enter_context(tempfile.TemporaryDirectory(dir=self._folder, prefix=".runs."))
        table = self._sorted()
        path = os.path.join(self._directory, f"{len(self._paths)}.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, self._schema) as writer:
            writer.write_table(table, max_chunksize=_RUN_BATCH)
        self._paths.append(path)
        self._ids.append(table["id"].combine_chunks())

    def _sorted(self) -> pa.Table:
        table = pa.concat_tables(self._held or [self._schema.empty_table()]).sort_by("id").combine_chunks()
        self._held, self._held_bytes = [], 0
        return table

    def sorted_by_id(self) -> Iterator[pa.Table]:
        """Yield all rows in tables of 1 024 rows."""
        if not self._paths:
            table = self._sorted()
            yield from (table.slice(start, BATCH) for start in range(0, len(table), BATCH))
            return
        if self._held:
            self._write()
        run_of = np.repeat(np.arange(len(self._ids), dtype=np.int32), [len(places) for places in self._ids])
        order = run_of[pc.sort_indices(pa.chunked_array(self._ids)).to_numpy()]
        self._ids = []
        with ExitStack() as stack:
            runs = [_Run(stack.enter_context(pa.OSFile(path))) for path in self._paths]
            for start in range(0, len(order), BATCH):
                counts = np.bincount(order[start : start + BATCH], minlength=len(runs))
                parts = [run.take(int(count)) for run, count in zip(runs, counts, strict=True) if count]
                yield pa.concat_tables(parts).sort_by("id").combine_chunks()


class _Run:
    """A sorted run on disk, read from its start, one batch in memory at a time."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._reader = pa.ipc.open_file(file)
        self._next = 0
        self._rows: pa.Table = self._reader.schema.empty_table()

    def take(self, count: int) -> pa.Table:
        """Return the next ``count`` rows, of which there must be so many."""
        while len(self._rows) < count:
            batch = pa.Table.from_batches([self._reader.get_batch(self._next)])
            self._rows, self._next = pa.concat_tables([self._rows, batch]), self._next + 1
        taken, self._rows = self._rows.slice(0, count), self._rows.slice(count)
        return taken
