"""Turn a row's messages into complete turns of user and assistant.

Long rows and short chats are read by the same function. Every change and every reason for leaving a row out has a name,
so that a stage can count them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CHAT_FORMATS = ("longalign", "tokenizer_template", "plain")  # of prompts; see gateau/chatting.py
OVER_LONG = ("drop", "truncate_context", "truncate_right", "error")  # what becomes of a row that is too long
_REASONING = ("reasoning_content", "reasoning", "thinking")  # fields that hold reasoning beside a response
# zero-width space, word joiner and byte-order mark: invisible, but a model learns to write them. The non-joiner and the
# joiner stay, because Persian, many Indic words and some emoji are spelt with them
_ZERO_WIDTH = re.compile("[\u200b\u2060\ufeff]")


class UnusableConversation(Exception):
    """A row that cannot be trained on. ``reason`` is a short name for counting, ``advice`` says what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}: {advice}")
        self.reason, self.advice = reason, advice


@dataclass(frozen=True)
class Turn:
    """One question and its response, which may be empty."""

    user: str
    assistant: str


@dataclass(frozen=True)
class Conversation:
    """Complete turns, the system message if there is one, and the names of the changes made while reading."""

    turns: tuple[Turn, ...]
    system: str | None = None
    changes: tuple[str, ...] = ()


def read_conversation(messages: Sequence[Mapping[str, str]]) -> Conversation:
    """Check the roles of messages and pair them into turns.

    A user message at the end without an answer is dropped (``odd_turn_dropped``). Zero-width spaces, word joiners and
    byte-order marks are removed from responses (``zero_width_removed``). Reasoning in a field of its own is not read
    (``reasoning_field_left_out``).

    Args:
        messages: objects with ``role`` and ``content``; a system message may come first.

    Raises:
        UnusableConversation: roles are out of order, no turn is complete, or no response has any text.
    """
    rest = list(messages)
    system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else None
    changes: list[str] = []
    expected = ("user", "assistant")
    for number, message in enumerate(rest):
        if message["role"] != expected[number % 2]:
            raise UnusableConversation(
                "roles_out_of_order",
                f"message {number + 1} is {message['role']!r} where {expected[number % 2]!r} belongs; user and "
                "assistant must alternate, a system message can only come first",
            )
    if len(rest) % 2:
        rest.pop()
        changes.append("odd_turn_dropped")
    if any(message.get(name) for message in rest[1::2] for name in _REASONING):
        changes.append("reasoning_field_left_out")
    responses = [message["content"] for message in rest[1::2]]
    cleaned = [_ZERO_WIDTH.sub("", response) for response in responses]
    if cleaned != responses:
        changes.append("zero_width_removed")
    if not any(response.strip() for response in cleaned):
        raise UnusableConversation("no_target", "no assistant turn has any text to learn from; drop the row")
    turns = tuple(Turn(message["content"], response) for message, response in zip(rest[::2], cleaned, strict=True))
    return Conversation(turns, system, tuple(changes))
