"""Show Snakemake's progress as one line per finished job: ``snakemake --logger lines``, where output is no terminal.

Failed jobs with their logs, warnings and errors are printed as Snakemake prints them, and so is a dry run. The complete
log is in ``.snakemake/log``.
"""

from __future__ import annotations

import sys
import time
from logging import LogRecord

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

_USUAL = (
    "None", "Assuming unrestricted", "Building DAG", "host:", "Using shell", "Provided ", "Rules claiming",
    "Select jobs", "Execute ",
)  # fmt: skip


class LogHandler(LogHandlerBase):
    """Print a line for each finished job, and all that does not belong to the usual course of a run."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Prepare the state of a run."""
        self._started: dict[int, tuple[str, float]] = {}
        self._finished: list[int] = []

    def emit(self, record: LogRecord) -> None:
        """Print the record, or what it adds to the progress."""
        event, fields = getattr(record, "event", None), record.__dict__
        text = ""
        if self.common_settings.dryrun or event in (LogEvent.ERROR, LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR):
            text = self.format(record)
        elif event == LogEvent.JOB_INFO:
            name = " ".join([fields["rule_name"], *map(str, (fields["wildcards"] or {}).values())])
            self._started[fields["jobid"]] = (name, time.monotonic())
        elif event == LogEvent.JOB_FINISHED:
            self._finished.append(fields["job_id"])
        elif event == LogEvent.PROGRESS:
            text = self._progress(fields["done"], fields["total"])
        elif event is None and not record.getMessage().startswith(_USUAL):
            text = self.format(record)
        if text:
            print(text, file=sys.stderr, flush=True)

    def _progress(self, done: int, total: int) -> str:
        """Return a line for each job that has finished since the last call; ``done`` includes them."""
        now, lines = time.monotonic(), []
        for number, job in enumerate(self._finished, done - len(self._finished) + 1):
            name, started = self._started.pop(job, (f"job {job}", now))
            lines.append(
                f"{time.strftime('%H:%M:%S')}  {number:{len(str(total))}}/{total}  {name}, {now - started:.0f} s"
            )
        self._finished.clear()
        return "\n".join(lines)
