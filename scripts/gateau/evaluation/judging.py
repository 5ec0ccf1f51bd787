"""The judge client: every judged benchmark asks its questions here.

Calls go to any server that speaks OpenAI's chat completions. Each answer is kept in a file named by the digest of what
was asked, so a rerun makes only the missing calls; the digest leaves the server's address out, so that moving a judge
costs nothing. A file is written whole or not at all, before its answer counts: after ``kill -9`` only calls still on
their way are lost. One JSON file per answer was preferred to one growing log because any number of jobs may then share
a cache, and nothing has to be repaired.

Retries are ours and not the client library's, because a try has to be in the budget before it leaves: what may pass
(429, 5xx, timeouts, dropped connections, unreadable or empty answers) is tried again, what cannot (a refused key, an
unknown model, a refused request, an empty account) stops everything at once.

An answer without a rating on its scale is asked for again under the next attempt number, then stays null: never zero,
never dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import repeat
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from openai import APIConnectionError, APIStatusError, AsyncOpenAI

from gateau.command import progress
from gateau.errors import DataError, JudgeError, SettingsError
from gateau.files import write_json, write_text

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF = 60.0  # seconds
_LONGEST_WAIT = 600.0  # seconds a server may ask us to wait before a rerun later is the better advice
_GIVEN_UP_IN_A_ROW = 3  # requests without an answer, none answered in between: the server is down, not the request
_CALL_OVERHEAD = 64  # tokens a chat template may add to a prompt of its own accord
_MESSAGE_OVERHEAD = 16  # tokens a chat template may add around a message
_BYTES_PER_TOKEN = 4  # usual for prose; only estimates use it, never the budget's bound
_SHORTEST_SECRET = 8  # characters; a dummy key such as "none" is no secret, and hiding it would garble texts


@dataclass(frozen=True)
class Rating:
    """How a benchmark's rating stands in an answer, and the scale it must lie on."""

    lowest: float
    highest: float
    find: Callable[[str], str | None]

    def read(self, text: str) -> float | None:
        """The rating in ``text``, None where it is missing or out of scale."""
        found = self.find(text)
        if found is None:
            return None
        rating = float(found)
        return rating if self.lowest <= rating <= self.highest else None


def _last_double_brackets(text: str) -> str | None:
    inside = re.findall(r"\[\[([^\[\]]*)\]\]", text)
    number = re.search(r"-?\d+(?:\.\d+)?", inside[-1]) if inside else None
    return number.group() if number else None


def _first_double_brackets(text: str) -> str | None:
    found = re.search(r"\[\[(\d+(?:\.\d*)?)\]\]", text)
    return found.group(1) if found else None


def _first_brackets(text: str) -> str | None:
    found = re.search(r"\[(\d+(?:\.\d*)?)\]", text)
    return _first_double_brackets(text) or (found.group(1) if found else None)


RATINGS = {
    "longbench_qa": Rating(1, 3, _last_double_brackets),
    "longbench_summary": Rating(1, 5, _last_double_brackets),
    "longbench_chat": Rating(1, 10, _last_double_brackets),
    "needle": Rating(1, 10, _first_double_brackets),
    "mt_bench": Rating(1, 10, _first_brackets),
}


@dataclass(frozen=True)
class JudgeSettings:
    """Who judges and how. ``max_tokens`` bounds one answer, ``budget_tokens`` prompts and answers of all new calls."""

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = 0.0
    seed: int | None = None  # attempt n is sent seed + n, so that asking again can change the answer
    max_tokens: int = 1024
    concurrency: int = 8
    tries: int = 8
    backoff_seconds: float = 1.0
    timeout_seconds: float = 300.0
    null_retries: int = 2
    budget_tokens: int | None = None

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        if address.username or address.password or address.query or address.fragment:
            raise SettingsError(
                "the judge's base URL carries a user name, a password or parameters; give the bare address and put "
                f"the key into the environment variable {self.key_variable}"
            )
        if address.scheme not in {"http", "https"} or not address.netloc:
            raise SettingsError(f"{self.base_url!r} is no base URL; one looks like http://localhost:8000/v1")
        for name in ("max_tokens", "concurrency", "tries", "timeout_seconds"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"the judge's {name} is {getattr(self, name)}; it must be above 0")
        for name in ("temperature", "backoff_seconds", "null_retries", "budget_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise SettingsError(f"the judge's {name} is {getattr(self, name)}; it cannot be negative")


@dataclass(frozen=True)
class JudgeRequest:
    """One rating to ask for; ``messages`` are ``{"role", "content"}``."""

    id: str
    messages: tuple[dict[str, str], ...]


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


@dataclass(frozen=True)
class Answer:
    """What the judge wrote; ``finish_reason`` is ``length`` where ``max_tokens`` cut it."""

    text: str
    finish_reason: str | None
    usage: Usage


@dataclass(frozen=True)
class Judgment:
    """The last answer to a request and its rating; ``usage`` counts all ``attempts`` answers."""

    id: str
    rating: float | None
    text: str
    attempts: int
    usage: Usage
    finish_reason: str | None


@dataclass(frozen=True)
class Forecast:
    """What a run would call. Prompt tokens are estimated from bytes, completion tokens are the most there can be."""

    cached: int
    calls: int
    usage: Usage

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Cost in the currency of the prices, which are per million tokens."""
        return cost(self.usage, prompt_price, completion_price)


def cost(usage: Usage, prompt_price: float, completion_price: float) -> float:
    """Cost of ``usage`` in the currency of the prices, which are per million tokens."""
    return (usage.prompt_tokens * prompt_price + usage.completion_tokens * completion_price) / 1e6


class AnswerCache:
    """Answers by :func:`call_key`, one small file each."""

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
            logger.warning("%s is damaged (%s); the judge is asked again", path, type(error).__name__)
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; on return it is on the disk."""
        write_json(self.path(key), asdict(answer))


def call_key(request: JudgeRequest, settings: JudgeSettings, attempt: int) -> str:
    """Digest of everything that is asked, and of nothing else: neither the id nor the server's address."""
    asked = {
        "model": settings.model,
        "messages": request.messages,
        "temperature": float(settings.temperature),
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
        "attempt": attempt,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def read_requests(path: str | Path) -> list[JudgeRequest]:
    """Requests of a jsonl file of ``{"id", "messages"}``.

    Raises:
        DataError: a line that is no such request, an id that stands twice, or no line at all.
    """
    requests: dict[str, JudgeRequest] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        request = _request(line, f"{path}:{number}")
        if request.id in requests:
            raise DataError(f"{path}:{number}: id {request.id!r} stands twice; every request needs its own id")
        requests[request.id] = request
    if not requests:
        raise DataError(f"{path}: no requests; each line is an object with id and messages")
    return list(requests.values())


def _request(line: str, where: str) -> JudgeRequest:
    try:
        row = json.loads(line)
        request = JudgeRequest(row["id"], tuple(dict(message) for message in row["messages"]))
        json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair could not be sent
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{where}: no object with id and messages ({type(error).__name__}: {error})") from error
    if not isinstance(request.id, str) or not request.id:
        raise DataError(f"{where}: the id is {request.id!r}; it must be a text")
    if not request.messages:
        raise DataError(f"{where}: id {request.id!r} has no messages")
    for message in request.messages:
        if set(message) != {"role", "content"} or not all(isinstance(value, str) for value in message.values()):
            raise DataError(f"{where}: id {request.id!r}: a message has exactly the texts role and content")
        if message["role"] not in {"system", "user", "assistant"}:
            raise DataError(f"{where}: id {request.id!r}: role {message['role']!r} is not system, user or assistant")
    return request


def write_judgments(path: str | Path, judgments: Sequence[Judgment]) -> None:
    """Write ``{"id", "rating", "text", "attempts", "usage"}`` line by line, in order, atomically."""
    rows = (
        {name: value for name, value in asdict(judgment).items() if name != "finish_reason"} for judgment in judgments
    )
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def check_null_share(judgments: Sequence[Judgment], most: float) -> None:
    """Refuse judgments of which more than the share ``most`` have no rating.

    Raises:
        JudgeError: too many nulls, with the first ids.
    """
    nulls = [judgment for judgment in judgments if judgment.rating is None]
    if len(nulls) <= most * len(judgments):
        return
    cut = sum(judgment.finish_reason == "length" for judgment in nulls)
    advice = f"; {cut} of these answers were cut: raise the judge's max_tokens" if cut else ""
    raise JudgeError(
        f"{len(nulls)} of {len(judgments)} judgments have no rating on the scale, more than the share {most:g} that "
        f"was allowed: {', '.join(judgment.id for judgment in nulls[:10])}{', …' if len(nulls) > 10 else ''}{advice}. "
        "Read the judge's answers (they are cached: with an allowed share of 1 they are written without new calls), "
        "then choose another judge or allow more"
    )


def estimated_usage(request: JudgeRequest, completion: str) -> Usage:
    """Tokens of a call guessed from its bytes."""
    texts = [message["content"] for message in request.messages]
    return Usage(sum(map(_guess, texts)) + 4 * len(texts), _guess(completion), estimated=True)


def _guess(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def most_tokens(request: JudgeRequest, max_tokens: int) -> int:
    """Tokens a call can cost at most: no tokenizer makes more tokens than there are bytes."""
    prompt = sum(len(message["content"].encode()) + _MESSAGE_OVERHEAD for message in request.messages)
    return prompt + _CALL_OVERHEAD + max_tokens


def forecast(requests: Sequence[JudgeRequest], settings: JudgeSettings, rating: Rating, cache: AnswerCache) -> Forecast:
    """What judging would call, without calling; answers without a rating that would be asked again are not foreseen."""
    missing: dict[str, JudgeRequest] = {}
    cached: set[str] = set()
    for request in requests:
        for attempt in range(settings.null_retries + 1):
            key = call_key(request, settings, attempt)
            answer = cache.get(key)
            if answer is None:
                missing[key] = request
                break
            cached.add(key)
            if rating.read(answer.text) is not None:
                break
    usage = Usage(estimated=True)
    for request in missing.values():
        usage += replace(estimated_usage(request, ""), completion_tokens=settings.max_tokens)
    return Forecast(len(cached), len(missing), usage)


def judge(
    requests: Sequence[JudgeRequest], settings: JudgeSettings, rating: Rating, cache: AnswerCache
) -> list[Judgment]:
    """Ask for every rating, in the requests' order; the ids must differ (:func:`read_requests` sees to it).

    Raises:
        JudgeError: the judge refused, did not answer, or the budget would be exceeded; what was answered is cached.
    """
    for name in ("openai", "httpx", "httpx2"):  # one line per call would bury ours
        logging.getLogger(name).setLevel(logging.WARNING)
    return asyncio.run(_Judging(settings, rating, cache, len(requests)).run(requests))


class _Retry(Exception):
    """A try that failed and may be repeated. ``wait`` is the pause in seconds the server asked for."""

    def __init__(self, reason: str, wait: float | None = None, free: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.free = wait, free


class _GaveUp(Exception):
    """A request whose tries are used up."""


class _Stopped(Exception):
    """Another request has stopped the run."""


class _Budget:
    """Tokens spent and reserved; together never above the limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.spent = 0
        self._reserved = 0
        self._changed = asyncio.Condition()

    async def reserve(self, tokens: int) -> None:
        """Set ``tokens`` aside, once calls on their way have given back enough of theirs.

        Raises:
            JudgeError: nothing is on its way and they still do not fit.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(tokens) or not self._reserved)
            if not self._fits(tokens):
                raise JudgeError(
                    f"the budget of {self.limit} tokens has {(self.limit or 0) - self.spent} left, and the next call "
                    f"could take {tokens}; raise the budget"
                )
            self._reserved += tokens

    def _fits(self, tokens: int) -> bool:
        return self.limit is None or self.spent + self._reserved + tokens <= self.limit

    async def settle(self, reserved: int, used: int) -> None:
        async with self._changed:
            self._reserved -= reserved
            self.spent += used
            self._changed.notify_all()


class _Judging:
    """One run: workers that share a client, a budget, a pause and the reason to stop."""

    def __init__(self, settings: JudgeSettings, rating: Rating, cache: AnswerCache, total: int) -> None:
        self._settings, self._rating, self._cache = settings, rating, cache
        self._key = _key_from_environment(settings.key_variable)
        self._budget = _Budget(settings.budget_tokens)
        self._total = total
        self._bar = cast("Generator[None]", progress(repeat(None, total), "judging", "rating", total))
        self._judgments: dict[str, Judgment] = {}
        self._same_call: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stop_reason: Exception | None = None
        self._stopped = asyncio.Event()
        self._resume_at = 0.0
        self._given_up: dict[str, str] = {}
        self._given_up_in_a_row = 0
        self._calls = self._cached = 0
        self._usage = Usage()

    async def run(self, requests: Sequence[JudgeRequest]) -> list[Judgment]:
        waiting = iter(requests)
        next(self._bar)  # shows the bar; each further step counts one rating
        self._client = AsyncOpenAI(
            # a server without keys wants a header all the same
            api_key=self._key or "none", base_url=self._settings.base_url, max_retries=0, timeout=None,
        )  # fmt: skip
        async with self._client, asyncio.TaskGroup() as workers:
            for _ in range(min(self._settings.concurrency, len(requests))):
                workers.create_task(self._work(waiting))
        self._bar.close()
        logger.info(
            "%d calls answered, %d answers from the cache; %d prompt and %d completion tokens%s",
            self._calls, self._cached, self._usage.prompt_tokens, self._usage.completion_tokens,
            ", in part estimated: the server did not count them" if self._usage.estimated else "",
        )  # fmt: skip
        self._raise_failures()
        return [self._judgments[request.id] for request in requests]

    def _raise_failures(self) -> None:
        if isinstance(self._stop_reason, OSError):
            raise self._stop_reason
        if self._stop_reason is not None:
            reason = str(self._stop_reason)
        elif self._given_up:
            first, why = next(iter(self._given_up.items()))
            reason = f"{len(self._given_up)} requests got no answer in {self._settings.tries} tries, {first!r}: {why}"
        else:
            return
        raise JudgeError(
            f"{reason}. {len(self._judgments)} of {self._total} requests are judged and cached: a rerun makes only "
            "the missing calls"
        )

    def _stop(self, reason: Exception) -> None:
        """No new call leaves; those on their way are still awaited and cached, for they are paid."""
        self._stop_reason = self._stop_reason or reason
        self._stopped.set()

    async def _work(self, waiting: Iterator[JudgeRequest]) -> None:
        for request in waiting:
            try:
                self._judgments[request.id] = await self._judge(request)
                next(self._bar, None)
            except _Stopped:
                return
            except (JudgeError, OSError) as error:
                self._stop(error)
                return
            except _GaveUp as error:
                self._given_up[request.id] = str(error)
                self._given_up_in_a_row += 1
                if self._given_up_in_a_row == _GIVEN_UP_IN_A_ROW:
                    self._stop(
                        JudgeError(
                            f"{self._settings.base_url} has not answered {_GIVEN_UP_IN_A_ROW} requests in a row, each "
                            f"in {self._settings.tries} tries ({error}); see that the judge runs and can be reached"
                        )
                    )

    async def _judge(self, request: JudgeRequest) -> Judgment:
        usage = Usage()
        for attempt in range(self._settings.null_retries + 1):
            answer = await self._answer(request, attempt)
            usage += answer.usage
            rating = self._rating.read(answer.text)
            if rating is not None:
                break
        return Judgment(request.id, rating, answer.text, attempt + 1, usage, answer.finish_reason)

    async def _answer(self, request: JudgeRequest, attempt: int) -> Answer:
        """From the cache, else from the judge; requests that ask the same wait for one call."""
        key = call_key(request, self._settings, attempt)
        async with self._same_call[key]:
            answer = self._cache.get(key)
            if answer is not None:
                self._cached += 1
                return answer
            answer = await self._call(request, attempt)
            await asyncio.to_thread(self._cache.put, key, answer)
            self._calls += 1
            self._usage += answer.usage
            self._given_up_in_a_row = 0
            return answer

    async def _call(self, request: JudgeRequest, attempt: int) -> Answer:
        bound = most_tokens(request, self._settings.max_tokens)
        reason = ""
        for tried in range(self._settings.tries):
            await self._wait_until(self._resume_at)
            await self._budget.reserve(bound)
            used = bound  # of a call without a readable end nobody knows the price
            try:
                if self._stopped.is_set():
                    used = 0
                    raise _Stopped
                answer = await self._try(request, attempt)
                used = bound if answer.usage.estimated else answer.usage.total
                return answer
            except _Retry as retry:
                used = 0 if retry.free else bound
                reason = str(retry)
                logger.debug("%s: try %d: %s", request.id, tried + 1, reason)
                backoff = min(self._settings.backoff_seconds * 2**tried, _LONGEST_BACKOFF) * random.uniform(0.5, 1)
                wait = retry.wait
            except JudgeError:
                used = 0
                raise
            finally:
                await self._budget.settle(bound, used)
            if wait is not None:
                self._resume_at = max(self._resume_at, time.monotonic() + wait)  # for every worker
            elif tried + 1 < self._settings.tries:
                await self._wait_until(time.monotonic() + backoff)
        raise _GaveUp(reason)

    async def _wait_until(self, moment: float) -> None:
        while (seconds := moment - time.monotonic()) > 0 and not self._stopped.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._stopped.wait()
            except TimeoutError:
                moment = max(moment, self._resume_at)
        if self._stopped.is_set():
            raise _Stopped

    async def _try(self, request: JudgeRequest, attempt: int) -> Answer:
        settings = self._settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": list(request.messages),
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        if settings.seed is not None:
            body["seed"] = settings.seed + attempt
        try:
            async with asyncio.timeout(settings.timeout_seconds):
                # not chat.completions.create: checking our own body against its types takes a fifth of a call's work
                answered = await self._client.post("/chat/completions", body=body, cast_to=str)
        except TimeoutError as error:
            raise _Retry(f"no answer within {settings.timeout_seconds:g} s") from error
        except APIConnectionError as error:
            raise _Retry(f"connection lost or refused ({type(error.__cause__).__name__})") from error
        except APIStatusError as error:
            raise self._refusal(error, request) from None  # the library's error holds the request with its key
        return self._read(answered, request)

    def _read(self, body: str, request: JudgeRequest) -> Answer:
        try:
            value = json.loads(body)
            choice = value["choices"][0]
            text = choice["message"]["content"] or ""
            finish_reason = choice.get("finish_reason")
            counted = dict(value.get("usage") or {})
            # half of a surrogate pair can stand in JSON, but not in a file
            text = self._hide(text.encode("utf-8", "replace").decode())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Retry(f"an answer that is no chat completion: {self._hide(body)[:100]!r}") from error
        prompt, completion = counted.get("prompt_tokens"), counted.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int):
            return Answer(text, finish_reason, Usage(prompt, completion))
        return Answer(text, finish_reason, estimated_usage(request, text))

    def _refusal(self, error: APIStatusError, request: JudgeRequest) -> Exception:
        """What an HTTP error means: try again, or stop with advice."""
        status, settings = error.status_code, self._settings
        said = self._hide(error.message)[:300]
        at = f"{settings.base_url} answered {status}"
        if status == 429 and error.code == "insufficient_quota":
            return JudgeError(f"{at}: the account has no quota left; add credit or use another key")
        if status == 429:
            wait = _retry_after(error.response.headers)
            if wait is not None and wait > _LONGEST_WAIT:
                return JudgeError(f"{at} and asks to wait {wait:.0f} s; rerun later")
            return _Retry(f"{status}: {said}", wait, free=True)
        if status in {408, 409, 425} or status >= 500:
            return _Retry(f"{status}: {said}", free=True)
        if status == 401:  # what the server said is left out: it may quote part of the key
            state = "refused" if self._key else "not set"
            return JudgeError(f"{at}: the key in the environment variable {settings.key_variable} is {state}")
        if status == 403:
            return JudgeError(
                f"{at}: the key in {settings.key_variable} may not use model {settings.model!r}; use another key or "
                f"model ({said})"
            )
        if status == 404:
            return JudgeError(
                f"{at}: no model {settings.model!r} there, or a wrong address; check the model's name, and that the "
                f"base URL ends as the server wants it, mostly in /v1 ({said})"
            )
        return JudgeError(f"{at} to request {request.id!r}: {said}; shorten or mend the request or the settings")

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key and len(self._key) >= _SHORTEST_SECRET else text


def _key_from_environment(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"the key in the environment variable {variable} has characters no key has; set it anew")
    return key or None


def _retry_after(headers: Any) -> float | None:
    """Seconds that Retry-After asks for, given as seconds or as a date; None where it is absent or unreadable."""
    asked = headers.get("retry-after", "")
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
