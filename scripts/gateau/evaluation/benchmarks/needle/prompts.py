"""Prompts of the needle test: one sentence hidden at several depths of contexts of several lengths, and asked for.

The context is the haystack with the needle. Tokenized as one text without control tokens, it has ``length - reserve``
tokens. System line, question and chat format use the reserve. The text that is sent is counted, not ids that are
decoded to it, so the count is also right for a server.

The needle follows the last sentence end at or before the nominal depth, which is found in the text itself. The released
code looks for the full stop of another tokenizer among the ids, never finds it, and puts every needle at the start. A
sentence ends with one of ``. ! ?`` before white space, or with one of ``。 ！ ？`` anywhere; closing quotes and
brackets belong to it. A point within a number is therefore no sentence end, but one in an abbreviation before a space
("e.g. this") is. The start of the text counts as a sentence end too.

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
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.benchmarks.base import Options
from gateau.evaluation.benchmarks.needle.settings import PREFIX, NeedleSettings, needles_of
from gateau.files import read_text
from gateau.formats import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|\Z)|[。！？]+[”’」』）]*")
_BETWEEN_TEXTS = "\n\n"
# cuts this many characters around the best one are tried where one character more adds several tokens
_NEARBY = 16


@dataclass(frozen=True)
class NeedlePrompt:
    """One cell of the grid.

    Attributes:
        length: nominal length in tokens.
        depth: nominal depth of the needle in percent of the haystack's characters.
        actual_depth: depth at which the needle is, at the end of a sentence.
        n_tokens: length of the context in tokens. It is ``length - reserve``, or the next smaller number that is
            possible where one more character adds several tokens.
        system: the system line.
        context: the haystack with the needle.
        question: what is asked.
        prefix: stands between context and question.
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
        """Name of the cell."""
        return f"needle-{self.length}-{self.depth:g}"

    def messages(self) -> list[dict[str, str]]:
        """Return what is sent: the system line, unless it is empty, and the user's message."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.context + _asked(self.prefix, self.question)}]


def questions(assets: Path, options: Options, tokenizer: PreTrainedTokenizerBase) -> Iterator[Question]:
    """Yield the question of every cell, needle by needle and length by length. See :func:`needle_prompts` for errors.

    The items of the second needle and of those after it end with its number.
    """
    haystack = read_haystack(assets / "haystack")
    for number, needle in enumerate(needles_of(options), start=1):
        settings = NeedleSettings.from_options(options).with_needle(needle)
        for cell in needle_prompts(settings, tokenizer, haystack):
            item = cell.id if number == 1 else f"{cell.id}-{number}"
            yield Question(
                benchmark="needle",
                item=item,
                users=(cell.messages()[-1]["content"],),
                system=cell.system or None,
                max_new_tokens=options["max_new_tokens"],
                record={
                    "id": item,
                    "length": cell.length,
                    "depth": cell.depth,
                    "actual_depth": cell.actual_depth,
                    "n_tokens": cell.n_tokens,
                    "needle": settings.needle,
                    "question": settings.question,
                },
            )


def read_haystack(directory: str | Path) -> list[str]:
    """Return the texts of all ``*.txt`` of a folder, sorted by name.

    Raises:
        DataError: there is no text, or one is not UTF-8.
    """
    texts = [read_text(path) for path in sorted(Path(directory).glob("*.txt"), key=lambda path: path.name)]
    if not texts:
        raise DataError(f"{directory}: no *.txt there; the haystack is made of the text files of this folder")
    return texts


def sentence_ends(text: str) -> list[int]:
    """Return the character positions right behind each sentence, in ascending order."""
    return [match.end() for match in _SENTENCE_END.finditer(text)]


def needle_prompts(
    settings: NeedleSettings, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Iterator[NeedlePrompt]:
    """Yield all cells, length by length. A cell may be missing if depths that give the same prompt are asked once.

    Args:
        settings: the grid and the texts.
        tokenizer: the model's.
        texts: the haystack, in this order; it is repeated until the longest length is reached.

    Raises:
        DataError: the haystack is empty, contains the needle, or lacks a sentence end between two depths of a length.
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
                if settings.once:
                    continue
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
    """Raise ModelError if the tokenizer loses letters of the needle. Case and white space may get lost."""

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
    """Return how many characters of the haystack fill the budget: exactly, or as many as do not exceed it.

    Args:
        n_tokens: tokens of the context for a cut. It grows with the cut, except for a few tokens up and down. Each call
            costs a tokenization.
        budget: tokens of the context.
        guess: where the search starts, in characters.
        longest: length of the haystack in characters.
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
