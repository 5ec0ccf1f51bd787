"""The judged benchmarks: from a model's predictions and the benchmark's assets to what the judge is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gateau.evaluation.benchmarks.longbench import judge as longbench_judged
from gateau.evaluation.benchmarks.longbench_chat import cases as longbench_chat
from gateau.evaluation.benchmarks.mt_bench import questions as mt_bench
from gateau.evaluation.benchmarks.needle import judge as needle_judged
from gateau.evaluation.judging.judge import JudgeRequest

JUDGED: dict[str, Callable[[Path, Path], list[JudgeRequest]]] = {
    "longbench": longbench_judged.judge_requests,
    "longbench_chat": longbench_chat.judge_requests,
    "needle": needle_judged.judge_requests,
    "mt_bench": mt_bench.judge_requests,
}
