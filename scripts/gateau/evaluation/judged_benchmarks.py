"""The judged benchmarks: from a model's predictions and the benchmark's assets to what the judge is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gateau.evaluation.judging import JudgeRequest

JUDGED: dict[str, Callable[[Path, Path], list[JudgeRequest]]] = {}
