"""What every script of this project shares: how it starts, how it reports progress, how it fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from gateau.errors import UserError

Item = TypeVar("Item")


def run(main: Callable[[], None]) -> None:
    """Call ``main``; a :class:`~gateau.errors.UserError` or a failed write ends the process with one plain message."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    try:
        main()
    except (UserError, OSError) as error:
        logging.error("%s", error)
        sys.exit(1)


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
