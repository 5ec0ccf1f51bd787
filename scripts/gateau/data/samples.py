r"""Long samples: how a raw row is split into context, instruction and response.

The last assistant turn is the response. The user turn before it is split at its **last blank line** (``\n\n``, which
belongs to neither part) into context and instruction. A system message and earlier turns belong to the context.
:mod:`gateau.data.messages` describes the accepted formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateau.data.intake import RowKind
from gateau.data.messages import InvalidRow, Message, one_turn, read_fields, read_messages
from gateau.digests import settings_digest
from gateau.schemas import SAMPLES
from gateau.tables import Row


def _read_sample(raw: Mapping[str, Any]) -> tuple[list[Message], Row]:
    """Return the messages of a raw row and the columns of its sample. Raise InvalidRow if it is not a sample."""
    messages = read_messages(raw)
    if messages is None:
        context, instruction, response = read_fields(raw)
        messages = one_turn(context, instruction, response)
    else:
        context, instruction, response = split_messages(messages)
    for name, text in (("instruction", instruction), ("response", response)):
        if not text.strip():
            raise InvalidRow(f"empty_{name}", f"the {name} is empty or only white space; drop the row or mend it")
    length = raw.get("length")
    return messages, {
        "length": length if isinstance(length, int) and not isinstance(length, bool) and abs(length) < 2**63 else None,
        "context": context,
        "instruction": instruction,
        "response": response,
        "digest": settings_digest([context, instruction, response]),
    }


def split_messages(messages: list[Message]) -> tuple[str, str, str]:
    """Return context, instruction and response of a conversation, split as the module docstring describes.

    Turns after the last assistant turn are ignored. A blank line at the end of the user turn, with no text after it, is
    not a boundary.

    Raises:
        InvalidRow: if there is no assistant turn, or the last one does not follow a user turn.
    """
    last = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    if last < 0:
        raise InvalidRow("no_response", "there is no assistant turn; the last one is the response")
    if last == 0 or messages[last - 1]["role"] != "user":
        raise InvalidRow("bad_role", f"the assistant turn {last + 1} does not follow a user turn")
    earlier = [message["content"] for message in messages[: last - 1]]
    user = messages[last - 1]["content"]
    context, boundary, _ = user.rstrip().rpartition("\n\n")
    instruction = user[len(context) + len(boundary) :]
    return "\n\n".join(filter(None, (*earlier, context))), instruction, messages[last]["content"]


LONG_ROWS = RowKind(
    name="samples",
    setting="data.long",
    schema=SAMPLES,
    row_group_size=16,  # a shard job reads whole row groups; 16 rows of 64k tokens are about 4 MB
    read=_read_sample,
    remarks={"without_context": lambda row: not row["context"]},
)
