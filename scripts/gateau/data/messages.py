"""The formats of raw rows: messages, conversations, or explicit fields that stand for a single turn.

===================  =====================================================================================
``messages``         ``[{"role", "content"}, …]`` as in LongAlign; kept unchanged for training
``conversations``    ``[{"from", "value"}, …]`` as in ShareGPT, or with role and content; the speakers' names are
                     mapped to roles, and only role and content are kept
explicit fields      ``context|input``, ``instruction|instruct``, ``response|output``
===================  =====================================================================================

This module checks each message by itself. The reader of each kind of row checks which roles must be present, and in
which order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Message = dict[str, Any]

_ROLES = {role: role for role in ("system", "user", "assistant")}
_SPEAKERS = {**_ROLES, "human": "user", **dict.fromkeys(("gpt", "chatgpt", "bard", "bing"), "assistant")}
_FIELDS = (("context", "input"), ("instruction", "instruct"), ("response", "output"))


class InvalidRow(Exception):
    """A row that cannot be used. ``reason`` is a short key for counting, ``advice`` says what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}: {advice}")
        self.reason, self.advice = reason, advice


def read_messages(row: Mapping[str, Any]) -> list[Message] | None:
    """Return the messages of a row, or None if it has neither ``messages`` nor ``conversations``.

    Raises:
        InvalidRow: if there is no message, or a message has an unknown role or a content that is no valid text.
    """
    if "messages" in row:
        entries = _checked_entries(row["messages"], "messages", "{role, content}")
        return [_message(entry, number) for number, entry in enumerate(entries, start=1)]
    if "conversations" in row:
        entries = _checked_entries(row["conversations"], "conversations", "{from, value}")
        return [_message_of_conversation(entry, number) for number, entry in enumerate(entries, start=1)]
    return None


def read_fields(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return context, instruction and response from a row's explicit fields.

    Raises:
        InvalidRow: if a field is missing or is no valid text.
    """
    texts = []
    for aliases in _FIELDS:
        given = [alias for alias in aliases if alias in row]
        if not given:
            wanted = f"messages, conversations or {' or '.join(aliases)}"
            raise InvalidRow("missing_fields", f"the row has no {wanted}; see README, 'Your own data'")
        text = row[given[0]]
        if not isinstance(text, str):
            raise InvalidRow("content_not_text", f"{given[0]} is a {type(text).__name__}; write a string")
        texts.append(checked_text(text, given[0]))
    context, instruction, response = texts
    return context, instruction, response


def one_turn(context: str, instruction: str, response: str) -> list[Message]:
    """Return explicit fields as a user and an assistant message.

    A blank line separates context and instruction in the user message, as :func:`gateau.data.samples.split_messages`
    expects.
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


def _checked_entries(value: Any, name: str, form: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise InvalidRow("empty_messages", f"{name} must be a non-empty list of {form}")
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, Mapping):
            raise InvalidRow("bad_message", f"message {number} is not an object; write {form}")
    return value


def _message(entry: Mapping[str, Any], number: int) -> Message:
    _check_message(entry.get("role"), entry.get("content"), number, _ROLES)
    return dict(entry)


def _message_of_conversation(entry: Mapping[str, Any], number: int) -> Message:
    speaker, content = entry.get("from", entry.get("role")), entry.get("value", entry.get("content"))
    _check_message(speaker, content, number, _SPEAKERS)
    return {"role": _SPEAKERS[speaker], "content": content}


def _check_message(speaker: Any, content: Any, number: int, known: Mapping[str, str]) -> None:
    if not isinstance(speaker, str) or speaker not in known:
        raise InvalidRow("bad_role", f"message {number} has role {speaker!r}; use {', '.join(known)}")
    if not isinstance(content, str):
        kind = type(content).__name__
        raise InvalidRow("content_not_text", f"the content of message {number} is a {kind}; write a string")
    checked_text(content, f"message {number}")
