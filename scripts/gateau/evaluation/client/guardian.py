"""Run a command, and end it with all its descendants when the process that asked for it is gone.

Usage: ``guardian.py LOG COMMAND…``. Standard input is a pipe whose other end the asking process holds. The kernel
closes that end however the process ends, also after ``kill -9``. Descendants that have left the command's process
group, or whose parent has died, are ended too, because the kernel makes this process their parent
(PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

import psutil

_SUBREAPER, _DIE_WITH_PARENT = 36, 1  # prctl's PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG
_SECONDS_TO_END = 10.0  # after SIGTERM
_POLL_SECONDS = 0.2


def main() -> int:
    """Return the exit code of the command, or 128 + number of the signal that ended it."""
    log, *command = sys.argv[1:]
    prctl = ctypes.CDLL(None).prctl
    prctl(_SUBREAPER, 1)
    with open(log, "ab") as handle:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: prctl(_DIE_WITH_PARENT, signal.SIGKILL),
        )
    while server.poll() is None and not select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
        pass
    _end_descendants(server)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def _end_descendants(server: subprocess.Popen[bytes]) -> None:
    """End the server and all other descendants: ask with SIGTERM, and kill those that are left after ten seconds."""
    deadline = time.monotonic() + _SECONDS_TO_END
    asked: set[psutil.Process] = set()
    while (server.poll() is None) | bool(descendants := psutil.Process().children(recursive=True)):
        is_late = time.monotonic() > deadline
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                if process.pid != server.pid and process.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(process.pid, os.WNOHANG)
                elif is_late:
                    process.kill()
                elif process not in asked:
                    process.terminate()
        asked |= set(descendants)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
