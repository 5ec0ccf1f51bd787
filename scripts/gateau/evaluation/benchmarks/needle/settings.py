"""What is hidden in the needle test, what is asked, and where; and which key phrases a right answer holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from gateau.errors import SettingsError
from gateau.evaluation.benchmarks.base import Options
from gateau.evaluation.benchmarks.needle.sentences import TEN

NEEDLE = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
QUESTION = "What is the best thing to do in San Francisco?"
KEYS = ("eat a sandwich", "Dolores Park")
SYSTEM = "Answer the question about the document in one short sentence."
PREFIX = "Read the document and answer: "
SHORTEST = 500  # tokens, the length that auto has beside the default ones
DEPTHS = (10, 19, 28, 37, 46, 54, 63, 72, 81, 90)


def needle_lengths(shortest: int = 1000, longest: int = 60_000, n: int = 10) -> tuple[int, ...]:
    """Return ``n`` evenly spaced lengths in tokens, both ends included, rounded to whole numbers."""
    if n == 1:
        return (shortest,)
    return tuple(round(shortest + (longest - shortest) * step / (n - 1)) for step in range(n))


@dataclass(frozen=True)
class NeedleSettings:
    """What is hidden, what is asked, and where. Key phrases are not among them: they decide scores only.

    Attributes:
        lengths: of the prompts, in tokens.
        depths: of the needle, in percent of the haystack's characters.
        needle: the hidden sentence.
        question: what is asked.
        system: the system line.
        prefix: stands between the document, after a blank line, and the question.
        reserve: tokens of each length that are kept for system line, question and chat format.
        once: whether depths that give the same prompt, because they are in one sentence, are asked once. Otherwise they
            are an error.

    Raises:
        SettingsError: a list is empty or holds a value twice, a depth is not from 0 to 100, or the reserve is negative
            or not less than the shortest length.
    """

    lengths: Sequence[int] = needle_lengths()
    depths: Sequence[float] = DEPTHS
    needle: str = NEEDLE
    question: str = QUESTION
    system: str = SYSTEM
    prefix: str = PREFIX
    reserve: int = 200
    once: bool = False

    @classmethod
    def from_options(cls, options: Options) -> NeedleSettings:
        """Return the settings in ``evaluate.needle``, which may hold other options too. The needle is ``needle``."""
        chosen = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        if "lengths" in chosen:
            chosen |= {"lengths": grid_lengths(options), "once": leaves_out(options)}
        return cls(**chosen)

    def with_needle(self, needle: Mapping[str, Any]) -> NeedleSettings:
        """Return these settings with another sentence and question, an entry of :func:`needles_of`."""
        return replace(self, needle=needle["needle"], question=needle["question"])

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("depths", self.depths)):
            if not values or len(set(values)) < len(values):
                raise SettingsError(f"needle: {name} must hold one or more values, none of them twice; found {values}")
        if not all(0 <= depth <= 100 for depth in self.depths):
            raise SettingsError(f"needle: depths are percents from 0 to 100; found {list(self.depths)}")
        if self.reserve < 0 or min(self.lengths) <= self.reserve:
            raise SettingsError(
                f"needle: reserve ({self.reserve} tokens) must be at least 0 and less than the shortest length "
                f"({min(self.lengths)} tokens)"
            )


def needles_of(options: Options) -> list[Mapping[str, Any]]:
    """Return the needles that ``evaluate.needle.needles`` chooses, each with needle, question and, if known, keys.

    Raises:
        SettingsError: a needle appears twice.
    """
    own: Mapping[str, Any] = {name: options[name] for name in ("needle", "question", "keys") if name in options}
    chosen = options.get("needles", "one")
    if chosen == "one":
        return [own]
    found = [own, *TEN] if chosen == "eleven" else list(chosen)
    sentences = [one["needle"] for one in found]
    if twice := next((one for one in sentences if sentences.count(one) > 1), None):
        raise SettingsError(f"evaluate.needle.needles: {twice!r} is there twice; each needle counts once")
    return found


def leaves_out(options: Options) -> bool:
    """Return whether lengths that do not fit a model's window are left out, instead of being an error."""
    lengths = options.get("lengths")
    return lengths == "auto" or isinstance(lengths, Mapping)


def grid_lengths(options: Options) -> tuple[int, ...]:
    """Return the lengths in tokens of ``evaluate.needle.lengths``: a list, ``{auto: [...]}`` or ``auto``.

    ``auto`` stands for the default lengths and a shorter one, for small windows.
    """
    lengths = options["lengths"]
    if lengths == "auto":
        return (SHORTEST, *needle_lengths())
    return tuple(lengths["auto"] if isinstance(lengths, Mapping) else lengths)


def answer_room(options: Options, window: int) -> int:
    """Return the tokens that a window keeps for an answer."""
    return min(int(options["max_new_tokens"]), max(window // 4, 1))


def check_keys(settings: NeedleSettings, keys: Sequence[str]) -> None:
    """Raise SettingsError unless all key phrases are in the needle and not all of them in the question."""
    if absent := [key for key in keys if not contains_keys(settings.needle, [key])]:
        raise SettingsError(
            f"evaluate.needle.keys: {absent[0]!r} is not in the needle, so no answer could be right; choose phrases of "
            f"the needle, {settings.needle!r}"
        )
    if contains_keys(settings.question, keys):
        raise SettingsError(
            f"evaluate.needle.keys: the question contains every key ({list(keys)}), so an answer that repeats it would "
            "count as right; choose keys that only the needle contains"
        )


def contains_keys(text: str, keys: Sequence[str]) -> bool:
    """Return whether ``text`` contains all key phrases. Case and the kind of white space do not matter.

    Raises:
        SettingsError: there is no phrase, or one is empty.
    """
    phrases = [_folded(key) for key in keys]
    if not phrases or not all(phrases):
        raise SettingsError("needle: keys must hold one or more phrases, none of them empty")
    folded = _folded(text)
    return all(phrase in folded for phrase in phrases)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
