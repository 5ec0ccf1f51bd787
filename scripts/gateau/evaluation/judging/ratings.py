"""How each judged benchmark's rating stands in a judge's answer, as the benchmark itself reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rating:
    """How a benchmark's rating stands in an answer, and the scale it must lie on."""

    lowest: float
    highest: float
    find: Callable[[str], str | None]

    def read(self, text: str) -> float | None:
        """The rating in ``text``, None where it is missing or out of scale."""
        found = self.find(text)
        if found is None:
            return None
        rating = float(found)
        return rating if self.lowest <= rating <= self.highest else None


def _last_double_brackets(text: str) -> str | None:
    inside = re.findall(r"\[\[([^\[\]]*)\]\]", text)
    number = re.search(r"-?\d+(?:\.\d+)?", inside[-1]) if inside else None
    return number.group() if number else None


def _first_double_brackets(text: str) -> str | None:
    found = re.search(r"\[\[(\d+(?:\.\d*)?)\]\]", text)
    return found.group(1) if found else None


def _first_brackets(text: str) -> str | None:
    found = re.search(r"\[(\d+(?:\.\d*)?)\]", text)
    return _first_double_brackets(text) or (found.group(1) if found else None)


RATINGS = {
    "longbench_qa": Rating(1, 3, _last_double_brackets),
    "longbench_summary": Rating(1, 5, _last_double_brackets),
    "longbench_chat": Rating(1, 10, _last_double_brackets),
    "needle": Rating(1, 10, _first_double_brackets),
    "mt_bench": Rating(1, 10, _first_brackets),
}
