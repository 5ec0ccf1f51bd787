"""Validation of raw data: every row is either kept, or rejected with a reason, and all rows are counted.

Each kind of row (:mod:`gateau.data.samples`, :mod:`gateau.data.chats`) defines what a row must contain. Ids, duplicates
and counts are handled here, in the same way for all kinds.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gateau.data.columns import Columns
from gateau.data.messages import InvalidRow, Message, checked_text
from gateau.data.readers import Origin, Record, Rejection, read_records
from gateau.digests import settings_digest
from gateau.errors import DataError
from gateau.tables import Row

_EXAMPLES = 10
# reasons of rows that can be used, but are not asked for
SPARED = ("duplicate_content", "duplicate_id", "below_min_tokens", "above_max_tokens", "not_drawn")


@dataclass(frozen=True)
class RowKind:
    """A kind of raw rows: how they are read, and the table they are written to.

    Attributes:
        name: name of the table; also the summary's key for the number of kept rows and the name of the output option.
        setting: configuration key that lists the raw files, for error messages.
        schema: schema of the table.
        read: function from a raw row to its messages and the columns that only this kind has. One of these columns is
            ``digest``, the SHA-256 of the row's content as hexadecimal digits. Raises InvalidRow for an unusable row.
        remarks: further counts over the kept rows. Maps a key of the summary to a predicate on rows of the table.
    """

    name: str
    setting: str
    schema: pa.Schema
    read: Callable[[Mapping[str, Any]], tuple[list[Message], Row]]
    remarks: Mapping[str, Callable[[Row], bool]] = field(default_factory=dict)


@dataclass
class Intake:
    """Reads raw data once and counts it. The counts are complete once :meth:`read` is exhausted.

    Attributes:
        kind: the kind of rows to read.
        keep_duplicate_content: keep rows whose content an earlier row already has, instead of rejecting them.
        columns: the user's own names of fields.
        check: raises InvalidRow for a row that is left out, although its form is right.
        drawn: ids of the rows to keep; None keeps all.
        n_rows: rows read.
        n_kept: rows kept.
        n_without_id: kept rows without an id of their own; their id is derived from their content.
        n_duplicate_content: valid rows whose content a kept row already has, whether they are kept or rejected.
        remarks: number of kept rows for each of the kind's remarks.
        rejected: number of rejected rows by reason.
        datasets: number of kept rows by data set.
        first_rejections: the first rejected rows, as examples.
        keys: names of the fields of the rows, until the rows have had all of the user's own names.
    """

    kind: RowKind
    keep_duplicate_content: bool = False
    columns: Columns = field(default_factory=Columns)
    check: Callable[[Row], None] | None = None
    drawn: Collection[str] | None = None
    n_rows: int = 0
    n_kept: int = 0
    n_without_id: int = 0
    n_duplicate_content: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    datasets: Counter[str] = field(default_factory=Counter)
    first_rejections: list[Rejection] = field(default_factory=list)
    keys: dict[str, None] = field(default_factory=dict)

    def read(self, records: Iterable[Record | Rejection]) -> Iterator[Row | Rejection]:
        """Yield, in order, a row of the kind's schema or a rejection for each record.

        If several rows share an id, the first one is kept. If several rows share the same content, the first one is
        kept, or all of them with ``keep_duplicate_content``. Memory grows by two digests of 16 bytes per row and does
        not depend on the length of the texts.
        """
        kept = _KeptRows(self.keep_duplicate_content)
        for record in records:
            self.n_rows += 1
            candidate = record if isinstance(record, Rejection) else self._candidate(record)
            if isinstance(candidate, Rejection):
                outcome: Row | Rejection = candidate
            else:
                self.n_duplicate_content += kept.has_content(candidate)
                outcome = kept.admit(candidate)
                if isinstance(outcome, dict) and self.drawn is not None and outcome["id"] not in self.drawn:
                    outcome = Rejection(candidate.origin, outcome["id"], "not_drawn", "data.limit leaves it out")
                self.n_without_id += candidate.id_derived and not isinstance(outcome, Rejection)
            self._count(outcome)
            yield outcome

    def anew(self, drawn: Collection[str] | None = None) -> Intake:
        """Return an intake of the same rows that has not read any, and keeps only those with the ids ``drawn``."""
        return Intake(self.kind, self.keep_duplicate_content, self.columns, self.check, drawn)

    def read_files(self, paths: Sequence[str]) -> Iterator[Row | Rejection]:
        """Yield what :meth:`read` yields for the records of raw files.

        Raises:
            DataError: the files cannot be read, or none of their rows has a field that the user named.
        """
        yield from self.read(read_records(paths, self.kind.setting, self.columns))
        self.check_columns()

    def check_columns(self) -> None:
        """Raise DataError if a field that the user named was in none of the rows that have been read."""
        if fault := self.columns.misnamed(self.keys):
            raise DataError(f"{self.kind.setting}: {fault}")

    def _candidate(self, record: Record) -> _Candidate | Rejection:
        own_id = None
        try:
            if not isinstance(record.value, Mapping):
                kind = type(record.value).__name__
                raise InvalidRow("not_an_object", f"the row is a JSON {kind}; write an object with messages")
            if any(own not in self.keys for own in self.columns.own.values()):
                self.keys |= dict.fromkeys(record.value)
            own_id = _own_id(record.value.get(self.columns.own.get("id", "id")))
            row = _table_row(record.origin, self.columns.fields_of(record.value), self.kind, own_id)
            if self.check:
                self.check(row)
        except InvalidRow as error:
            return Rejection(record.origin, own_id, error.reason, error.advice)
        return _Candidate(record.origin, row, id_derived=own_id is None)

    def _count(self, outcome: Row | Rejection) -> None:
        if isinstance(outcome, Rejection):
            self.rejected[outcome.reason] += 1
            if len(self.first_rejections) < _EXAMPLES:
                self.first_rejections.append(outcome)
        else:
            self.n_kept += 1
            self.remarks.update(name for name, applies in self.kind.remarks.items() if applies(outcome))
            self.datasets[outcome["dataset"] or "(none)"] += 1

    def summary(self) -> dict[str, Any]:
        """Return all counts as a JSON-ready mapping."""
        return {
            "rows": self.n_rows,
            self.kind.name: self.n_kept,
            "rejected": sum(self.rejected.values()),
            "rejected_by_reason": dict(sorted(self.rejected.items())),
            "duplicate_content": self.n_duplicate_content,
            "ids_derived_from_content": self.n_without_id,
            **{name: self.remarks[name] for name in self.kind.remarks},
            "datasets": dict(sorted(self.datasets.items())),
        }


@dataclass(frozen=True)
class _Candidate:
    """A valid row that has not been checked for duplicates yet."""

    origin: Origin
    row: Row
    id_derived: bool


class _KeptRows:
    """Digests of the ids and contents of the rows kept so far, each with the place where it was first seen."""

    def __init__(self, keep_duplicate_content: bool) -> None:
        self._keep_duplicate_content = keep_duplicate_content
        self._ids: dict[bytes, Origin] = {}
        self._contents: dict[bytes, Origin] = {}
        self._numbers: dict[str, int] = {}  # the last one given, by derived id

    def has_content(self, candidate: _Candidate) -> bool:
        """Tell whether a kept row has the candidate's content."""
        return _content_key(candidate.row) in self._contents

    def admit(self, candidate: _Candidate) -> Row | Rejection:
        """Return the candidate's row and remember it, or return the reason why it is a duplicate.

        A rejected candidate is not remembered.
        """
        origin, row = candidate.origin, candidate.row
        twin = self._contents.get(_content_key(row))
        if twin is not None and not self._keep_duplicate_content:
            advice = (
                f"same content as {twin.file} line {twin.line}, which is kept; data.duplicate_content: keep keeps both"
            )
            return Rejection(origin, row["id"], "duplicate_content", advice)
        if candidate.id_derived:
            row = {**row, "id": self._free_id(row["id"])}
        namesake = self._ids.get(_id_key(row["id"]))
        if namesake is not None:
            advice = f"the id is taken by {namesake.file} line {namesake.line}, which is kept; give each row its own id"
            return Rejection(origin, row["id"], "duplicate_id", advice)
        self._ids[_id_key(row["id"])] = origin
        self._contents.setdefault(_content_key(row), origin)
        return row

    def _free_id(self, derived: str) -> str:
        """Return ``derived`` if no kept row has that id, else ``derived`` with the first free number from 2 on."""
        name, number = derived, self._numbers.get(derived, 1)
        while _id_key(name) in self._ids:
            number += 1
            name = f"{derived}-{number}"
        if number > 1:
            self._numbers[derived] = number
        return name


def _id_key(row_id: str) -> bytes:
    return hashlib.blake2b(row_id.encode(), digest_size=16).digest()


def _content_key(row: Row) -> bytes:
    return bytes.fromhex(row["digest"])[:16]


def whole(value: Any) -> Any:
    """Return a float without a fraction as an integer, and any other value as it is.

    Tables store whole numbers beside nulls as floats.
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _own_id(raw: Any) -> str | None:
    """Return a row's own id, a text or a whole number, as text."""
    raw = whole(raw)
    if isinstance(raw, bool) or not isinstance(raw, str | int) or raw == "":
        return None
    return str(raw).encode("utf-8", "replace").decode()


def _table_row(origin: Origin, raw: Mapping[str, Any], kind: RowKind, own_id: str | None) -> Row:
    messages, columns = kind.read(raw)
    # fields other than role and content are unchecked and may contain anything, even a lone surrogate or a date
    serialised = checked_text(json.dumps(messages, ensure_ascii=False, default=str), "messages")
    dataset = raw.get("dataset")
    return {
        "id": own_id if own_id is not None else f"sha256-{settings_digest(messages, 24)}",
        "file": origin.file,
        "line": origin.line,
        "dataset": checked_text(str(dataset), "dataset") if dataset is not None else None,
        "messages": serialised,
        **columns,
    }
