"""MT-Bench (arXiv 2306.05685): 80 questions of two turns, rated by a judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateau.evaluation.answering.questions import Question
from gateau.evaluation.benchmarks.base import Benchmark, Options, PinnedFiles
from gateau.evaluation.benchmarks.mt_bench.questions import (
    RATING,
    judge_requests,
    prediction_rows,
    read_questions,
    temperature,
)
from gateau.evaluation.judging.ratings import Rating, first_brackets


def _questions(assets: Path, options: Options, tokenizer: object) -> Iterator[Question]:
    for question in read_questions(assets):
        yield Question(
            benchmark="mt_bench",
            item=str(question.question_id),
            users=tuple(question.turns),
            max_new_tokens=options["max_new_tokens"],
            temperature=temperature(question.category),
            seed=0,  # the number of the choice, as in FastChat
            record={"question_id": question.question_id, "category": question.category},
        )


BENCHMARK = Benchmark(
    name="mt_bench",
    titles={"mt_bench": "MT-Bench"},
    data="MT-Bench",
    own_data="own small set in MT-Bench's format",
    questions=_questions,
    pinned=PinnedFiles(
        data=lambda options: "MT-Bench",
        files=lambda options: {
            "question.jsonl": "mt_bench_questions",
            "judge_prompts.jsonl": "mt_bench_judge",
            "reference_answer.jsonl": "mt_bench_references",
        },
    ),
    prediction_files=prediction_rows,
    judge_requests=judge_requests,
    ratings={RATING: Rating(1, 10, first_brackets)},
    known_count=80,
)
