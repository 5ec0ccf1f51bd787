"""One try of a call at a server that speaks OpenAI's protocol, and the meaning of its answer or refusal.

The client library's own retries are off, because each try must fit the budget before it is sent. Failures that may pass
(429, 5xx, timeouts, dropped connections, unreadable or empty answers) raise :class:`TryAgain`. Failures that remain (a
refused key, an unknown model, a refused request, an empty account) raise ServerError, which stops all calls at once.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from gateau.errors import ServerError, SettingsError
from gateau.evaluation.client.calls import CHAT, Answer, Call, Usage

if TYPE_CHECKING:  # imported where a server is called, because scorers and --help import this module too
    from openai import APIStatusError, AsyncOpenAI

    from gateau.evaluation.client.started import StartedServer

_LONGEST_WAIT = 600.0  # seconds; if a server asks for a longer pause, the run stops and can be repeated later
_SHORTEST_SECRET = 8  # characters; hiding a dummy key such as "none" would garble texts
_NEVER_CONNECTED = {"ConnectError", "ConnectTimeout"}  # nothing was sent, so nothing was paid for
# fields that decide what is asked, so settings must not change them
_RESERVED = {"model", "messages", "prompt", "stream", "n"}


@dataclass(frozen=True)
class ServerSettings:
    """Which model answers, and where and how its server is reached.

    Attributes:
        model: name of the model on the server.
        base_url: address of the server, such as ``http://localhost:8000/v1``.
        key_variable: environment variable with the API key.
        concurrency: number of calls at the same time.
        tries: number of tries of a call.
        backoff_seconds: pause before the second try, which then doubles.
        timeout_seconds: longest wait for one try.
        budget_tokens: largest number of tokens of all new calls together, prompts and answers; None for no limit.
        extra_body: fields that are added to the body of each call, or replace its fields. None removes a field.
        role: what messages call the server.

    Raises:
        SettingsError: a value is invalid.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    tries: int = 8
    backoff_seconds: float = 1.0
    timeout_seconds: float = 300.0
    budget_tokens: int | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    role: Literal["judge", "model server"] = "model server"

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        if address.username or address.password or address.query or address.fragment:
            raise SettingsError(
                f"the {self.role}'s base URL contains a user name, a password or parameters; give the address "
                f"alone and put the key into the environment variable {self.key_variable}"
            )
        if address.scheme not in {"http", "https"} or not address.netloc:
            raise SettingsError(f"{self.base_url!r} is not a base URL; an example is http://localhost:8000/v1")
        self._check("concurrency", "tries", "timeout_seconds")
        self._check("backoff_seconds", "budget_tokens", zero=True)
        if taken := sorted(_RESERVED & set(self.extra_body)):
            raise SettingsError(f"the {self.role}'s extra_body sets {', '.join(taken)}, which each call sets itself")

    def _check(self, *names: str, zero: bool = False) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and (value < 0 or (value == 0 and not zero)):
                raise SettingsError(
                    f"the {self.role}'s {name} is {value}; it {'cannot be negative' if zero else 'must be above 0'}"
                )

    def call(self, endpoint: str, body: Mapping[str, Any], salt: str = "", attempt: int = 0) -> Call:
        """Return a call whose body is ``body`` with the changes of ``extra_body``.

        Raises:
            SettingsError: the body has no bound on new tokens.
        """
        whole = {**body, **self.extra_body}
        return Call(endpoint, {name: value for name, value in whole.items() if value is not None}, salt, attempt)


class TryAgain(Exception):
    """A try that failed and may be repeated.

    Attributes:
        wait: pause in seconds that the server asked for, or None.
        free: whether the try certainly cost no tokens.
    """

    def __init__(self, reason: str, wait: float | None = None, free: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.free = wait, free


class Server:
    """A connection to the server, which is an asynchronous context. The API key comes from the environment only.

    Args:
        settings: the server, and how it is called.
        started: the server that this job starts, in place of the address and the model's name of the settings.

    Raises:
        SettingsError: the key cannot be sent in an HTTP header.
    """

    def __init__(self, settings: ServerSettings, started: StartedServer | None = None) -> None:
        from httpx2 import create_ssl_context

        self._settings, self._started = settings, started
        self._model = started.model if started else settings.model
        self._key = key_from_environment(settings.key_variable)
        self.place = f"the server {started.start.start}" if started else settings.base_url
        self._trusted = create_ssl_context()  # shared by all clients, because reading the certificates takes 20 ms
        self._idle: list[AsyncOpenAI] = []
        self._clients: list[AsyncOpenAI] = []

    @contextmanager
    def _client(self) -> Iterator[AsyncOpenAI]:
        """Yield a client for one call at a time. One client for all calls would check all connections for each call."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        if not self._idle:
            self._idle.append(
                AsyncOpenAI(
                    api_key=self._key or "none",  # servers without keys still expect the header
                    base_url=self._started.base_url() if self._started else self._settings.base_url,
                    max_retries=0,
                    timeout=None,
                    # a server of this machine is reached without the proxies of the environment
                    http_client=DefaultAsyncHttpxClient(verify=self._trusted, trust_env=self._started is None),
                )
            )
            self._clients.append(self._idle[-1])
        client = self._idle.pop()
        try:
            yield client
        finally:
            self._idle.append(client)

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for client in self._clients:
            await client.close()

    async def answer(self, call: Call, name: str) -> Answer:
        """Return the answer to ``call``, which belongs to the request ``name``.

        Raises:
            TryAgain: there is no answer, for a reason that may pass.
            ServerError: the server refuses the call.
        """
        from openai import APIConnectionError, APIStatusError

        seconds = self._settings.timeout_seconds
        if self._started:
            await asyncio.to_thread(self._started.base_url)
        try:
            with self._client() as client:
                async with asyncio.timeout(seconds):
                    # chat.completions.create would spend a fifth of the work on checking the body against its types
                    answered = await client.post(call.endpoint, body={"model": self._model, **call.body}, cast_to=str)
        except TimeoutError as error:
            await self._check_started()
            raise TryAgain(f"no answer within {seconds:g} s") from error
        except APIConnectionError as error:
            await self._check_started()
            cause = type(error.__cause__).__name__
            raise TryAgain(f"connection lost or refused ({cause})", free=cause in _NEVER_CONNECTED) from error
        except APIStatusError as error:
            # the library's error contains the request and its key, so it must not be chained
            raise self._refusal(error, name, call.endpoint) from None
        return self._read(answered, call)

    async def _check_started(self) -> None:
        """Raise ServerError if this job's own server has ended or hangs, so that no time is lost with further tries."""
        if self._started:
            await asyncio.to_thread(self._started.check)

    def _read(self, body: str, call: Call) -> Answer:
        try:
            value = json.loads(body)
            choice = value["choices"][0]
            message = choice["message"] if call.endpoint == CHAT else {"content": choice["text"]}
            text, reasoning = message["content"] or "", _reasoning(message)
            finish_reason = choice.get("finish_reason")
            counted = dict(value.get("usage") or {})
            # JSON may contain half of a surrogate pair, but a UTF-8 file cannot
            text, reasoning = (self._hide(one.encode("utf-8", "replace").decode()) for one in (text, reasoning))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise TryAgain(f"the answer is not a completion: {self._hide(body)[:100]!r}") from error
        prompt, completion = counted.get("prompt_tokens"), counted.get("completion_tokens")
        # a prompt without a token means that the server did not count; the budget would then never be spent
        if isinstance(prompt, int) and isinstance(completion, int) and prompt > 0 and completion >= 0:
            return Answer(text, finish_reason, Usage(prompt, completion), reasoning)
        return Answer(text, finish_reason, call.estimated_usage(text + reasoning), reasoning)

    def _refusal(self, error: APIStatusError, name: str, endpoint: str) -> Exception:
        """Return the error to raise for an HTTP status: TryAgain, or ServerError with advice."""
        status, settings = error.status_code, self._settings
        said = self._hide(error.message)[:300]
        at = f"{self.place} answered {status}"
        if status == 429 and error.code == "insufficient_quota":
            return ServerError(f"{at}: the account has no quota left; add credit or use another key")
        if status == 429:
            wait = _retry_after(error.response.headers)
            if wait is not None and wait > _LONGEST_WAIT:
                return ServerError(f"{at} and asks to wait {wait:.0f} s; rerun later")
            return TryAgain(f"{status}: {said}", wait, free=True)
        if status in {408, 409, 425} or status >= 500:
            return TryAgain(f"{status}: {said}", free=True)
        if status == 401:  # the server's message may quote part of the key, so it is not shown
            state = "refused" if self._key else "not set"
            return ServerError(f"{at}: the key in the environment variable {settings.key_variable} is {state}")
        if status == 403:
            return ServerError(
                f"{at}: the key in {settings.key_variable} may not use model {settings.model!r}; use another key or "
                f"model ({said})"
            )
        if status == 404:
            return ServerError(
                f"{at}: no model {self._model!r} there, or a wrong address; check the model's name, that the base "
                f"URL ends as the server expects (mostly in /v1), and that the server has {endpoint} ({said})"
            )
        return ServerError(f"{at} to request {name!r}: {said}; shorten or correct the request, or change the settings")

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key and len(self._key) >= _SHORTEST_SECRET else text


def _reasoning(message: Mapping[str, Any]) -> str:
    """Return the reasoning that a server sends apart from the text; servers have two names for it."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


def key_from_environment(variable: str) -> str | None:
    """Return the API key in an environment variable, or None if there is none.

    Raises:
        SettingsError: it cannot be sent in an HTTP header. The message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"the key in the environment variable {variable} has characters that no key can have; set it again"
        )
    return key or None


def _retry_after(headers: Any) -> float | None:
    """Return the seconds that Retry-After asks for, as seconds or as a date; None if it is absent or unreadable."""
    asked = headers.get("retry-after", "")
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
