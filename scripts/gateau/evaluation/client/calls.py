"""What is asked of a server and what it answers: calls, their digests and token counts, and the cache of answers.

Each answer is kept in a file named by the digest of what was asked, so a rerun makes only the missing calls; the digest
leaves the server's address out, so that moving a server costs nothing. A file is written whole or not at all, before
its answer counts: after ``kill -9`` only calls still on their way are lost. One JSON file per answer was preferred to
one growing log because any number of jobs may then share a cache, and nothing has to be repaired.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateau.errors import SettingsError
from gateau.files import write_json

logger = logging.getLogger(__name__)

CHAT, COMPLETION = "/chat/completions", "/completions"

_CALL_OVERHEAD = 64  # tokens a chat template may add to a prompt of its own accord
_MESSAGE_OVERHEAD = 16  # tokens a chat template may add around a message
_GUESSED_OVERHEAD = 4  # tokens a chat template usually adds around a message
_BYTES_PER_TOKEN = 4  # usual for prose; only estimates use it, never the budget's bound


@dataclass(frozen=True)
class Usage:
    """Tokens of one or more answers; ``estimated`` where the server did not count them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
        )

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Cost in the currency of the prices, which are per million tokens."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6


@dataclass(frozen=True)
class Answer:
    """What the model wrote; ``finish_reason`` is ``length`` where the bound on new tokens cut it."""

    text: str
    finish_reason: str | None
    usage: Usage


@dataclass(frozen=True)
class Call:
    """One question to a server.

    ``endpoint`` is :data:`CHAT` or :data:`COMPLETION`, ``body`` the request without the model's name: ``messages``, or
    ``prompt`` as text or token ids, and a bound on new tokens. ``salt`` stands for what decides the answer and is in
    neither, such as the digest of the weights behind the name. The same question may be asked again as another
    ``attempt``.

    Raises SettingsError without a bound on new tokens: neither a budget nor a dry run could say what a call may take.
    """

    endpoint: str
    body: Mapping[str, Any]
    salt: str = ""
    attempt: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self._bound, int) or self._bound <= 0:
            raise SettingsError(
                f"a call needs a bound on new tokens above 0, and has {self._bound}; set max_tokens, or "
                "max_completion_tokens where the server asks for that"
            )

    @property
    def _bound(self) -> Any:
        return self.body.get("max_completion_tokens", self.body.get("max_tokens"))

    @property
    def max_tokens(self) -> int:
        """Most tokens of the answer."""
        return int(self._bound)

    @property
    def most_tokens(self) -> int:
        """Tokens the call can cost at most: no tokenizer makes more tokens than there are bytes."""
        prompt = sum(size + _MESSAGE_OVERHEAD for size in self._sizes(1))
        return prompt + _CALL_OVERHEAD + self.max_tokens

    def key(self, model: str) -> str:
        """Digest of everything that is asked, and of nothing else: neither a row's id nor the server's address."""
        asked = {"model": model, **asdict(self)}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def estimated_usage(self, completion: str) -> Usage:
        """Tokens of the call guessed from its bytes."""
        prompt = sum(size + _GUESSED_OVERHEAD for size in self._sizes(_BYTES_PER_TOKEN))
        return Usage(prompt, _tokens(completion, _BYTES_PER_TOKEN), estimated=True)

    def _sizes(self, bytes_per_token: int) -> list[int]:
        prompts = [self.body["prompt"]] if "prompt" in self.body else [m["content"] for m in self.body["messages"]]
        return [_tokens(p, bytes_per_token) if isinstance(p, str) else len(p) for p in prompts]


def _tokens(text: str, bytes_per_token: int) -> int:
    return -(-len(text.encode()) // bytes_per_token)


class AnswerCache:
    """Answers by :meth:`Call.key`, one small file each."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.json"

    def get(self, key: str) -> Answer | None:
        """The answer kept under ``key``; a file that cannot be understood is warned about and asked for again."""
        path = self.path(key)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return Answer(kept["text"], kept["finish_reason"], Usage(**kept["usage"]))
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError) as error:
            logger.warning("%s is damaged (%s); its call is made again", path, type(error).__name__)
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; on return it is on the disk."""
        write_json(self.path(key), asdict(answer))
