"""Ask one model the questions of benchmarks. One job of a small model answers what its sister jobs would ask.

A job that has loaded a model uses it for the other benchmarks too: for at most five minutes, it answers questions of
the benchmarks whose jobs have not started. Their jobs then find their answers stored, as a whole file, and end without
loading anything. So a small model is loaded once for all benchmarks, although each benchmark has a job, inputs and
settings of its own, and a change of one benchmark reruns nothing of the others.

A whole file is found by a digest of everything that decides it and that is known without torch. Locks keep two jobs
from answering the same benchmark. They only save work: answers are the same with and without them.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from gateau.command import progress
from gateau.digests import files_digest, imported_sources, meaning_digest, settings_digest
from gateau.errors import UserError
from gateau.evaluation import benchmarks
from gateau.files import atomic_path
from gateau.machine import what_auto_depends_on
from gateau.model_files import ModelSpec
from gateau.places import PACKAGE

AHEAD_SECONDS = 300.0
WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Share:
    """One shard of the questions of one benchmark.

    Attributes:
        benchmark: name of the benchmark.
        assets: its folder of rule ``assets``.
        options: its options that decide the questions.
        shard: number of the shard, from 0.
        shards: number of shards.
    """

    benchmark: str
    assets: str
    options: Mapping[str, Any] = field(default_factory=dict)
    shard: int = 0
    shards: int = 1


@dataclass(frozen=True)
class Finished:
    """Finished files of one model under one set of settings.

    Attributes:
        directory: folder of the files, which many jobs can share.
        settings: all that decides an answer beside the share and the model's files, JSON-ready.
        spec: the resolved model.
        code: sources of the package that decide an answer beside those of the benchmark.
    """

    directory: Path
    settings: Mapping[str, Any]
    spec: ModelSpec
    code: Sequence[str]

    def file(self, share: Share) -> Path:
        """Return the place of a share's answers."""
        module = import_module(benchmarks.module_of(share.benchmark))
        sources = {PACKAGE / name for name in self.code} | imported_sources(Path(str(module.__file__)))
        decisive = {
            "model": self.spec.identity(),
            "share": [share.benchmark, dict(share.options), share.shard, share.shards, files_digest(share.assets)],
            "code": meaning_digest(sorted(sources)),
            "auto": what_auto_depends_on(),
            **self.settings,
        }
        return self.directory / f"{settings_digest(decisive, 32)}.jsonl"

    def take(self, share: Share, output: str) -> bool:
        """Copy a share's finished answers to ``output``. Return False if there are none."""
        if not self.file(share).is_file():
            return False
        with atomic_path(output) as temporary:
            shutil.copyfile(self.file(share), temporary)
        logging.info("%s: all answers were stored before", share.benchmark)
        return True

    def keep(self, share: Share, output: str) -> None:
        """Keep a share's finished answers, which are in ``output``."""
        with atomic_path(self.file(share)) as temporary:
            shutil.copyfile(output, temporary)

    @contextmanager
    def claimed(self, share: Share, wait: float = 0.0) -> Iterator[bool]:
        """Lock a share, and yield whether that was possible within ``wait`` seconds.

        The lock ends with the process. A share that another job finishes meanwhile is waited for no longer.
        """
        path = self.file(share)
        self.directory.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + wait
        with path.with_suffix(".lock").open("a") as handle:
            while not (locked := _lock(handle.fileno())) and time.monotonic() < until and not path.exists():
                time.sleep(0.2)
            yield locked


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # taken, or a file system without locks
        return False
    return True


def run_ahead(
    finished: Finished,
    shares: Iterable[Share],
    answer: Callable[[Share, Path, Callable[..., Iterator[Any]]], None],
    seconds: float = AHEAD_SECONDS,
) -> None:
    """Answer other shares with the model that is loaded, as far as the time allows.

    Args:
        finished: where finished files are.
        shares: the other shares.
        answer: answers a share and writes its file if all questions are answered, given the share, the file, and
            what yields the batches.
        seconds: no share and no batch is begun after this time.
    """
    deadline = time.monotonic() + seconds

    def in_time(batches: Sequence[Any], total: int) -> Iterator[Any]:
        # from the end, because the share's own job, should it start now, begins at the start
        for batch in progress(batches[::-1], "ahead", "batch", total):
            if time.monotonic() > deadline:
                return
            yield batch

    for share in shares:
        if time.monotonic() > deadline or not Path(share.assets).is_dir() or finished.file(share).exists():
            continue
        with finished.claimed(share) as mine:
            if mine:
                logging.info("%s: answered ahead, because the model is loaded", share.benchmark)
                try:
                    answer(share, finished.file(share), in_time)
                except UserError as error:  # the share's own job will fail with it
                    logging.warning("%s: not answered ahead: %s", share.benchmark, error)
