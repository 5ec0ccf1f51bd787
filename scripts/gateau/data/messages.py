"""What a raw row says: its messages, or the explicit fields that stand for one turn.

===================  =====================================================================================
``messages``         ``[{"role", "content"}, …]`` as LongAlign writes them; kept untouched for training
``conversations``    ``[{"from", "value"}, …]`` as ShareGPT writes them, or with role and content; other names of
                     the speakers become roles, and nothing but role and content is kept
explicit fields      ``context|input``, ``instruction|instruct``, ``response|output``
===================  =====================================================================================

Only what each message is gets checked here. Which roles must be there, and in which order, is for the reader of a kind
of rows to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Message = dict[str, Any]

_ROLES = {role: role for role in ("system", "user", "assistant")}
_SPEAKERS = {**_ROLES, "human": "user", **dict.fromkeys(("gpt", "chatgpt", "bard", "bing"), "assistant")}
_FIELDS = (("context", "input"), ("instruction", "instruct"), ("response", "output"))


class InvalidRow(Exception):
    """A row that cannot be used. ``reason`` is short and countable, ``advice`` says what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}: {advice}")
        self.reason, self.advice = reason, advice


def read_messages(row: Mapping[str, Any]) -> list[Message] | None:
    """The messages of a row; None if it has neither ``messages`` nor ``conversations``.

    Raises:
        InvalidRow: there is no message, or one of them has no known role or no clean text.
    """
    if "messages" in row:
        entries = _entries(row["messages"], "messages", "{role, content}")
        return [_message(entry, number) for number, entry in enumerate(entries, start=1)]
    if "conversations" in row:
        entries = _entries(row["conversations"], "conversations", "{from, value}")
        return [_converted(entry, number) for number, entry in enumerate(entries, start=1)]
    return None


def read_fields(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Context, instruction and response from a row's explicit fields.

    Raises:
        InvalidRow: a field is missing or holds no clean text.
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
        texts.append(clean(text, given[0]))
    context, instruction, response = texts
    return context, instruction, response


def one_turn(context: str, instruction: str, response: str) -> list[Message]:
    """Explicit fields as messages, with the blank line at which a user message is split again."""
    user = "\n\n".join(filter(None, (context, instruction)))
    return [{"role": "user", "content": user}, {"role": "assistant", "content": response}]


def clean(text: str, where: str) -> str:
    """``text`` itself. NUL bytes and lone surrogates are refused: neither survives a tokenizer or a table unharmed."""
    if "\0" in text:
        raise InvalidRow("nul_byte", f"{where} holds a NUL byte; the source is likely binary: clean it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRow("invalid_unicode", f"{where} holds half of a surrogate pair; re-encode the text") from None
    return text


def _entries(value: Any, name: str, form: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise InvalidRow("empty_messages", f"{name} must be a non-empty list of {form}")
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, Mapping):
            raise InvalidRow("bad_message", f"message {number} is not an object; write {form}")
    return value


def _message(entry: Mapping[str, Any], number: int) -> Message:
    _check(entry.get("role"), entry.get("content"), number, _ROLES)
    return dict(entry)


def _converted(entry: Mapping[str, Any], number: int) -> Message:
    speaker, content = entry.get("from", entry.get("role")), entry.get("value", entry.get("content"))
    _check(speaker, content, number, _SPEAKERS)
    return {"role": _SPEAKERS[speaker], "content": content}


def _check(speaker: Any, content: Any, number: int, known: Mapping[str, str]) -> None:
    if not isinstance(speaker, str) or speaker not in known:
        raise InvalidRow("bad_role", f"message {number} has role {speaker!r}; use {', '.join(known)}")
    if not isinstance(content, str):
        kind = type(content).__name__
        raise InvalidRow("content_not_text", f"the content of message {number} is a {kind}; write a string")
    clean(content, f"message {number}")
