"""Divide the texts of a sample as the passes did: the context into segments, and the response into tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Divided:
    """A text in pieces. ``exact`` is False if the pieces were cut at even distances, because no tokenizer is there."""

    pieces: list[str]
    exact: bool


class Divider:
    """Divides texts with the tokenizer of θ_L, or at even distances if there is none.

    Attributes:
        note: why there is no tokenizer, or an empty text.
    """

    def __init__(self, model: Mapping[str, Any] | None) -> None:
        """Load the tokenizer of a model's section of the configuration; None if it is not known."""
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self.note = ""
        if model is None:
            self.note = "no manifest names the model of the scores"
            return
        from gateau.model_files import ModelSpec
        from gateau.models import load_tokenizer

        try:
            spec = ModelSpec.from_config(model)
            if spec.is_local and not Path(spec.path).is_dir():
                self.note = f"{spec.path} is not there; run the command from the folder in which the workflow ran"
                return
            self._tokenizer = load_tokenizer(spec)
        except (UserError, OSError, ValueError) as error:
            self.note = f"the tokenizer cannot be loaded: {error}"
        if self._tokenizer is not None and not self._tokenizer.is_fast:
            self._tokenizer, self.note = None, "the tokenizer does not say where in the text its tokens are"

    def segments(self, text: str, truncated: int, kept: int, length: int) -> Divided:
        """Return the texts of the segments of a context.

        Args:
            text: the whole context.
            truncated: tokens that were cut from its start.
            kept: tokens that were scored.
            length: of a segment, in tokens.
        """
        starts = range(truncated, truncated + kept, length)
        places = self._places(text, truncated + kept)
        if places is None:
            return _even(text, [start / max(truncated + kept, 1) for start in starts])
        return Divided(_cut(text, [places[start] for start in starts]), True)

    def tokens(self, text: str, count: int) -> Divided:
        """Return the text of each of the ``count`` tokens of a response. A token inside a character is empty."""
        places = self._places(text, count)
        if places is None:
            return _even(text, [number / max(count, 1) for number in range(count)])
        return Divided(_cut(text, [0, *places[1:]]) if places else [], True)

    def _places(self, text: str, count: int) -> list[int] | None:
        """Return where in the text each token starts; None without a tokenizer, or if it makes another number."""
        if self._tokenizer is None:
            return None
        found = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        ).offset_mapping
        return [start for start, _ in found] if len(found) == count else None


def _even(text: str, shares: Sequence[float]) -> Divided:
    return Divided(_cut(text, [round(share * len(text)) for share in shares]), False)


def _cut(text: str, starts: Sequence[int]) -> list[str]:
    ends = [*starts[1:], len(text)]
    return [text[start : max(start, end)] for start, end in zip(starts, ends, strict=True)] if starts else []
