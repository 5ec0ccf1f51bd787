"""Ratings by a judge: the calls, how a rating is read, and what happens without one.

If an answer has no rating on its scale, the judge is asked again, up to a number of attempts. Then the rating stays
null; it is neither set to zero nor dropped. Too many nulls are an error, so that no score is the mean of an arbitrary
subset of the ratings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from gateau.errors import DataError, JudgeError
from gateau.evaluation import benchmarks
from gateau.evaluation.client.calls import CHAT, AnswerCache, Call, Usage
from gateau.evaluation.client.jobs import Ask, Job, Outcome, run_jobs
from gateau.evaluation.client.server import ServerSettings
from gateau.evaluation.client.started import StartedServer
from gateau.evaluation.judging.requests import JudgeRequest
from gateau.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class JudgeSettings(ServerSettings):
    """The judge, its server, and how it is asked.

    Attributes:
        temperature: sent with each call.
        seed: sent with each call, plus the number of the attempt, so that another attempt can give another answer.
            None sends no seed.
        max_tokens: largest length of an answer in tokens. ``extra_body`` may replace it by ``max_completion_tokens``.
        null_retries: number of further attempts if an answer has no rating.
        salt: what decides the answers beside the model's name, such as its weights and its server's program.
    """

    role: Literal["judge", "model server"] = "judge"
    temperature: float = 0.0
    seed: int | None = None
    max_tokens: int = 1024
    null_retries: int = 2
    salt: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("max_tokens")
        self._check("temperature", "null_retries", zero=True)
        judge_call(JudgeRequest("", (), rating=""), self)  # raises if extra_body removes the bound on tokens


@dataclass(frozen=True)
class Judgment:
    """The last answer to a request, and its rating. ``usage`` counts the answers of all ``attempts``."""

    id: str
    rating: float | None
    text: str
    attempts: int
    usage: Usage
    finish_reason: str | None


def judge_call(request: JudgeRequest, settings: JudgeSettings, attempt: int = 0) -> Call:
    """Return the call for one attempt at a request. The request's id is not part of it."""
    body: dict[str, Any] = {
        "messages": list(request.messages),
        "temperature": float(settings.temperature),
        "max_tokens": settings.max_tokens,
    }
    if settings.seed is not None:
        body["seed"] = settings.seed + attempt
    return settings.call(CHAT, body, settings.salt, attempt)


def judge(
    requests: Sequence[JudgeRequest],
    settings: JudgeSettings,
    cache: AnswerCache,
    started: StartedServer | None = None,
) -> Outcome[Judgment]:
    """Ask the judge for every rating, and return the judgments in the order of the requests.

    Args:
        requests: what is asked.
        settings: the judge, and how it is asked.
        cache: where answers are looked up and stored.
        started: the judge's server, if this job starts it.

    Raises:
        ServerError: the judge refused or did not answer, or the budget would be exceeded. All answers are cached.
        DataError: see :func:`check_requests`.
    """
    check_requests(requests)
    jobs = [Job(request.id, partial(_rate, request, settings)) for request in requests]
    return run_jobs(jobs, settings, cache, started=started)


async def _rate(request: JudgeRequest, settings: JudgeSettings, ask: Ask) -> Judgment:
    usage = Usage()
    for attempt in range(settings.null_retries + 1):
        answer = await ask(judge_call(request, settings, attempt))
        usage += answer.usage
        rating = benchmarks.ratings()[request.rating].read(answer.text)
        if rating is not None:
            break
    return Judgment(request.id, rating, answer.text, attempt + 1, usage, answer.finish_reason)


@dataclass(frozen=True)
class Forecast:
    """The calls of a run. Prompt tokens are estimated from bytes; completion tokens are an upper bound."""

    cached: int
    calls: int
    usage: Usage


def forecast(requests: Sequence[JudgeRequest], settings: JudgeSettings, cache: AnswerCache) -> Forecast:
    """Return what :func:`judge` would call, without calling. Answers without a rating need more calls than this."""
    missing: dict[str, Call] = {}
    cached: set[str] = set()
    for request in requests:
        for attempt in range(settings.null_retries + 1):
            call = judge_call(request, settings, attempt)
            key = call.key(settings.model)
            answer = cache.get(key)
            if answer is None:
                missing[key] = call
                break
            cached.add(key)
            if benchmarks.ratings()[request.rating].read(answer.text) is not None:
                break
    usage = Usage(estimated=True)
    for call in missing.values():
        usage += replace(call.estimated_usage(""), completion_tokens=call.max_tokens)
    return Forecast(len(cached), len(missing), usage)


def check_null_share(judgments: Sequence[Judgment], most: float) -> None:
    """Check that at most the share ``most`` (from 0 to 1) of the judgments have no rating.

    Raises:
        JudgeError: more have none. The message names the first ids.
    """
    nulls = [judgment for judgment in judgments if judgment.rating is None]
    if len(nulls) <= most * len(judgments):
        return
    cut = sum(judgment.finish_reason == "length" for judgment in nulls)
    advice = f"; {cut} of these answers were cut off: raise the judge's max_tokens" if cut else ""
    raise JudgeError(
        f"{len(nulls)} of {len(judgments)} judgments have no rating on the scale, more than the share {most:g} that "
        f"is allowed: {', '.join(judgment.id for judgment in nulls[:10])}{', …' if len(nulls) > 10 else ''}{advice}. "
        "Read the judge's answers (they are cached: a rerun that allows a share of 1 writes them without new calls). "
        "Then choose another judge or allow a larger share"
    )


def summarise(
    requests: Sequence[JudgeRequest],
    outcome: Outcome[Judgment],
    settings: JudgeSettings,
    started: StartedServer | None = None,
) -> dict[str, Any]:
    """Return a summary: the judge, numbers of ratings (n) and missing ratings (nulls) by kind, tokens and calls.

    ``usage`` counts all answers, including cached ones. ``calls`` is the number of calls of this run, ``cached`` that
    of the answers that were cached before. A server that this job starts has no ``base_url`` but a ``server``: name
    and version of its program.
    """
    ratings: dict[str, dict[str, int]] = {}
    for request, judgment in zip(requests, outcome.results, strict=True):
        counts = ratings.setdefault(request.rating, {"n": 0, "nulls": 0})
        counts["nulls" if judgment.rating is None else "n"] += 1
    usage = sum((judgment.usage for judgment in outcome.results), Usage())
    return {
        "judge": settings.model,
        **({"server": started.backend} if started else {"base_url": settings.base_url}),
        "ratings": ratings,
        "usage": asdict(usage),
        "calls": outcome.calls,
        "cached": outcome.cached,
    }


def check_requests(requests: Sequence[JudgeRequest]) -> None:
    """Check that requests can be asked.

    Raises:
        DataError: there are no requests, two have the same id, or a kind of rating is unknown.
    """
    if not requests:
        raise DataError("nothing to judge: there are no requests; generate answers first")
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            raise DataError(f"id {request.id!r} appears twice; every request needs its own id")
        if request.rating not in benchmarks.ratings():
            raise DataError(
                f"id {request.id!r}: rating {request.rating!r} is unknown; known are {', '.join(benchmarks.ratings())}"
            )
        seen.add(request.id)


def read_requests(path: str | Path, rating: str | None = None) -> list[JudgeRequest]:
    """Read requests from a JSONL file of ``{"id", "messages"}`` and optionally ``rating``.

    Args:
        path: the file.
        rating: kind of rating of requests that name none.

    Raises:
        DataError: a line is not a request, two requests have the same id, or there are no lines.
    """
    requests: dict[str, JudgeRequest] = {}
    for where, row in read_jsonl(path):
        request = _request(row, where, rating)
        if request.id in requests:
            raise DataError(f"{where}: id {request.id!r} appears twice; every request needs its own id")
        requests[request.id] = request
    return list(requests.values())


def _request(row: dict[str, Any], where: str, rating: str | None) -> JudgeRequest:
    try:
        messages = tuple(dict(message) for message in row["messages"])
        request = JudgeRequest(row["id"], messages, str(row.get("rating") or rating or ""))
        json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair cannot be sent
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{where}: not an object with id and messages ({type(error).__name__}: {error})") from error
    if not isinstance(request.id, str) or not request.id:
        raise DataError(f"{where}: the id is {request.id!r}; it must be a text")
    if not request.messages:
        raise DataError(f"{where}: id {request.id!r} has no messages")
    for message in request.messages:
        if set(message) != {"role", "content"} or not all(isinstance(value, str) for value in message.values()):
            raise DataError(f"{where}: id {request.id!r}: each message must have the texts role and content only")
        if message["role"] not in {"system", "user", "assistant"}:
            raise DataError(f"{where}: id {request.id!r}: role {message['role']!r} is not system, user or assistant")
    if request.rating not in benchmarks.ratings():
        raise DataError(
            f"{where}: id {request.id!r}: rating {request.rating!r} is unknown; name one of "
            f"{', '.join(benchmarks.ratings())} in the request, or one for all requests"
        )
    return request


def write_judgments(path: str | Path, judgments: Sequence[Judgment]) -> None:
    """Write one line of JSON per judgment, in order, atomically. The fields are those of :class:`Judgment`."""
    write_jsonl(path, map(asdict, judgments))


def read_judgments(path: str | Path) -> dict[str, Judgment]:
    """Read judgments by id, in the order of the file.

    Raises:
        DataError: a line is not a judgment, two judgments have the same id, or there are no lines.
    """
    judgments: dict[str, Judgment] = {}
    for where, row in read_jsonl(path):
        try:
            judgment = Judgment(**{**row, "usage": Usage(**row["usage"])})
        except (LookupError, TypeError) as error:
            raise DataError(f"{where}: not a judgment ({type(error).__name__}: {error}); judge again") from error
        if judgment.id in judgments:
            raise DataError(f"{where}: id {judgment.id!r} appears twice; judge again")
        judgments[judgment.id] = judgment
    return judgments
