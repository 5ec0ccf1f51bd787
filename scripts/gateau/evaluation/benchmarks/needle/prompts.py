"""Needle in a haystack: one sentence hidden at several depths of contexts of several lengths, and asked for.

The budget is that of the context: haystack and needle together, tokenized as one text without control tokens, are
``length - reserve`` tokens. System line, question and chat format live in the reserve. The count is of the text that is
sent, not of ids that are decoded to it, so it holds for a server behind an API too.

The needle goes behind the last sentence end at or before the nominal depth, found in the text itself. The released
code looks for another tokenizer's full stop among the ids, never finds it, and puts every needle at the start. A
sentence ends with one of ``. ! ?`` before white space, or with one of ``。 ！ ？`` anywhere, closing quotes and
brackets included; so numbers are safe, but an abbreviation before a space ("e.g. this") counts as an end. The start of
the text counts too.

Depths are in percent of the haystack's characters within the context.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gateau.errors import DataError, ModelError, SettingsError
from gateau.formats import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEEDLE = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
QUESTION = "What is the best thing to do in San Francisco?"
KEYS = ("eat a sandwich", "Dolores Park")
SYSTEM = "Answer the question about the document in one short sentence."
PREFIX = "Read the document and answer: "
DEPTHS = (10, 19, 28, 37, 46, 54, 63, 72, 81, 90)

_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|\Z)|[。！？]+[”’」』）]*")
_BETWEEN_TEXTS = "\n\n"
# cuts this many characters around the best one are tried where one character more adds several tokens
_NEARBY = 16


def needle_lengths(shortest: int = 1000, longest: int = 60_000, n: int = 10) -> tuple[int, ...]:
    """``n`` evenly spaced lengths in tokens, both ends included, rounded."""
    if n == 1:
        return (shortest,)
    return tuple(round(shortest + (longest - shortest) * step / (n - 1)) for step in range(n))


@dataclass(frozen=True)
class NeedleSettings:
    """What is hidden, what is asked, and where. Lengths and reserve in tokens, depths in percent.

    ``prefix`` stands between the document, after a blank line, and the question.

    Raises SettingsError for values that give no test: no key in the needle, a question that names every key, a depth
    outside 0 to 100, a value twice.
    """

    lengths: Sequence[int] = needle_lengths()
    depths: Sequence[float] = DEPTHS
    needle: str = NEEDLE
    question: str = QUESTION
    keys: Sequence[str] = KEYS
    system: str = SYSTEM
    prefix: str = PREFIX
    reserve: int = 200

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
        if not contains_keys(self.needle, self.keys):
            raise SettingsError(f"needle: keys {list(self.keys)} must all be in the needle, {self.needle!r}")
        if contains_keys(self.question, self.keys):
            raise SettingsError(
                f"needle: the question holds every key ({list(self.keys)}), so a model that repeats it would score; "
                "choose keys that only the needle holds"
            )


@dataclass(frozen=True)
class NeedlePrompt:
    """One cell of the grid. ``length`` and ``n_tokens`` in tokens, depths in percent of the haystack's characters.

    ``n_tokens``, of the context, is ``length - reserve``, or the next smaller number that can be had where one more
    character is several tokens.
    """

    length: int
    depth: float
    actual_depth: float
    n_tokens: int
    system: str
    context: str
    question: str
    prefix: str = PREFIX

    @property
    def id(self) -> str:
        """Names the cell."""
        return f"needle-{self.length}-{self.depth:g}"

    def messages(self) -> list[dict[str, str]]:
        """What is sent: the system line, unless it is empty, and the user's message."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.context + _asked(self.prefix, self.question)}]


def read_haystack(directory: str | Path) -> list[str]:
    """The texts of all ``*.txt`` of a folder, sorted by name. Raises DataError when there are none or not UTF-8."""
    texts = []
    for path in sorted(Path(directory).glob("*.txt"), key=lambda path: path.name):
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 ({error}); convert the file") from error
    if not texts:
        raise DataError(f"{directory}: no *.txt there; the haystack is made of the text files of this folder")
    return texts


def sentence_ends(text: str) -> list[int]:
    """Character positions right behind each sentence, ascending."""
    return [match.end() for match in _SENTENCE_END.finditer(text)]


def needle_prompts(
    settings: NeedleSettings, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Iterator[NeedlePrompt]:
    """All cells, length by length; ``texts`` make the haystack in their order, repeated to the longest length.

    Raises:
        DataError: the haystack is empty, holds the needle, or has no two sentence ends for two depths of a length.
        ModelError: the tokenizer loses the needle.
        SettingsError: a length has no room for the needle, or the reserve none for system line and question.
    """

    def count(text: str) -> int:
        return len(encode_texts(tokenizer, [text])[0])

    _check_room(settings, count)
    _check_spelling(settings.needle, tokenizer)
    haystack = _haystack(settings, texts, count)
    ids = encode_texts(tokenizer, [haystack])[0]
    ends = sentence_ends(haystack)
    n_needle = count(settings.needle)
    for length in settings.lengths:
        budget = length - settings.reserve
        guess = min(len(tokenizer.decode(ids[: budget - n_needle])), len(haystack))
        depth_at: dict[int, float] = {}
        for depth in settings.depths:

            def place(cut: int, depth: float = depth) -> int:
                before = bisect_right(ends, cut * depth / 100)
                return ends[before - 1] if before else 0

            @cache
            def n_tokens(cut: int, place: Callable[[int], int] = place) -> int:
                return count(_inserted(haystack, cut, place(cut), settings.needle))

            cut = _cut(n_tokens, budget, guess, len(haystack))
            if (position := place(cut)) in depth_at:
                raise DataError(
                    f"needle: at {length} tokens the depths {depth_at[position]:g} % and {depth:g} % give the same "
                    "prompt: no sentence of the haystack ends between them; use texts of shorter sentences, "
                    "longer lengths or fewer depths"
                )
            depth_at[position] = depth
            yield NeedlePrompt(
                length=length,
                depth=depth,
                actual_depth=100 * position / cut if cut else 0.0,
                n_tokens=n_tokens(cut),
                system=settings.system,
                context=_inserted(haystack, cut, position, settings.needle),
                question=settings.question,
                prefix=settings.prefix,
            )


def _asked(prefix: str, question: str) -> str:
    return f"\n\n{prefix}{question}"


def _check_room(settings: NeedleSettings, count: Callable[[str], int]) -> None:
    if (frame := count(settings.system) + count(_asked(settings.prefix, settings.question))) > settings.reserve:
        raise SettingsError(
            f"needle: system line and question are {frame} tokens, more than the reserve of {settings.reserve}; "
            "raise the reserve"
        )
    room = min(settings.lengths) - settings.reserve
    if (n_needle := count(settings.needle)) >= room:
        raise SettingsError(
            f"needle: {n_needle} tokens of needle leave no haystack in the {room} tokens of the shortest length; "
            "raise that length"
        )


def _check_spelling(needle: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Case and white space may go; letters may not."""

    def letters(text: str) -> str:
        return "".join(text.casefold().split())

    decoded = str(tokenizer.decode(encode_texts(tokenizer, [needle])[0]))
    if letters(needle) not in letters(decoded):
        raise ModelError(
            f"{tokenizer.name_or_path}: the needle {needle!r} comes back as {decoded!r} from this tokenizer; "
            "choose a needle that it can spell"
        )


def _haystack(settings: NeedleSettings, texts: Sequence[str], count: Callable[[str], int]) -> str:
    haystack = _BETWEEN_TEXTS.join(texts)
    if not haystack.strip():
        raise DataError("needle: the haystack's texts are empty; use texts with sentences")
    if settings.needle in haystack:
        raise DataError("needle: the haystack itself holds the needle; use other texts or another needle")
    while count(haystack) <= max(settings.lengths):
        haystack += _BETWEEN_TEXTS + haystack
    return haystack


def _inserted(haystack: str, cut: int, position: int, needle: str) -> str:
    before, after = haystack[:position], haystack[position:cut]
    left = " " if before and not before[-1].isspace() else ""
    right = " " if after and not after[0].isspace() else ""
    return before + left + needle + right + after


def _cut(n_tokens: Callable[[int], int], budget: int, guess: int, longest: int) -> int:
    """Characters of haystack that fill the budget: exactly, or to the last character that does not exceed it.

    ``n_tokens`` of a cut grows with it but for a few tokens up and down, and costs a tokenization.
    """
    low = high = guess
    step = _NEARBY
    while low and n_tokens(low) > budget:
        low, step = max(low - step, 0), 2 * step
    while high < longest and n_tokens(high) <= budget:
        high, step = min(high + step, longest), 2 * step
    while n_tokens(low) != budget and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if n_tokens(middle) <= budget else (low, middle)
    nearby = sorted(range(max(low - _NEARBY, 0), min(low + _NEARBY, longest) + 1), key=lambda cut: abs(cut - low))
    return next((cut for cut in nearby if n_tokens(cut) == budget), low)


def contains_keys(text: str, keys: Sequence[str]) -> bool:
    """Whether all key phrases occur in ``text``, whatever the case and the kind of white space.

    Raises SettingsError without any phrase to look for.
    """
    phrases = [_folded(key) for key in keys]
    if not phrases or not all(phrases):
        raise SettingsError("needle: keys must hold one or more phrases, none of them empty")
    folded = _folded(text)
    return all(phrase in folded for phrase in phrases)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
