"""The benchmarks: one module or package each, whose ``BENCHMARK`` describes it.

Every module in this package but ``base`` is a benchmark. Adding one therefore changes nothing else in the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from gateau.errors import SettingsError

if TYPE_CHECKING:
    from gateau.evaluation.benchmarks.base import Benchmark
    from gateau.evaluation.judging.ratings import Rating


@cache
def names() -> tuple[str, ...]:
    """Return the names of all benchmarks, sorted."""
    folder = Path(__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    return tuple(sorted(modules - {"__init__", "base"}))


def module_of(name: str) -> str:
    """Return the dotted name of a benchmark's module."""
    return f"{__name__}.{name}"


@cache
def load(name: str) -> Benchmark:
    """Return a benchmark by name.

    Raises:
        SettingsError: no benchmark has this name.
    """
    if name not in names():
        raise SettingsError(f"benchmark {name!r} does not exist; choose one of {', '.join(names())}")
    benchmark: Benchmark = import_module(module_of(name)).BENCHMARK
    return benchmark


@cache
def judged() -> tuple[str, ...]:
    """Return the names of the benchmarks that a judge can rate."""
    return tuple(name for name in names() if load(name).judge_requests)


@cache
def ratings() -> dict[str, Rating]:
    """Return all kinds of ratings by name, of all benchmarks."""
    return {kind: rating for name in names() for kind, rating in load(name).ratings.items()}


def of_measure(benchmark: str) -> Benchmark:
    """Return the benchmark whose measures carry this name; LongBench's may be ``longbench`` or ``longbench_e``."""
    return next(load(name) for name in names() if benchmark in load(name).titles)


def parts(benchmark: str, measure: str) -> Sequence[str]:
    """Return the names of the measures whose items a measure is the mean of; those of another program have none."""
    return of_measure(benchmark).parts(measure) if benchmark in titles() else (measure,)


def title(benchmark: str) -> str:
    """Return what tables call the benchmark that a measure names; one of another program has its own name."""
    return titles().get(benchmark, benchmark)


@cache
def titles() -> dict[str, str]:
    """Return what tables call each benchmark that a measure can name."""
    return {key: title for name in names() for key, title in load(name).titles.items()}
