"""The formats of raw rows: messages, conversations, or texts in fields of their own that stand for a single turn.

===================  =====================================================================================
``messages``         ``[{"role", "content"}, …]`` as in LongAlign; kept unchanged for training, except that other
                     names of roles are replaced and texts in parts are joined
``conversations``    ``[{"from", "value"}, …]`` as in ShareGPT; only role and content are kept
fields               a response, an instruction and often a context, under the names of :data:`TEXT_FIELDS`, and
                     earlier turns in ``history``
===================  =====================================================================================

A system message may also be a text beside them, under the names of :data:`SYSTEM_FIELDS`.

A list of messages may also be JSON text, or an object of lists as the library datasets stores it. An entry may have
role and content or from and value in both formats.

This module checks each message by itself. The reader of each kind of row checks which roles must be present, and in
which order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

Message = dict[str, Any]

ROLES = {
    **{role: role for role in ("system", "user", "assistant")},
    "developer": "system",
    **dict.fromkeys(("human", "tool"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bard", "bing"), "assistant"),
}
TEXT_FIELDS = {
    "context": ("context", "input"),
    "instruction": ("instruction", "instruct", "question", "query", "prompt"),
    "response": ("response", "output", "answer", "completion"),
}
_CALLS = ("tool_calls", "function_call")  # fields of a message that hold calls beside its text
SYSTEM_FIELDS = ("system", "system_prompt")
_FORMS = {"messages": "{role, content}", "conversations": "{from, value}"}


class InvalidRow(Exception):
    """A row that cannot be used. ``reason`` is a short key for counting, ``advice`` says what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}: {advice}")
        self.reason, self.advice = reason, advice


def read_messages(row: Mapping[str, Any]) -> list[Message] | None:
    """Return the messages of a row, or None if it has no list of messages.

    ``prompt`` and ``completion`` may be lists of messages, too; they are then read one after the other. A system
    message that the row has as a text comes first, unless the messages begin with one.

    Raises:
        InvalidRow: if there is no message, or a message has an unknown role or a content that is no valid text.
    """
    if "messages" in row:
        entries = _checked_entries(row["messages"], "messages")
    elif "conversations" in row:
        entries = _checked_entries(row["conversations"], "conversations")
        entries = [{name: one[name] for name in ("role", "content", "from", "value") if name in one} for one in entries]
    elif isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):
        entries = _checked_entries([*row["prompt"], *row["completion"]], "messages")
    else:
        return None
    messages = [_message(entry, number) for number, entry in enumerate(entries, start=1)]
    return messages if messages[0]["role"] == "system" else [*_system_message(row), *messages]


def _system_message(row: Mapping[str, Any]) -> list[Message]:
    """Return the system message that a row has as a text, if it has any."""
    name = _first_of(row, SYSTEM_FIELDS)
    text = _text(row[name], name) if name else ""
    return [{"role": "system", "content": text}] if text.strip() else []


def read_earlier(row: Mapping[str, Any]) -> list[Message]:
    """Return what precedes the turn of :func:`read_fields`: a system message, and the turns of ``history``.

    Raises:
        InvalidRow: if ``history`` is not a list of pairs of texts, nor such a list as JSON text.
    """
    history = row.get("history") or []
    if isinstance(history, str):
        with suppress(ValueError, RecursionError):
            history = json.loads(history)
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise InvalidRow("bad_history", "history must be a list of [question, answer]; correct it or drop the row")
    messages = _system_message(row)
    for number, pair in enumerate(history, start=1):
        messages += one_turn("", *(_text(text, f"turn {number} of history") for text in pair))
    return messages


def read_fields(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return context, instruction and response of a row that has them as texts of their own.

    If several names of a field are in the row, the first with any text counts. The context is empty if the row has
    none. Without an instruction, ``input`` is the instruction.

    Raises:
        InvalidRow: if instruction or response are missing or a field is no valid text.
    """
    instruction = _first_of(row, (*TEXT_FIELDS["instruction"], "input"))
    response, context = (_first_of(row, TEXT_FIELDS[name]) for name in ("response", "context"))
    if instruction is None or response is None:
        wanted = "instruction" if instruction is None else "response"
        raise InvalidRow(
            "missing_fields",
            f"the row has no messages, conversations or {' or '.join(TEXT_FIELDS[wanted])}; docs/data.md lists the "
            "formats, and data.columns takes other names",
        )
    names = ("" if context == instruction else context, instruction, response)
    texts = [_text(row[name], name) if name else "" for name in names]
    return texts[0], texts[1], texts[2]


def _first_of(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first of the names that has a value with any text, or else the first that the row has."""
    present = [name for name in names if name in row]
    return next((name for name in present if row[name] and not str(row[name]).isspace()), next(iter(present), None))


def one_turn(context: str, instruction: str, response: str) -> list[Message]:
    """Return explicit fields as a user and an assistant message.

    A blank line separates context and instruction in the user message, as :func:`gateau.data.splitting.split_messages`
    expects by default.
    """
    user = "\n\n".join(filter(None, (context, instruction)))
    return [{"role": "user", "content": user}, {"role": "assistant", "content": response}]


def checked_text(text: str, where: str) -> str:
    """Return ``text`` unchanged if tokenizers and tables can represent it; ``where`` names it in the error.

    Raises:
        InvalidRow: if the text contains a NUL byte or a lone surrogate.
    """
    if "\0" in text:
        raise InvalidRow("nul_byte", f"{where} holds a NUL byte; the source is likely binary: clean it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRow("invalid_unicode", f"{where} holds half of a surrogate pair; re-encode the text") from None
    return text


def _checked_entries(value: Any, name: str) -> list[Mapping[str, Any]]:
    form = _FORMS[name]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InvalidRow("empty_messages", f"{name} is a text, but not a JSON list of {form}") from None
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        if len({len(column) for column in value.values()}) > 1:
            raise InvalidRow("bad_message", f"the lists of {name} differ in length; write one list of {form}")
        value = [dict(zip(value, entry, strict=True)) for entry in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not value:
        raise InvalidRow("empty_messages", f"{name} must be a non-empty list of {form}")
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, Mapping):
            raise InvalidRow("bad_message", f"message {number} is not an object; write {form}")
        if call := next((key for key in _CALLS if entry.get(key)), None):
            raise InvalidRow(
                "tool_calls",
                f"message {number} has {call}, which training would not learn; write the call into the message's text, "
                "or drop the row",
            )
    return value


def _message(entry: Mapping[str, Any], number: int) -> Message:
    """Return an entry as a message whose role and content are checked; further keys are kept."""
    speaker, content = entry.get("role", entry.get("from")), entry.get("content", entry.get("value"))
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise InvalidRow(
            "bad_role", f"message {number} has role {speaker!r}; use {', '.join(ROLES)}, or drop such messages"
        )
    text = _text(content, f"the content of message {number}")
    message = dict(entry) if "role" in entry and "content" in entry else {}
    return {**message, "role": ROLES[speaker], "content": text}


def _text(value: Any, where: str) -> str:
    """Return a text, or the parts of a text ({"type": "text", "text"}) joined by blank lines."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        for number, part in enumerate(value, start=1):
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type")
                raise InvalidRow("content_not_text", f"part {number} of {where} is of type {kind!r}; only text is read")
        value = "\n\n".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise InvalidRow("content_not_text", f"{where} is a {type(value).__name__}; write a string")
    return checked_text(value, where)
