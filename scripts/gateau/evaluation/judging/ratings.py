"""Ways to read a rating from a judge's answer, each as the benchmark itself reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from gateau.evaluation.answering.reasoning import Reasoning

_REASONING = Reasoning("<think>", "</think>", max_tokens=0)


@dataclass(frozen=True)
class Rating:
    """A kind of rating.

    Attributes:
        lowest: lower end of the scale.
        highest: upper end of the scale.
        find: returns the rating in an answer as text, or None.
    """

    lowest: float
    highest: float
    find: Callable[[str], str | None]

    def read(self, text: str) -> float | None:
        """Return the rating in ``text``, or None if it is missing or outside the scale.

        A judge may send its reasoning in the text. Numbers in there are no ratings, and neither are those of reasoning
        that was cut.
        """
        _, answer = _REASONING.split("", text)
        found = self.find(answer)
        if found is None:
            return None
        rating = float(found)
        return rating if self.lowest <= rating <= self.highest else None


def last_double_brackets(text: str) -> str | None:
    """Return the first number inside the last ``[[…]]`` of ``text``, or None."""
    inside = re.findall(r"\[\[([^\[\]]*)\]\]", text)
    number = re.search(r"-?\d+(?:\.\d+)?", inside[-1]) if inside else None
    return number.group() if number else None


def first_double_brackets(text: str) -> str | None:
    """Return the first ``[[number]]`` of ``text``, or None."""
    found = re.search(r"\[\[(\d+(?:\.\d*)?)\]\]", text)
    return found.group(1) if found else None


def first_brackets(text: str) -> str | None:
    """Return the first ``[[number]]`` of ``text``, else the first ``[number]``, or None."""
    found = re.search(r"\[(\d+(?:\.\d*)?)\]", text)
    return first_double_brackets(text) or (found.group(1) if found else None)
