"""The door for raw data: each row is kept, or rejected with a reason, and counted.

What a row must say is the business of its kind (:mod:`gateau.data.samples`, :mod:`gateau.data.chats`). Ids, duplicates
and counts are the same for all kinds.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gateau.data.messages import InvalidRow, Message, clean
from gateau.data.readers import Origin, Record, Rejection
from gateau.tables import Row

_EXAMPLES = 10


@dataclass(frozen=True)
class RowKind:
    """One kind of raw rows: how they are read, and into which table.

    Attributes:
        name: of the table, the count of kept rows and the option that names the output.
        setting: the configuration key with the raw files.
        read: a raw row's messages and the columns that only this kind has, ``digest`` of the content among them; raises
            InvalidRow.
        remarks: what else is counted over the kept rows, by its name in the summary.
    """

    name: str
    setting: str
    schema: pa.Schema
    row_group_size: int
    read: Callable[[Mapping[str, Any]], tuple[list[Message], Row]]
    remarks: Mapping[str, Callable[[Row], bool]] = field(default_factory=dict)


@dataclass
class Intake:
    """One reading of raw data; its counts are complete when :meth:`read` is exhausted."""

    kind: RowKind
    keep_duplicate_content: bool = False
    n_rows: int = 0
    n_kept: int = 0
    n_without_id: int = 0
    n_duplicate_content: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    datasets: Counter[str] = field(default_factory=Counter)
    first_rejections: list[Rejection] = field(default_factory=list)

    def read(self, records: Iterable[Record | Rejection]) -> Iterator[Row | Rejection]:
        """Turn records into rows of the kind's schema and rejections, in order.

        Of several rows with one id the first is kept; so is the first of several rows with one content, unless
        ``keep_duplicate_content``. Memory grows by two short digests a row, never with its text.
        """
        kept = _Kept(self.keep_duplicate_content)
        for record in records:
            self.n_rows += 1
            candidate = record if isinstance(record, Rejection) else _candidate(record, self.kind)
            if isinstance(candidate, Rejection):
                outcome: Row | Rejection = candidate
            else:
                self.n_duplicate_content += kept.has_content(candidate)
                outcome = kept.admit(candidate)
                self.n_without_id += candidate.id_derived and not isinstance(outcome, Rejection)
            self._count(outcome)
            yield outcome

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
        """A JSON-ready summary."""
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
    """A valid row that has not been held against the others yet."""

    origin: Origin
    row: Row
    id_derived: bool


class _Kept:
    """Ids and contents of the rows kept so far, as digests, with the place each was first seen."""

    def __init__(self, keep_duplicate_content: bool) -> None:
        self._keep_duplicate_content = keep_duplicate_content
        self._ids: dict[bytes, Origin] = {}
        self._contents: dict[bytes, Origin] = {}

    def has_content(self, candidate: _Candidate) -> bool:
        """Whether a kept row has this content."""
        return _content_key(candidate.row) in self._contents

    def admit(self, candidate: _Candidate) -> Row | Rejection:
        """The candidate's row, remembered, or why it is not kept. What is not kept leaves no trace here."""
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
        """The derived id, numbered from the second row of one content on."""
        name, number = derived, 1
        while _id_key(name) in self._ids:
            number += 1
            name = f"{derived}-{number}"
        return name


def _id_key(row_id: str) -> bytes:
    return hashlib.blake2b(row_id.encode(), digest_size=16).digest()


def _content_key(row: Row) -> bytes:
    return bytes.fromhex(row["digest"])[:16]


def _candidate(record: Record, kind: RowKind) -> _Candidate | Rejection:
    own_id = _own_id(record.value)
    try:
        row = _row(record, kind, own_id)
    except InvalidRow as error:
        return Rejection(record.origin, own_id, error.reason, error.advice)
    return _Candidate(record.origin, row, id_derived=own_id is None)


def _own_id(value: Any) -> str | None:
    raw = value.get("id") if isinstance(value, Mapping) else None
    if isinstance(raw, bool) or not isinstance(raw, str | int) or raw == "":
        return None
    return str(raw).encode("utf-8", "replace").decode()


def _row(record: Record, kind: RowKind, own_id: str | None) -> Row:
    raw = record.value
    if not isinstance(raw, Mapping):
        raise InvalidRow("not_an_object", f"the row is a JSON {type(raw).__name__}; write an object with messages")
    messages, columns = kind.read(raw)
    # fields beside role and content may hold anything, half a surrogate too
    serialised = clean(json.dumps(messages, ensure_ascii=False), "messages")
    dataset = raw.get("dataset")
    return {
        "id": own_id if own_id is not None else f"sha256-{_messages_digest(messages)[:24]}",
        "file": record.origin.file,
        "line": record.origin.line,
        "dataset": clean(str(dataset), "dataset") if dataset is not None else None,
        "messages": serialised,
        **columns,
    }


def _messages_digest(messages: list[Message]) -> str:
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()
