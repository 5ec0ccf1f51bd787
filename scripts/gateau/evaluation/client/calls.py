"""Calls to a server, its answers, their token counts, and the cache of answers.

Each answer is stored in a file that is named after the digest of the call, so a rerun makes only the missing calls. The
digest does not cover the server's address, so a server can move without repeated calls. A file is written whole or not
at all, before its answer is used: after ``kill -9``, only the answers to unfinished calls are lost. There is one JSON
file per answer rather than one growing log, so that any number of jobs can share a cache and no file needs repair.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateau.digests import settings_digest
from gateau.errors import SettingsError
from gateau.files import write_json

logger = logging.getLogger(__name__)

CHAT, COMPLETION = "/chat/completions", "/completions"

_CALL_OVERHEAD = 64  # most tokens that a chat template adds to a conversation
_MESSAGE_OVERHEAD = 16  # most tokens that a chat template adds around a message
_GUESSED_OVERHEAD = 4  # tokens that a chat template usually adds around a message
_BYTES_PER_TOKEN = 4  # typical of prose; used for estimates, never for the bound of the budget


@dataclass(frozen=True)
class Usage:
    """Tokens of one or more answers. They are ``estimated`` if the server did not count them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        """Tokens of prompts and answers together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
        )

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Return the cost in the currency of the prices, which are per million tokens."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6


@dataclass(frozen=True)
class Answer:
    """The text that the model wrote.

    Attributes:
        text: the text, without reasoning that the server sent apart from it.
        finish_reason: ``length`` if the bound on new tokens cut the answer off.
        usage: tokens of the call.
        reasoning: what the server sent apart from the text.
    """

    text: str
    finish_reason: str | None
    usage: Usage
    reasoning: str = ""


@dataclass(frozen=True)
class Call:
    """One question to a server.

    Attributes:
        endpoint: :data:`CHAT` or :data:`COMPLETION`.
        body: the request without the model's name: ``messages``, or ``prompt`` as text or token ids, and a bound on new
            tokens.
        salt: whatever else decides the answer, such as the digest of the weights behind the model's name.
        attempt: number of the attempt, because the same question can be asked again.

    Raises:
        SettingsError: the body has no bound on new tokens. A budget and a dry run need it.
    """

    endpoint: str
    body: Mapping[str, Any]
    salt: str = ""
    attempt: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self._bound, int) or self._bound <= 0:
            raise SettingsError(
                f"a call needs a bound on new tokens above 0, but has {self._bound}; set max_tokens, or "
                "max_completion_tokens if the server requires that"
            )

    @property
    def _bound(self) -> Any:
        return self.body.get("max_completion_tokens", self.body.get("max_tokens"))

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of the answer."""
        return int(self._bound)

    @property
    def most_tokens(self) -> int:
        """Largest number of tokens of the call, since no tokenizer makes more tokens than there are bytes."""
        prompt = sum(size + _MESSAGE_OVERHEAD for size in self._sizes(1))
        return prompt + _CALL_OVERHEAD + self.max_tokens

    def key(self, model: str) -> str:
        """Return the digest of the whole question. It covers neither a row's id nor the server's address."""
        return settings_digest({"model": model, **asdict(self)})

    def estimated_usage(self, completion: str) -> Usage:
        """Return the number of tokens as estimated from the bytes of the call and of the answer's text."""
        prompt = sum(size + _GUESSED_OVERHEAD for size in self._sizes(_BYTES_PER_TOKEN))
        return Usage(prompt, _tokens(completion, _BYTES_PER_TOKEN), estimated=True)

    def _sizes(self, bytes_per_token: int) -> list[int]:
        prompts = [self.body["prompt"]] if "prompt" in self.body else [m["content"] for m in self.body["messages"]]
        return [_tokens(p, bytes_per_token) if isinstance(p, str) else len(p) for p in prompts]


def _tokens(text: str, bytes_per_token: int) -> int:
    return -(-len(text.encode()) // bytes_per_token)


class AnswerCache:
    """A folder with one small file per answer, found by :meth:`Call.key`."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def path(self, key: str) -> Path:
        """Return the file of the answer with this key."""
        return self.directory / key[:2] / f"{key}.json"

    def get(self, key: str) -> Answer | None:
        """Return the stored answer, or None if there is none. A damaged file gives a warning and counts as none."""
        path = self.path(key)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return Answer(**{**kept, "usage": Usage(**kept["usage"])})
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError) as error:
            logger.warning("%s is damaged (%s); repeating its call", path, type(error).__name__)
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Store an answer. When this returns, it is on the disk."""
        write_json(self.path(key), asdict(answer))
