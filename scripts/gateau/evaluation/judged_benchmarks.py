"""The judged benchmarks: from a model's predictions and the benchmark's assets to what the judge is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gateau.evaluation import longbench_chat, longbench_judged, mt_bench, needle_judged
from gateau.evaluation.judging import JudgeRequest

JUDGED: dict[str, Callable[[Path, Path], list[JudgeRequest]]] = {
    "longbench": longbench_judged.judge_requests,
    "longbench_chat": longbench_chat.judge_requests,
    "needle": needle_judged.judge_requests,
    "mt_bench": mt_bench.judge_requests,
}
