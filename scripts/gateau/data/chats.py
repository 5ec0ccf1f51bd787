"""Short chats: how a raw row is read as a chat.

A chat must contain text from the user and text from the assistant. Whether the turns alternate and are complete is
checked later, during tokenization. :mod:`gateau.data.messages` describes the accepted formats; if a row has explicit
fields, the context may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateau.data.columns import Columns
from gateau.data.intake import Intake, RowKind
from gateau.data.messages import InvalidRow, Message, one_turn, read_earlier, read_fields, read_messages
from gateau.digests import settings_digest
from gateau.schemas import CHATS
from gateau.tables import Row


def _read_chat(raw: Mapping[str, Any]) -> tuple[list[Message], Row]:
    """Return the messages of a raw row and its ``digest`` column. Raise InvalidRow if it is not a chat."""
    messages = read_messages(raw)
    if messages is None:
        messages = [*read_earlier(raw), *one_turn(*read_fields(raw))]
    for role, name in (("user", "user"), ("assistant", "response")):
        texts = [message["content"] for message in messages if message["role"] == role]
        if not texts:
            raise InvalidRow(f"no_{name}", f"there is no {role} message; a chat needs a user and an assistant")
        if not any(text.strip() for text in texts):
            raise InvalidRow(f"empty_{name}", f"no {role} message has any text; drop the row or mend it")
    content = [[message["role"], message["content"]] for message in messages]
    return messages, {"digest": settings_digest(content)}


CHAT_ROWS = RowKind(name="chats", setting="data.short", schema=CHATS, read=_read_chat)


def short_intake(options: Mapping[str, Any], keep_duplicate_content: bool = False) -> Intake:
    """Return an intake of short chats. ``options`` may have ``columns``, as in ``data.short_columns``."""
    return Intake(CHAT_ROWS, keep_duplicate_content, Columns(options.get("columns", {}), "data.short_columns"))
