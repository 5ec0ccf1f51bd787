r"""How a row is split into context, instruction and response.

The last assistant turn is the response. The user turn before it is split into context and instruction. Earlier turns
belong to the context. By default the boundary is the **last blank line** (``\n\n`` or ``\r\n\r\n``), which belongs to
neither part.

====================  ==============================================
``data.split``        what of the user turn is the instruction
====================  ==============================================
``last_blank_line``   what follows the last blank line
``first_blank_line``  what precedes the first blank line
``last_line``         the last line
``first_line``        the first line
``{regex: …}``        the pattern's group of this name
``none``              all of it, unless the row has a context of its own
====================  ==============================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateau.boundaries import parted_at_first, parted_at_last
from gateau.data.messages import InvalidRow, Message


@dataclass(frozen=True)
class Splitter:
    """How rows are split.

    Attributes:
        split: where the instruction is, as in ``data.split``.
        system: what a system message is, as in ``data.system``: part of the context, part of the frame (it stands
            before the instruction, and is never cut), or dropped.
    """

    split: str | Mapping[str, str] = "last_blank_line"
    system: str = "context"

    def split_messages(self, messages: list[Message], own: tuple[str, str] | None = None) -> tuple[str, str, str]:
        """Return context, instruction and response of a conversation, split as the module docstring describes.

        Turns after the last assistant turn are ignored.

        Args:
            messages: all messages.
            own: context and instruction of the last user turn, if the row has a text of its own for each.

        Raises:
            InvalidRow: if there is no assistant turn, if the last one does not follow a user turn, or if it cannot be
                split or has no instruction.
        """
        last = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
        if last < 0:
            raise InvalidRow("no_response", "there is no assistant turn; the last one is the response")
        if last == 0 or messages[last - 1]["role"] != "user":
            raise InvalidRow("bad_role", f"the assistant turn {last + 1} does not follow a user turn")
        frame = [one["content"] for one in messages[: last - 1] if one["role"] == "system"]
        earlier = [
            one["content"] for one in messages[: last - 1] if self.system == "context" or one["role"] != "system"
        ]
        context, instruction = own or self._split_text(messages[last - 1]["content"])
        if not instruction.strip():
            raise InvalidRow(
                "empty_instruction", "the instruction is empty or only white space; drop the row or mend it"
            )
        context = "\n\n".join(filter(None, (*earlier, context)))
        if self.system == "frame":
            instruction = "\n\n".join(filter(None, (*frame, instruction)))
        return context, instruction, messages[last]["content"]

    def _split_text(self, user: str) -> tuple[str, str]:
        """Return context and instruction of a user turn.

        White space at its end, or at its start if the instruction comes first, is no boundary.

        Raises:
            InvalidRow: if the regular expression does not match.
        """
        if isinstance(self.split, Mapping):
            found = re.search(self.split["regex"], user)
            if not found:
                raise InvalidRow("not_split", "data.split.regex does not match the user turn; correct the pattern")
            context, instruction = (found[name] or "" for name in ("context", "instruction"))
        elif self.split == "none":
            context, instruction = "", user
        else:
            side, _, kind = self.split.partition("_")
            if side == "last":
                context, boundary, _ = parted_at_last(user.rstrip(), kind)
                instruction = user[len(context) + len(boundary) :]
            else:
                start = len(user) - len(user.lstrip())
                instruction, _, context = parted_at_first(user[start:], kind)
                instruction = user[:start] + instruction
        return context, instruction
