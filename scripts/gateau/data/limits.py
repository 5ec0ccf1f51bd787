"""Which usable rows are left out: those with too few or too many tokens, and those that a seeded draw leaves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateau.data.intake import Intake
from gateau.data.messages import InvalidRow
from gateau.data.readers import Rejection
from gateau.draws import seeded_order
from gateau.errors import DataError
from gateau.tables import Row


def token_check(
    count_tokens: Callable[[list[str]], list[int]], min_tokens: int | None, max_tokens: int | None
) -> Callable[[Row], None]:
    """Return a check of a sample's tokens: those of context, instruction and response, without a prompt around them."""

    def check(row: Row) -> None:
        tokens = sum(count_tokens([row["context"], row["instruction"], row["response"]]))
        if min_tokens is not None and tokens < min_tokens:
            raise InvalidRow("below_min_tokens", f"{tokens} tokens; data.min_tokens is {min_tokens}")
        if max_tokens is not None and tokens > max_tokens:
            raise InvalidRow("above_max_tokens", f"{tokens} tokens; data.max_tokens is {max_tokens}")

    return check


def drawn(intake: Intake, paths: Sequence[str], options: Mapping[str, Any]) -> Intake:
    """Return an intake that keeps ``limit`` of the rows that ``intake`` would keep, or all without a limit.

    The files are read once more for this.

    Raises:
        DataError: there are fewer rows than the limit.
    """
    if options.get("limit") is None:
        return intake
    counted = intake.anew()
    ids = [row["id"] for row in counted.read_files(paths) if not isinstance(row, Rejection)]
    places = drawn_places(ids, options, f"{len(ids)} of the {counted.n_rows} rows of {intake.kind.setting} can be used")
    return intake.anew({ids[place] for place in places})


def drawn_places(ids: Sequence[str], options: Mapping[str, Any], available: str) -> list[int]:
    """Return the places of the ids that ``limit`` and ``seed`` draw.

    The order of the ids does not matter, and a larger draw contains the smaller one.

    Args:
        ids: of all rows that can be used.
        options: ``limit`` and ``seed``.
        available: says how many rows there are, for the error.

    Raises:
        DataError: there are fewer rows than the limit.
    """
    limit = options["limit"]
    if limit > len(ids):
        raise DataError(f"data.limit is {limit}, but only {available}; lower it, or set it to null to use all")
    return seeded_order("limit", ids, options["seed"])[:limit]
