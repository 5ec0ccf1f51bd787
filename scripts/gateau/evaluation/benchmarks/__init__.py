"""The benchmarks: one module or package each, whose ``BENCHMARK`` describes it.

A benchmark is found by its file here. Adding one therefore changes nothing else in this package.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from gateau.errors import SettingsError

if TYPE_CHECKING:
    from gateau.evaluation.benchmarks.base import Benchmark
    from gateau.evaluation.judging.ratings import Rating


@cache
def names() -> tuple[str, ...]:
    """Return the names of all benchmarks, sorted."""
    return tuple(sorted(one.name for one in pkgutil.iter_modules(__path__) if one.name != "base"))


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


@cache
def titles() -> dict[str, str]:
    """Return what tables call each benchmark that a measure can name."""
    return {key: title for name in names() for key, title in load(name).titles.items()}
