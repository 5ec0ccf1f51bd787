"""Ratings by a judge: what is asked, how a rating is read, and what happens when there is none.

An answer without a rating on its scale is asked for again under the next attempt number, then stays null: never zero,
never dropped. More nulls than allowed are refused, so that no score is a mean over the ratings that happened to come.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from gateau.errors import DataError, JudgeError
from gateau.evaluation import benchmarks
from gateau.evaluation.client.calls import CHAT, AnswerCache, Call, Usage
from gateau.evaluation.client.jobs import Ask, Job, Outcome, run_jobs
from gateau.evaluation.client.server import ServerSettings
from gateau.evaluation.judging.requests import JudgeRequest
from gateau.files import write_text


@dataclass(frozen=True)
class JudgeSettings(ServerSettings):
    """Who judges and how. Without a rating the judge is asked ``null_retries`` more times.

    ``max_tokens`` bounds one answer; ``extra_body`` may take it out and bound the answer by ``max_completion_tokens``.
    """

    role: Literal["judge", "model server"] = "judge"
    temperature: float = 0.0
    seed: int | None = None  # attempt n is sent seed + n, so that asking again can change the answer
    max_tokens: int = 1024
    null_retries: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("max_tokens")
        self._check("temperature", "null_retries", zero=True)
        judge_call(JudgeRequest("", (), rating=""), self)  # an extra_body without a bound is refused before any work


@dataclass(frozen=True)
class Judgment:
    """The last answer to a request and its rating; ``usage`` counts all ``attempts`` answers."""

    id: str
    rating: float | None
    text: str
    attempts: int
    usage: Usage
    finish_reason: str | None


def judge_call(request: JudgeRequest, settings: JudgeSettings, attempt: int = 0) -> Call:
    """What the judge is asked; nothing of the request's id is in it."""
    body: dict[str, Any] = {
        "messages": list(request.messages),
        "temperature": float(settings.temperature),
        "max_tokens": settings.max_tokens,
    }
    if settings.seed is not None:
        body["seed"] = settings.seed + attempt
    return settings.call(CHAT, body, attempt=attempt)


def judge(requests: Sequence[JudgeRequest], settings: JudgeSettings, cache: AnswerCache) -> Outcome[Judgment]:
    """Ask for every rating, in the requests' order.

    Raises:
        ServerError: the judge refused, did not answer, or the budget would be exceeded; what was answered is cached.
        DataError: requests that cannot be asked, see :func:`check_requests`.
    """
    check_requests(requests)
    return run_jobs((Job(request.id, partial(_rate, request, settings)) for request in requests), settings, cache)


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
    """What a run would call. Prompt tokens are estimated from bytes, completion tokens are the most there can be."""

    cached: int
    calls: int
    usage: Usage


def forecast(requests: Sequence[JudgeRequest], settings: JudgeSettings, cache: AnswerCache) -> Forecast:
    """What judging would call, without calling; answers without a rating that would be asked again are not foreseen."""
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


def summarise(requests: Sequence[JudgeRequest], outcome: Outcome[Judgment], settings: JudgeSettings) -> dict[str, Any]:
    """Who judged; by kind of rating how many there are (n) and how many are missing (nulls); tokens and calls.

    ``usage`` counts all answers, cached ones too; ``calls`` were made by this run, ``cached`` answers were there.
    """
    ratings: dict[str, dict[str, int]] = {}
    for request, judgment in zip(requests, outcome.results, strict=True):
        counts = ratings.setdefault(request.rating, {"n": 0, "nulls": 0})
        counts["nulls" if judgment.rating is None else "n"] += 1
    usage = sum((judgment.usage for judgment in outcome.results), Usage())
    return {
        "judge": settings.model,
        "base_url": settings.base_url,
        "ratings": ratings,
        "usage": asdict(usage),
        "calls": outcome.calls,
        "cached": outcome.cached,
    }


def check_requests(requests: Sequence[JudgeRequest]) -> None:
    """Raises DataError when there are no requests, two of one id, or one of an unknown rating."""
    if not requests:
        raise DataError("nothing to judge: there are no requests; generate answers first")
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            raise DataError(f"id {request.id!r} stands twice; every request needs its own id")
        if request.rating not in benchmarks.ratings():
            raise DataError(
                f"id {request.id!r}: rating {request.rating!r} is none of {', '.join(benchmarks.ratings())}"
            )
        seen.add(request.id)


def read_requests(path: str | Path, rating: str | None = None) -> list[JudgeRequest]:
    """Requests of a jsonl file of ``{"id", "messages"}`` and perhaps ``rating``, which else is the one given.

    Raises:
        DataError: a line that is no such request, an id that stands twice, or no line at all.
    """
    requests: dict[str, JudgeRequest] = {}
    for where, row in _rows(path, "id and messages"):
        request = _request(row, where, rating)
        if request.id in requests:
            raise DataError(f"{where}: id {request.id!r} stands twice; every request needs its own id")
        requests[request.id] = request
    if not requests:
        raise DataError(f"{path}: no requests; each line is an object with id and messages")
    return list(requests.values())


def _request(row: dict[str, Any], where: str, rating: str | None) -> JudgeRequest:
    try:
        messages = tuple(dict(message) for message in row["messages"])
        request = JudgeRequest(row["id"], messages, str(row.get("rating") or rating or ""))
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
    if request.rating not in benchmarks.ratings():
        raise DataError(
            f"{where}: id {request.id!r}: rating {request.rating!r} is none of "
            f"{', '.join(benchmarks.ratings())}; name one in the request, or one for all requests"
        )
    return request


def write_judgments(path: str | Path, judgments: Sequence[Judgment]) -> None:
    """Write ``{"id", "rating", "text", "attempts", "usage", "finish_reason"}`` line by line, in order, atomically."""
    write_text(path, "".join(json.dumps(asdict(judgment), ensure_ascii=False) + "\n" for judgment in judgments))


def read_judgments(path: str | Path) -> dict[str, Judgment]:
    """Judgments by id, in the file's order.

    Raises:
        DataError: a line that is no judgment, or an id that stands twice.
    """
    judgments: dict[str, Judgment] = {}
    for where, row in _rows(path, "a judgment's fields"):
        try:
            judgment = Judgment(**{**row, "usage": Usage(**row["usage"])})
        except (LookupError, TypeError) as error:
            raise DataError(f"{where}: no judgment ({type(error).__name__}: {error}); judge again") from error
        if judgment.id in judgments:
            raise DataError(f"{where}: id {judgment.id!r} stands twice; judge again")
        judgments[judgment.id] = judgment
    return judgments


def _rows(path: str | Path, content: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a jsonl file with where each stands; empty lines are skipped."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}:{number}: no object with {content} ({type(error).__name__}: {error})") from error
