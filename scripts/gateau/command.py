"""What every script of this project shares: how it starts, how it reports progress, how it fails."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from gateau.errors import UserError

Item = TypeVar("Item")

_ADVICE = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there or have the quota raised",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EACCES: "give this user the right to read and write it and its folder",
    errno.EPERM: "give this user the right to read and write it and its folder",
    errno.EROFS: "have its file system mounted writable, or choose another place in the configuration",
}


def run(main: Callable[[], None]) -> None:
    """Call ``main``; a :class:`~gateau.errors.UserError` or a failed write ends the process with one plain message."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    if not sys.stderr.isatty() and "LOCAL_RANK" not in os.environ:  # one line per node, not per rank
        logging.info("running on %s", place())
    try:
        main()
    except (UserError, OSError) as error:
        advice = _ADVICE.get(error.errno or 0) if isinstance(error, OSError) else None
        again = f": {advice}, then run the same command again; what is finished is kept" if advice else ""
        logging.error("%s%s", error, again)
        sys.exit(1)


def place() -> str:
    """Host, SLURM job and GPUs of this process, for its log."""
    given = os.environ
    parts = [f"host {socket.gethostname()}"]
    if "SLURM_JOB_ID" in given:
        parts.append(f"SLURM job {given['SLURM_JOB_ID']} node {given.get('SLURMD_NODENAME', '?')}")
    # how SLURM numbers the node's GPUs; CUDA counts those that a job may see
    if gpus := given.get("SLURM_STEP_GPUS") or given.get("SLURM_JOB_GPUS"):
        parts.append(f"GPUs {gpus}")
    if "CUDA_VISIBLE_DEVICES" in given:
        parts.append(f"CUDA_VISIBLE_DEVICES {given['CUDA_VISIBLE_DEVICES'] or 'empty'}")
    return ", ".join(parts)


def progress(items: Iterable[Item], description: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """``items`` with a bar on standard error: rate and time left; in a log file, a line every ten seconds."""
    interactive = sys.stderr.isatty()
    yield from tqdm(
        items, desc=description, unit=unit, total=total, dynamic_ncols=interactive, ascii=not interactive,
        mininterval=0.2 if interactive else 10.0, maxinterval=10.0, bar_format=None if interactive else _LOG_FORMAT,
        file=sys.stderr if interactive else _LineByLine(),
    )  # fmt: skip


_LOG_FORMAT = "{desc}: {n_fmt}/{total_fmt} {percentage:3.0f}% [{elapsed}<{remaining}, {rate_fmt}]"


class _LineByLine:
    """Turns a bar's carriage returns into lines, so that a log file stays readable."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()
