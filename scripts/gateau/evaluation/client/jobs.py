"""Many jobs that call a server at the same time, within limits of concurrency and tokens. Every answer is cached.

A job makes its calls one after another: a judge is asked again if its answer has no rating, and the second turn of a
conversation contains the answer to the first. A job is therefore a coroutine that gets a function ``ask``; retries, the
cache and the budget are handled here. Workers take one job after another. The setting ``concurrency`` limits the calls
that are in flight. There are more workers than that, so that writing an answer to the disk does not delay other calls.

A call that gets no answer in all its tries fails its own job only. If the server refuses a call, or if three jobs in a
row get no answer, no new calls are made. Calls in flight are still awaited and cached, because they are paid for.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Generic, TypeVar, cast

from gateau.command import progress
from gateau.errors import ServerError, UserError
from gateau.evaluation.client.calls import Answer, AnswerCache, Call, Usage
from gateau.evaluation.client.server import Server, ServerSettings, TryAgain
from gateau.evaluation.client.started import StartedServer

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF = 60.0  # seconds
_WORKERS_PER_CALL = 2
_WRITERS = 2  # threads that store answers; more of them would slow down the calls
_GIVEN_UP_IN_A_ROW = 3  # so many failed jobs without an answer in between mean that the server is down
_WORDS = {  # by role: description and unit of the progress bar, and the participle for messages
    "judge": ("judging", "rating", "judged"),
    "model server": ("answering", "answer", "answered"),
}

Result = TypeVar("Result")
Ask = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True)
class Job(Generic[Result]):
    """A task that calls the server.

    Attributes:
        name: for messages.
        run: coroutine that makes its calls with the given ``ask``, one after another, and returns a result.
    """

    name: str
    run: Callable[[Ask], Awaitable[Result]]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The results of all jobs.

    Attributes:
        results: in the order of the jobs.
        calls: number of calls that were made.
        cached: number of answers that were cached before.
        usage: tokens of the calls that were made.
    """

    results: list[Result]
    calls: int
    cached: int
    usage: Usage


def run_jobs(
    jobs: Iterable[Job[Result]],
    settings: ServerSettings,
    cache: AnswerCache,
    finished: Callable[[Result], None] | None = None,
    started: StartedServer | None = None,
) -> Outcome[Result]:
    """Run all jobs.

    Args:
        jobs: the jobs.
        settings: the server, and how it is called.
        cache: where answers are looked up and stored.
        finished: called with each result as soon as it is there, in any order.
        started: the server that this process starts once an answer is not cached; None if the server runs elsewhere.

    Raises:
        ServerError: the server refused or did not answer, or the budget would be exceeded. All answers are cached.
        SettingsError: the API key is malformed.
        UserError, OSError: raised by a job or by ``finished``, which also stops the run.
    """
    for name in ("openai", "httpx", "httpx2"):  # they log one line per call
        logging.getLogger(name).setLevel(logging.WARNING)
    return asyncio.run(_Run(list(jobs), settings, cache, finished, started).run())


class _GaveUp(Exception):
    """A call has used up its tries."""


class _Stopped(Exception):
    """Another job stopped the run."""


class _Budget:
    """Tokens spent and reserved, which together never exceed the limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.spent = 0
        self._reserved = 0
        self._changed = asyncio.Condition()

    async def reserve(self, tokens: int) -> None:
        """Reserve ``tokens``. If they do not fit, wait until calls in flight return unused tokens.

        Raises:
            ServerError: no call is in flight and the tokens still do not fit.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(tokens) or not self._reserved)
            if not self._fits(tokens):
                raise ServerError(
                    f"{(self.limit or 0) - self.spent} of the budget of {self.limit} tokens are left, but the next "
                    f"call may need {tokens}; raise the budget"
                )
            self._reserved += tokens

    def _fits(self, tokens: int) -> bool:
        return self.limit is None or self.spent + self._reserved + tokens <= self.limit

    async def settle(self, reserved: int, used: int) -> None:
        """Replace a reservation by the tokens that were used."""
        async with self._changed:
            self._reserved -= reserved
            self.spent += used
            self._changed.notify_all()


class _Run(Generic[Result]):
    """The state of a run, which its workers share: server, cache, budget, a pause, and the reason to stop."""

    def __init__(
        self,
        jobs: list[Job[Result]],
        settings: ServerSettings,
        cache: AnswerCache,
        finished: Callable[[Result], None] | None,
        started: StartedServer | None,
    ) -> None:
        self._jobs, self._settings, self._cache, self._finished = jobs, settings, cache, finished
        self._server, self._started = Server(settings, started), started
        self._writers = ThreadPoolExecutor(_WRITERS)
        self._budget = _Budget(settings.budget_tokens)
        self._results: dict[int, Result] = {}
        self._places = asyncio.Semaphore(settings.concurrency)
        self._same_call: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stop_reason: Exception | None = None
        self._stopped = asyncio.Event()
        self._resume_at = 0.0
        self._given_up: dict[str, str] = {}
        self._given_up_in_a_row = 0
        self._calls = self._cached = 0
        self._usage = Usage()

    async def run(self) -> Outcome[Result]:
        """Run all jobs; see :func:`run_jobs`."""
        doing, unit, _ = _WORDS[self._settings.role]
        waiting = iter(enumerate(self._jobs))
        bar = cast("Generator[None]", progress(repeat(None, len(self._jobs)), doing, unit, len(self._jobs)))
        with closing(bar), self._writers:
            next(bar, None)  # shows the bar; each further step counts one finished job
            async with self._server, asyncio.TaskGroup() as workers:
                for _ in range(min(_WORKERS_PER_CALL * self._settings.concurrency, len(self._jobs))):
                    workers.create_task(self._work(waiting, bar))
        logger.info(
            "%d calls answered, %d answers from the cache; %d prompt and %d completion tokens%s",
            self._calls, self._cached, self._usage.prompt_tokens, self._usage.completion_tokens,
            " (partly estimated, because the server did not count them)" if self._usage.estimated else "",
        )  # fmt: skip
        self._raise_failures()
        results = [self._results[position] for position in range(len(self._jobs))]
        return Outcome(results, self._calls, self._cached, self._usage)

    def _raise_failures(self) -> None:
        if self._stop_reason is not None and not isinstance(self._stop_reason, ServerError):
            raise self._stop_reason
        if self._stop_reason is not None:
            reason = str(self._stop_reason)
        elif self._given_up:
            first, why = next(iter(self._given_up.items()))
            reason = f"{len(self._given_up)} requests got no answer in {self._settings.tries} tries, {first!r}: {why}"
        else:
            return
        done = _WORDS[self._settings.role][2]
        log = f". The server's log is {self._started.log}" if self._started and self._started.is_started else ""
        raise ServerError(
            f"{reason}. {len(self._results)} of {len(self._jobs)} requests are {done} and cached; a rerun makes only "
            f"the missing calls{log}"
        )

    def _stop(self, reason: Exception) -> None:
        self._stop_reason = self._stop_reason or reason
        self._stopped.set()

    async def _work(self, waiting: Iterator[tuple[int, Job[Result]]], bar: Iterator[None]) -> None:
        for position, job in waiting:
            try:
                result = await job.run(partial(self._answer, job.name))
                if self._finished:
                    self._finished(result)
                self._results[position] = result
                next(bar, None)
            except _Stopped:
                return
            except (UserError, OSError) as error:
                self._stop(error)
                return
            except _GaveUp as error:
                self._given_up[job.name] = str(error)
                self._given_up_in_a_row += 1
                if self._given_up_in_a_row == _GIVEN_UP_IN_A_ROW:
                    self._stop(
                        ServerError(
                            f"{self._server.place} has not answered {_GIVEN_UP_IN_A_ROW} requests in a row, each "
                            f"in {self._settings.tries} tries ({error}); check that the {self._settings.role} runs "
                            "and can be reached"
                        )
                    )

    async def _answer(self, name: str, call: Call) -> Answer:
        """Return the answer from the cache or from the server. Jobs with the same question wait for one call."""
        key = call.key(self._settings.model)
        async with self._same_call[key]:
            answer = self._cache.get(key)
            if answer is not None:
                self._cached += 1
                return answer
            async with self._places:
                answer = await self._call(name, call)
            await asyncio.get_running_loop().run_in_executor(self._writers, self._cache.put, key, answer)
            self._calls += 1
            self._usage += answer.usage
            self._given_up_in_a_row = 0
            return answer

    async def _call(self, name: str, call: Call) -> Answer:
        bound = call.most_tokens
        reason = ""
        for tried in range(self._settings.tries):
            await self._wait_until(self._resume_at)
            await self._budget.reserve(bound)
            used = bound  # the cost of a call without a readable answer is unknown
            try:
                if self._stopped.is_set():
                    used = 0
                    raise _Stopped
                answer = await self._server.answer(call, name)
                used = bound if answer.usage.estimated else answer.usage.total
                return answer
            except TryAgain as retry:
                used = 0 if retry.free else bound
                reason = str(retry)
                logger.debug("%s: try %d: %s", name, tried + 1, reason)
                backoff = min(self._settings.backoff_seconds * 2**tried, _LONGEST_BACKOFF) * random.uniform(0.5, 1)
                wait = retry.wait
            except ServerError:
                used = 0
                raise
            finally:
                await self._budget.settle(bound, used)
            if wait is not None:  # all workers wait, and a server that asks for no pause gets one too
                self._resume_at = max(self._resume_at, time.monotonic() + max(wait, backoff))
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
