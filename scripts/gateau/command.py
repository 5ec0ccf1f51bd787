"""What all scripts of this project share: the look of their help, their log, their progress bars and their errors."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

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


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the description, and append each option's default to its help."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        is_shown = "(default" in text or "%(default)" in text
        if is_shown or default is None or isinstance(default, bool) or default in ("", [], (), argparse.SUPPRESS):
            return text
        return f"{text} (default: %(default)s)"


def argument_parser(documentation: str | None, **options: Any) -> argparse.ArgumentParser:
    """Return an argument parser whose help is the script's docstring, and which shows the default of each option.

    A default is shown unless it is None, a truth value or empty, or the option's help already contains ``(default``.

    Args:
        documentation: the script's ``__doc__``.
        options: further arguments of :class:`argparse.ArgumentParser`.
    """
    return argparse.ArgumentParser(description=documentation, formatter_class=_HelpFormatter, **options)


def run(main: Callable[[], None]) -> None:
    """Set up the log, name the place where the process runs, and call ``main``.

    A :class:`~gateau.errors.UserError` or a failed write ends the process with exit code 1 and one plain message. Any
    other exception keeps its traceback. A call for help logs nothing.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    asks_for_help = not {"-h", "--help"}.isdisjoint(sys.argv[1:])
    # ranks stay silent: the process that starts them on this node has logged the line already
    if not (asks_for_help or sys.stderr.isatty() or "LOCAL_RANK" in os.environ):
        logging.info("running on %s", place())
    try:
        main()
    except (UserError, OSError) as error:
        advice = _ADVICE.get(error.errno or 0) if isinstance(error, OSError) else None
        again = f": {advice}, then run the same command again; what is finished is kept" if advice else ""
        logging.error("%s%s", error, again)
        sys.exit(1)


def place() -> str:
    """Return host, SLURM job and GPUs of this process in one line, for its log."""
    given = os.environ
    parts = [f"host {socket.gethostname()}"]
    if "SLURM_JOB_ID" in given:
        parts.append(f"SLURM job {given['SLURM_JOB_ID']} node {given.get('SLURMD_NODENAME', '?')}")
    # SLURM numbers all GPUs of the node, CUDA only those that the job may use
    if gpus := given.get("SLURM_STEP_GPUS") or given.get("SLURM_JOB_GPUS"):
        parts.append(f"GPUs {gpus}")
    if "CUDA_VISIBLE_DEVICES" in given:
        parts.append(f"CUDA_VISIBLE_DEVICES {given['CUDA_VISIBLE_DEVICES'] or 'empty'}")
    return ", ".join(parts)


def progress(items: Iterable[Item], description: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """Yield ``items`` and show their number, rate and time left on standard error.

    Args:
        items: what is yielded.
        description: name of the work, in front of the numbers.
        unit: name of one item, for the rate.
        total: number of items; taken from ``items`` if it has a length.
    """
    yield from Bar(items, desc=description, unit=unit, total=total)


class Bar(tqdm):  # type: ignore[misc]
    """The bar of :func:`progress`, also for libraries that make their own: a log file gets a line every ten seconds."""

    def __init__(self, *items: Any, **options: Any) -> None:
        interactive = sys.stderr.isatty()
        look = {
            "dynamic_ncols": interactive, "ascii": not interactive, "mininterval": 0.2 if interactive else 10.0,
            "maxinterval": 10.0, "file": sys.stderr if interactive else _LineByLine(),
        }  # fmt: skip
        super().__init__(*items, **{**options, **look, **({} if interactive else {"bar_format": _LOG_FORMAT})})


_LOG_FORMAT = "{desc}: {n_fmt}/{total_fmt} {percentage:3.0f}% [{elapsed}<{remaining}, {rate_fmt}]"


class _LineByLine:
    """A stream that writes each state of a bar as a line of its own, so that a log file stays readable."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()
