"""Long samples: how a raw row becomes context, instruction and response.

:mod:`gateau.data.messages` describes the accepted formats, :mod:`gateau.data.splitting` where the instruction is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gateau.data.columns import Columns
from gateau.data.intake import Intake, RowKind, whole
from gateau.data.messages import InvalidRow, Message, one_turn, read_earlier, read_fields, read_messages
from gateau.data.splitting import Splitter
from gateau.digests import settings_digest
from gateau.schemas import SAMPLES
from gateau.tables import Row


def _read_sample(splitter: Splitter, raw: Mapping[str, Any]) -> tuple[list[Message], Row]:
    """Return the messages of a raw row and the columns of its sample. Raise InvalidRow if it is not a sample."""
    messages = read_messages(raw)
    own = None
    if messages is None:
        fields = read_fields(raw)
        messages = [*read_earlier(raw), *one_turn(*fields)]
        own = fields[:2] if fields[0] else None
    context, instruction, response = splitter.split_messages(messages, own)
    if not response.strip():
        raise InvalidRow("empty_response", "the response is empty or only white space; drop the row or mend it")
    length = whole(raw.get("length"))
    return messages, {
        "length": length if isinstance(length, int) and not isinstance(length, bool) and abs(length) < 2**63 else None,
        "context": context,
        "instruction": instruction,
        "response": response,
        "digest": settings_digest([context, instruction, response]),
    }


LONG_ROWS = RowKind(
    name="samples",
    setting="data.long",
    schema=SAMPLES,
    read=partial(_read_sample, Splitter()),
    remarks={"without_context": lambda row: not row["context"]},
)


def long_intake(options: Mapping[str, Any], keep_duplicate_content: bool = False) -> Intake:
    """Return an intake of long rows.

    Args:
        options: ``columns``, ``split`` and ``system``, as :meth:`gateau.experiments.Configuration.intake_options` has
            them; those that are left out have their defaults.
        keep_duplicate_content: whether rows that repeat the content of another are kept.
    """
    splitter = Splitter(**{name: options[name] for name in ("split", "system") if name in options})
    kind = replace(LONG_ROWS, read=partial(_read_sample, splitter))
    return Intake(kind, keep_duplicate_content, Columns(options.get("columns", {})))
