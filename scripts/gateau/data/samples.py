"""A raw row becomes a sample: context, instruction and response, validated, with a stable id.

Rows come as LongAlign writes them, ``{"messages": [{"role", "content"}, …]}``, or with explicit fields
``context|input``, ``instruction|instruct``, ``response|output``. The last assistant turn is the response; the user
turn before it is split at its **last blank line** (``\\n\\n``, which belongs to neither side) into context and
instruction. Earlier turns and a system message are context too. The messages themselves are kept untouched for
training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateau.data.readers import Origin, Record, Rejection

_EXAMPLES = 10
_ROLES = ("system", "user", "assistant")
_FIELDS = (("context", "input"), ("instruction", "instruct"), ("response", "output"))


class _Invalid(Exception):
    """A row that cannot become a sample. Arguments: reason, advice."""


@dataclass
class Intake:
    """Counts over one reading of the raw data; complete when :func:`read_samples` is exhausted."""

    n_rows: int = 0
    n_samples: int = 0
    n_without_id: int = 0
    n_without_context: int = 0
    n_duplicate_content: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    datasets: Counter[str] = field(default_factory=Counter)
    first_rejections: list[Rejection] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        return {
            "rows": self.n_rows,
            "samples": self.n_samples,
            "rejected": sum(self.rejected.values()),
            "rejected_by_reason": dict(sorted(self.rejected.items())),
            "duplicate_content": self.n_duplicate_content,
            "ids_derived_from_content": self.n_without_id,
            "without_context": self.n_without_context,
            "datasets": dict(sorted(self.datasets.items())),
        }


def read_samples(
    records: Iterable[Record | Rejection], intake: Intake, *, keep_duplicate_content: bool = False
) -> Iterator[dict[str, Any] | Rejection]:
    """Turn records into rows of :data:`gateau.schemas.SAMPLES` and rejections, in order, counting them in ``intake``.

    Of several rows with one id the first is kept; so is the first of several rows with one content, unless
    ``keep_duplicate_content``. Memory grows by two short digests a row, never with its text.
    """
    kept = _Kept(keep_duplicate_content)
    for record in records:
        intake.n_rows += 1
        outcome = record if isinstance(record, Rejection) else _sample_or_rejection(record)
        if not isinstance(outcome, Rejection):
            intake.n_duplicate_content += kept.has_content(outcome)
            outcome = kept.admit(outcome)
        if isinstance(outcome, Rejection):
            intake.rejected[outcome.reason] += 1
            if len(intake.first_rejections) < _EXAMPLES:
                intake.first_rejections.append(outcome)
        else:
            intake.n_samples += 1
            intake.n_without_id += bool(outcome.pop("_id_derived"))
            intake.n_without_context += not outcome["context"]
            intake.datasets[outcome["dataset"] or "(none)"] += 1
        yield outcome


class _Kept:
    """Ids and contents of the rows kept so far, as digests, with the place each was first seen."""

    def __init__(self, keep_duplicate_content: bool) -> None:
        self._keep_duplicate_content = keep_duplicate_content
        self._ids: dict[bytes, Origin] = {}
        self._contents: dict[bytes, Origin] = {}

    def has_content(self, sample: dict[str, Any]) -> bool:
        """Whether a kept row has this content."""
        return _content_key(sample) in self._contents

    def admit(self, sample: dict[str, Any]) -> dict[str, Any] | Rejection:
        """``sample``, remembered, or why it is not kept. What is not kept leaves no trace here."""
        origin = Origin(sample["file"], sample["line"])
        twin = self._contents.get(_content_key(sample))
        if twin is not None and not self._keep_duplicate_content:
            advice = (
                f"same content as {twin.file} line {twin.line}, which is kept; data.duplicate_content: keep keeps both"
            )
            return Rejection(origin, sample["id"], "duplicate_content", advice)
        if sample["_id_derived"]:
            sample = {**sample, "id": self._free_id(sample["id"])}
        namesake = self._ids.get(_id_key(sample["id"]))
        if namesake is not None:
            advice = f"the id is taken by {namesake.file} line {namesake.line}, which is kept; give each row its own id"
            return Rejection(origin, sample["id"], "duplicate_id", advice)
        self._ids[_id_key(sample["id"])] = origin
        self._contents.setdefault(_content_key(sample), origin)
        return sample

    def _free_id(self, derived: str) -> str:
        """The derived id, numbered from the second row of one content on."""
        name, number = derived, 1
        while _id_key(name) in self._ids:
            number += 1
            name = f"{derived}-{number}"
        return name


def _id_key(sample_id: str) -> bytes:
    return hashlib.blake2b(sample_id.encode(), digest_size=16).digest()


def _content_key(sample: dict[str, Any]) -> bytes:
    return bytes.fromhex(sample["digest"])[:16]


def _sample_or_rejection(record: Record) -> dict[str, Any] | Rejection:
    row_id = _raw_id(record.value)
    try:
        return _sample(record)
    except _Invalid as error:
        reason, advice = error.args
        return Rejection(record.origin, row_id, reason, advice)


def _raw_id(value: Any) -> str | None:
    raw = value.get("id") if isinstance(value, Mapping) else None
    if isinstance(raw, bool) or not isinstance(raw, str | int) or raw == "":
        return None
    return str(raw).encode("utf-8", "replace").decode()


def _sample(record: Record) -> dict[str, Any]:
    row = record.value
    if not isinstance(row, Mapping):
        raise _Invalid("not_an_object", f"the row is a JSON {type(row).__name__}; write an object with messages")
    if "messages" in row:
        messages = _messages(row)
        context, instruction, response = split_messages(messages)
    else:
        context, instruction, response = _fields(row)
        user = "\n\n".join(filter(None, (context, instruction)))
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": response}]
    for name, text in (("instruction", instruction), ("response", response)):
        if not text.strip():
            raise _Invalid(f"empty_{name}", f"the {name} is empty or only white space; drop the row or mend it")
    digest = hashlib.sha256(json.dumps([context, instruction, response]).encode()).hexdigest()
    serialised = _clean(json.dumps(messages, ensure_ascii=False), "messages")
    row_id = _raw_id(row)
    dataset, length = row.get("dataset"), row.get("length")
    return {
        "id": row_id if row_id is not None else f"sha256-{_messages_digest(messages)[:24]}",
        "_id_derived": row_id is None,
        "file": record.origin.file,
        "line": record.origin.line,
        "dataset": _clean(str(dataset), "dataset") if dataset is not None else None,
        "length": length if isinstance(length, int) and not isinstance(length, bool) and abs(length) < 2**63 else None,
        "context": context,
        "instruction": instruction,
        "response": response,
        "messages": serialised,
        "digest": digest,
    }


def _messages_digest(messages: list[dict[str, str]]) -> str:
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()


def _messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise _Invalid("empty_messages", "messages must be a non-empty list of {role, content}")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise _Invalid("bad_message", f"message {number} is not an object with role and content")
        if message.get("role") not in _ROLES:
            raise _Invalid("bad_role", f"message {number} has role {message.get('role')!r}; use {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str):
            kind = type(message.get("content")).__name__
            raise _Invalid("content_not_text", f"the content of message {number} is a {kind}; write a string")
        _clean(message["content"], f"message {number}")
    return [dict(message) for message in messages]


def _fields(row: Mapping[str, Any]) -> tuple[str, str, str]:
    texts = []
    for aliases in _FIELDS:
        given = [alias for alias in aliases if alias in row]
        if not given:
            raise _Invalid("missing_fields", f"no messages and no {' or '.join(aliases)}; see README, 'Your own data'")
        text = row[given[0]]
        if not isinstance(text, str):
            raise _Invalid("content_not_text", f"{given[0]} is a {type(text).__name__}; write a string")
        texts.append(_clean(text, given[0]))
    context, instruction, response = texts
    return context, instruction, response


def _clean(text: str, where: str) -> str:
    """``text`` itself. NUL bytes and lone surrogates are refused: neither survives a tokenizer or a table unharmed."""
    if "\0" in text:
        raise _Invalid("nul_byte", f"{where} holds a NUL byte; the source is likely binary: clean it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _Invalid("invalid_unicode", f"{where} holds half of a surrogate pair; re-encode the text") from None
    return text


def split_messages(messages: list[dict[str, str]]) -> tuple[str, str, str]:
    """Context, instruction and response of a conversation, as the module docstring says.

    Turns after the last assistant turn are ignored. A blank line counts as the boundary only where text follows it.
    """
    last = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    if last < 0:
        raise _Invalid("no_response", "there is no assistant turn; the last one is the response")
    if last == 0 or messages[last - 1]["role"] != "user":
        raise _Invalid("bad_role", f"the assistant turn {last + 1} does not follow a user turn")
    earlier = [message["content"] for message in messages[: last - 1]]
    user = messages[last - 1]["content"]
    context, boundary, _ = user.rstrip().rpartition("\n\n")
    instruction = user[len(context) + len(boundary) :]
    return "\n\n".join(filter(None, (*earlier, context))), instruction, messages[last]["content"]
