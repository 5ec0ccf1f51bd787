"""Streaming reader of a JSON array: each element is read as a line of JSONL would be."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from gateau.data.messages import InvalidRow

_BLOCK = 1 << 22  # bytes that are read at least
_CUT = 16  # characters before the end of a block in which a number, a word or an escape may be cut
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER, _WITHOUT_NUMBERS = json.JSONDecoder(), json.JSONDecoder(parse_int=str)


def elements_of_array(stream: BinaryIO) -> Iterator[Any]:
    """Yield the elements of a JSON array. An InvalidRow stands for one that is JSON, but cannot be read.

    Raises:
        ValueError: the text is not UTF-8, or no JSON array.
        RecursionError: an element is nested too deeply.
    """
    text = _Text(stream)
    mark = text.mark("[")
    if text.peek() == "]":
        mark = text.mark("]")
    while mark != "]":
        yield text.element()
        mark = text.mark(",]")
    if rest := text.peek():
        raise ValueError(f"{rest!r} follows the array")


class _Text:
    """A text that is read in blocks. Only what follows ``_place`` is still needed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._place, self._is_whole = "", 0, False

    def peek(self) -> str:
        """Return the next character that is no white space, or nothing at the end."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._text) or self._is_whole:
                return self._text[self._place : self._place + 1]
            self._read_on()

    def mark(self, expected: str) -> str:
        """Return the next character, which must be one of those expected, and go on behind it."""
        found = self.peek()
        if not found or found not in expected:
            raise ValueError(f"{found or 'the end'!r} instead of {' or '.join(expected)}")
        self._place += 1
        return found

    def element(self) -> Any:
        """Return the next value, or an InvalidRow, and go on behind it. A longer one is parsed again with more text."""
        self.peek()
        decoder, fault = _DECODER, None
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._place)
                if end < len(self._text) or self._is_whole:  # the next block may go on with a number
                    self._place = end
                    return fault or value
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _CUT
                if self._is_whole or not is_cut:
                    raise ValueError(error.msg) from error
            except ValueError as error:  # a number of thousands of digits
                decoder, fault = _WITHOUT_NUMBERS, InvalidRow("not_json", f"{error}; write a plain JSON object")
                continue
            self._read_on()

    def _read_on(self) -> None:
        rest = self._text[self._place :]
        block = self._stream.read(max(_BLOCK, len(rest) // 2))
        self._text, self._place, self._is_whole = rest + self._decoder.decode(block, not block), 0, not block
