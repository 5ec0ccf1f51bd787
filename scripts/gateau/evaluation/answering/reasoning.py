"""The part of an answer in which a model reasons. It is kept, but neither scored nor repeated in later turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reasoning:
    """How a model marks its reasoning, as in ``evaluate.generate.reasoning``.

    Attributes:
        start: text before the reasoning.
        end: text after it.
        max_tokens: number of tokens that an answer may have for its reasoning, beside those of the benchmark.
    """

    start: str
    end: str
    max_tokens: int

    @classmethod
    def from_config(cls, value: str | Mapping[str, Any]) -> Reasoning | None:
        """Return the section, or None for the word ``none``."""
        return None if isinstance(value, str) else cls(**value)

    def split(self, prompt: str, generated: str) -> tuple[str, str]:
        """Return the reasoning with its marks, and the answer after it.

        Reasoning that has not ended leaves an empty answer. A text without marks is an answer.

        Args:
            prompt: end of the prompt; some templates write the start of the reasoning there.
            generated: what the model generated.
        """
        reasoning, mark, answer = generated.rpartition(self.end)
        if mark:
            return reasoning + mark, answer.lstrip()
        begins_reasoning = generated.lstrip().startswith(self.start) or prompt.rstrip().endswith(self.start)
        return (generated, "") if begins_reasoning else ("", generated)
