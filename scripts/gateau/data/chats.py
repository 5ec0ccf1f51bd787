"""A raw row becomes a chat: short messages with something to learn from.

A chat needs text from the user and from the assistant. Whether the turns alternate and are complete is judged, and
counted, where they become tokens. How rows are written is told in :mod:`gateau.data.messages`; of the explicit fields,
the context may be missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gateau.data.intake import RowKind
from gateau.data.messages import InvalidRow, Message, one_turn, read_fields, read_messages
from gateau.schemas import CHATS
from gateau.tables import Row


def _read_chat(raw: Mapping[str, Any]) -> tuple[list[Message], Row]:
    messages = read_messages(raw)
    if messages is None:
        messages = one_turn(*read_fields({"input": "", **raw}))
    for role, name in (("user", "user"), ("assistant", "response")):
        texts = [message["content"] for message in messages if message["role"] == role]
        if not texts:
            raise InvalidRow(f"no_{name}", f"there is no {role} message; a chat needs a user and an assistant")
        if not any(text.strip() for text in texts):
            raise InvalidRow(f"empty_{name}", f"no {role} message has any text; drop the row or mend it")
    content = [[message["role"], message["content"]] for message in messages]
    return messages, {"digest": hashlib.sha256(json.dumps(content).encode()).hexdigest()}


CHAT_ROWS = RowKind(name="chats", setting="data.short", schema=CHATS, row_group_size=1024, read=_read_chat)
