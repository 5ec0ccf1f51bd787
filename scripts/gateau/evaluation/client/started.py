"""A server that a job starts for itself: on a free port of its own node, and only if there is something to ask.

The server listens on 127.0.0.1. Its output goes to a log file of its own. It ends with the job, however the job ends:
a guardian process watches over it, see :mod:`gateau.evaluation.client.guardian`.
"""

from __future__ import annotations

import json
import logging
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from gateau.command import progress
from gateau.errors import ServerError, SettingsError
from gateau.evaluation.client.start import Start
from gateau.provenance import ANSWERED_BY

logger = logging.getLogger(__name__)

_GUARDIAN = Path(__file__).with_name("guardian.py")
_HEALTH = ("/health", "/v1/models")  # a server of another kind may have the second one only
_PORT_IS_TAKEN = ("address already in use", "errno 98", "eaddrinuse")
_PORTS = 3  # ports that are tried
_LAST_LINES = 15  # of the log, in error messages
_PROBE_SECONDS = 5.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy is asked for this machine


class StartedServer:
    """A server of one model, which starts when it is first needed. Leaving the context ends it.

    Args:
        start: how it is started.
        model: folder or hub name of the model, which is also its name on the server.
        log: file for the server's output.

    Attributes:
        backend: name and version of the server's program, as far as they are known.
    """

    def __init__(self, start: Start, model: str, log: Path) -> None:
        self.start, self.model, self.log = start, model, log
        self.backend = start.backend
        self._guardian: subprocess.Popen[bytes] | None = None
        self._base_url = ""
        self._failure: Exception | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> StartedServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    @property
    def is_started(self) -> bool:
        """Whether the server was needed."""
        return self._guardian is not None

    def base_url(self) -> str:
        """Return the address of the server, which is started if it is not running yet. Any thread may ask.

        Raises:
            ServerError: the server ended, or is not ready in time. The message holds the end of its log.
            SettingsError: its program does not exist.
        """
        with self._lock:
            if self._failure is not None:  # of the first thread that asked
                raise self._failure
            if self._guardian is None:
                try:
                    self._start()
                except (ServerError, SettingsError) as error:
                    self._failure = error
                    raise
            return self._base_url

    def check(self) -> None:
        """Raise ServerError if the server has ended, or does not answer that it is well."""
        if self._guardian is None:
            return
        if self._has_ended(_PROBE_SECONDS):
            raise self._error("ended while it was asked")
        if not any(self._is_well() for _ in range(3)):
            raise self._error("no longer answers")

    def _start(self) -> None:
        for _ in range(_PORTS):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = int(free.getsockname()[1])
            command = self.start.command(self.model, port)
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.write_text(shlex.join(command) + "\n", encoding="utf-8")
            logger.info("starting %s; its log is %s", shlex.join(command), self.log)
            self._guardian = subprocess.Popen(
                [sys.executable, str(_GUARDIAN), str(self.log), *command],
                stdin=subprocess.PIPE,
                close_fds=False,  # the guardian inherits the lease, so the GPUs stay taken until the server has ended
                start_new_session=True,  # Ctrl-C ends this process, whose end the guardian notices
            )
            self._base_url = f"http://127.0.0.1:{port}/v1"
            for _ in progress(self._until_ready(), "waiting for the server", "s"):
                pass
            if not self._has_ended(0):
                self._ask_version()
                return
            if not any(sign in self._last_lines().lower() for sign in _PORT_IS_TAKEN):
                break
            logger.warning("port %d was taken meanwhile; trying another one", port)
        raise self._error("ended before it was ready")

    def _until_ready(self) -> Iterator[None]:
        """Yield once a second until the server is well or has ended.

        Raises:
            ServerError: the time is over.
        """
        deadline = time.monotonic() + self.start.seconds
        while not self._has_ended(1.0) and not self._is_well():
            if time.monotonic() > deadline:
                raise self._error(f"is not ready after {self.start.seconds:g} s; raise its seconds or look there")
            yield

    def _is_well(self) -> bool:
        root = self._base_url.removesuffix("/v1")
        for path in _HEALTH:
            try:
                with _DIRECT.open(root + path, timeout=_PROBE_SECONDS) as answer:
                    return bool(answer.status == 200)
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    return False
            except (OSError, ValueError):
                return False
        return False

    def _ask_version(self) -> None:
        """Complete the name of a server of an unknown package by the version that it tells, if it does."""
        if self.backend != self.start.start:
            return
        try:
            with _DIRECT.open(self._base_url.removesuffix("/v1") + "/version", timeout=_PROBE_SECONDS) as answer:
                self.backend = f"{self.start.start}, version {json.load(answer)['version']}"
        except (OSError, ValueError, LookupError, TypeError):
            return
        logger.info("%s%s", ANSWERED_BY, self.backend)

    def _has_ended(self, wait: float) -> bool:
        assert self._guardian is not None
        try:
            self._guardian.wait(wait)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _error(self, what: str) -> ServerError:
        self._end()
        return ServerError(
            f"the server {self.start.start} of {self.model} {what}. The end of its log {self.log}:\n"
            f"{self._last_lines()}"
        )

    def _last_lines(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LAST_LINES:])

    def _end(self) -> None:
        if self._guardian is not None:
            assert self._guardian.stdin is not None
            self._guardian.stdin.close()  # which the guardian notices
            self._guardian.wait()
