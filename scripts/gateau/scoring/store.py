"""The progress store: the results of all finished samples of a pass, keyed by the content of the sample.

A store is a folder ``<progress_dir>/<pass>/<settings digest>``. The digest covers everything that changes the numbers:
model, dtype, attention backend, prompt, lengths, and the code that computes. The folder contains small Parquet files
(parts), keyed by the sample's content digest. Each part is written atomically and never changed. Therefore

- a killed job loses at most the samples since its last flush;
- any number of jobs may write at the same time;
- a rerun with another number of shards finds all finished samples.

Stores of other settings or of an earlier version have other digests, so they are not read; the log says so. Neither is
a part with other columns.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gateau.digests import settings_digest
from gateau.errors import ScoreError
from gateau.files import atomic_path, write_text

logger = logging.getLogger(__name__)

_FLUSH_BYTES = 64 * 2**20
_OPEN_GROUPS = 8  # row groups in memory; each was written at once, so it has 64 MB at most
_MAX_SCANS = 5
_PARQUET_OPTIONS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


class ProgressStore:
    """Results of one pass under one set of settings.

    Use it as a context manager: leaving the ``with`` block writes all pending results.

    Attributes:
        directory: folder of this store.
    """

    def __init__(
        self,
        root: str | Path,
        pass_name: str,
        settings: Mapping[str, Any],
        schema: pa.Schema,
        flush_seconds: float = 20.0,
    ) -> None:
        """Open the store, creating its folder if needed.

        Args:
            root: folder of all progress stores.
            pass_name: name of the pass.
            settings: everything that changes the numbers of the pass, JSON-ready.
            schema: schema of a result. The store adds a column ``key``, the sample's content digest.
            flush_seconds: seconds between writes; results are collected in between.
        """
        self._flush_seconds = flush_seconds
        self.directory = Path(root) / pass_name / settings_digest(dict(settings), 32)
        self._schema = schema.insert(0, pa.field("key", pa.string()))
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0
        self._flushed_at = time.monotonic()
        self._own_parts: list[Path] = []
        self._starts: dict[Path, list[int]] = {}  # the number of the first row of each row group
        self._open: OrderedDict[tuple[Path, int], pa.Table] = OrderedDict()
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[tuple[Path, list[str]]] | None = None
        self.directory.mkdir(parents=True, exist_ok=True)
        description = self.directory / "settings.json"
        if not description.exists():
            _report_others(self.directory, settings)
            write_text(description, json.dumps(dict(settings), indent=2, sort_keys=True) + "\n")
        self._where = self._scan()

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __enter__(self) -> ProgressStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write all pending results; after a regular exit, also merge the parts of this job."""
        if kind is None:
            self.close()
        else:
            self.flush()

    def _scan(self) -> dict[str, tuple[Path, int]]:
        """Return the part and the row of each stored key.

        A damaged part is renamed to ``*.damaged``, so that its samples are computed again. A part with other columns
        stays as it is and is not read.
        """
        where: dict[str, tuple[Path, int]] = {}
        for part in sorted(self.directory.glob("part-*.parquet")):
            try:
                with pq.ParquetFile(part) as file:
                    if not _same_columns(file.schema_arrow, self._schema):
                        logger.warning("%s has other columns, of another version; its samples are computed again", part)
                        continue
                    keys = file.read(columns=["key"])["key"].to_pylist()
            except FileNotFoundError:  # another job merged it between listing and reading
                continue
            except (pa.ArrowInvalid, OSError) as error:
                if not _is_damage(error):
                    raise
                logger.warning("%s is damaged (%s); renamed to *.damaged, its samples are computed again", part, error)
                _set_aside(part)
                continue
            where.update({key: (part, number) for number, key in enumerate(keys)})
        return where

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Add one result.

        Once ``flush_seconds`` have passed since the last write, or 64 MB are pending, a thread writes the pending
        results as one part. If that fails, the error is raised when the next part is due, at the latest by closing.
        """
        self._pending.append({"key": key, **result})
        self._pending_bytes += sum(len(value) * 4 if isinstance(value, Sequence) else 8 for value in result.values())
        if time.monotonic() - self._flushed_at > self._flush_seconds or self._pending_bytes > _FLUSH_BYTES:
            self._begin_write()

    def flush(self) -> None:
        """Write all pending results as one part."""
        self._begin_write()
        self._finish_write()

    def _begin_write(self) -> None:
        """Let the thread write all pending results, once it has written those before."""
        self._finish_write()
        if self._pending:
            self._writing = self._thread.submit(self._write_part, self._pending)
        self._pending, self._pending_bytes, self._flushed_at = [], 0, time.monotonic()

    def _finish_write(self) -> None:
        """Wait for the thread."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._register(*writing.result())

    def close(self) -> None:
        """Flush, then merge the parts of this job into one, so that a store contains about one file per job."""
        self.flush()
        if len(self._own_parts) < 2:
            return
        parts, self._own_parts = self._own_parts, []
        target = self.directory / f"part-{uuid.uuid4().hex}.parquet"
        keys: list[str] = []
        with atomic_path(target) as temporary, pq.ParquetWriter(temporary, self._schema, **_PARQUET_OPTIONS) as writer:
            for part in parts:
                table = pq.read_table(part, schema=self._schema)
                writer.write_table(table)
                keys.extend(table.column("key").to_pylist())
        self._register(target, keys)
        for part in parts:  # delete parts only after the merged one exists: a kill may leave duplicates, but no gaps
            part.unlink()

    def get(self, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yield the result of each key, in order. Row groups of parts are read as needed.

        Raises:
            KeyError: if a key is not stored.
            ScoreError: if a part is damaged. It is renamed to ``*.damaged``, so that a rerun computes its samples
                again.
        """
        for key in keys:
            table, number = self._find(key)
            row = table.slice(number, 1).to_pylist()[0]
            row.pop("key")
            yield row

    def _find(self, key: str) -> tuple[pa.Table, int]:
        """Return the table and the row of a key.

        The folder is scanned again if the key's part has disappeared because another job has merged it.
        """
        for _ in range(_MAX_SCANS):
            if key in self._where:
                part, number = self._where[key]
                try:
                    return self._row(part, number)
                except FileNotFoundError:
                    pass
            self._where = self._scan()
        raise KeyError(key)

    def _row(self, path: Path, number: int) -> tuple[pa.Table, int]:
        """Return the row group that holds a row of a part, and the row's number in it."""
        try:
            if path not in self._starts:
                groups = pq.read_metadata(path)
                sizes = (groups.row_group(group).num_rows for group in range(groups.num_row_groups))
                self._starts[path] = list(accumulate(sizes, initial=0))
            group = bisect_right(self._starts[path], number) - 1
            return self._group(path, group), number - self._starts[path][group]
        except FileNotFoundError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            if not _is_damage(error):
                raise
            _set_aside(path)
            raise ScoreError(
                f"{path} is damaged ({error}); it was renamed to *.damaged: run the same command again, which "
                "computes only its samples again"
            ) from error

    def _group(self, path: Path, group: int) -> pa.Table:
        place = path, group
        if place not in self._open:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                self._open[place] = file.read_row_group(group)
            while len(self._open) > _OPEN_GROUPS:
                self._open.popitem(last=False)
        self._open.move_to_end(place)
        return self._open[place]

    def _write_part(self, results: Sequence[Mapping[str, Any]]) -> tuple[Path, list[str]]:
        """Write one part. Return its path and its keys."""
        table = pa.Table.from_pylist(results, schema=self._schema)
        path = self.directory / f"part-{uuid.uuid4().hex}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, **_PARQUET_OPTIONS)
        return path, table["key"].to_pylist()

    def _register(self, part: Path, keys: Sequence[str]) -> None:
        self._own_parts.append(part)
        self._where.update({key: (part, number) for number, key in enumerate(keys)})


def _is_damage(error: pa.ArrowInvalid | OSError) -> bool:
    """Tell whether the content of a part is damaged. If the file system fails instead, the error has an errno."""
    return isinstance(error, pa.ArrowInvalid) or error.errno is None


def _same_columns(found: pa.Schema, expected: pa.Schema) -> bool:
    return bool(found.names == expected.names and found.types == expected.types)


def _report_others(directory: Path, settings: Mapping[str, Any]) -> None:
    """Log in which settings the stores beside a new one differ, so that nobody wonders why nothing is found."""
    ours = json.loads(json.dumps(dict(settings)))
    for path in sorted(directory.parent.glob("*/settings.json")):
        with suppress(OSError, ValueError):
            theirs = json.loads(path.read_text(encoding="utf-8"))
            differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            logger.info("%s is not used: it differs in %s", path.parent, ", ".join(differing))


def _set_aside(part: Path) -> None:
    with suppress(FileNotFoundError):  # another job has already renamed it
        part.replace(part.with_suffix(".damaged"))
