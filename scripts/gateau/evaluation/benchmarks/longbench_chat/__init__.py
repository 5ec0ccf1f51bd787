"""LongBench-Chat (arXiv 2401.18058): questions over long documents, rated by a judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateau.evaluation.answering.questions import Question
from gateau.evaluation.benchmarks.base import Benchmark, Options, PinnedFiles
from gateau.evaluation.benchmarks.longbench_chat.cases import RATING, judge_requests, prompt, read_cases
from gateau.evaluation.judging.ratings import Rating, last_double_brackets

# the protocol's owner, whose test cases are taken
_OWNERS = {"gateau": "GATEAU", "longalign": "LongAlign"}


def _questions(assets: Path, options: Options, tokenizer: object) -> Iterator[Question]:
    cases = [case for case in read_cases(assets) if options.get("language", "all") in ("all", case.language)]
    for case in cases:
        yield Question(
            benchmark="longbench_chat",
            item=str(case.idx),
            users=(prompt(case, options["protocol"]),),
            max_new_tokens=options["max_new_tokens"],
            record={
                "idx": case.idx,
                "query": case.query,
                "answer": case.answer,
                "document_sha256": case.document_sha256,
            },
        )


def _protocol(options: Options) -> str:
    return str(options.get("protocol", "gateau"))


BENCHMARK = Benchmark(
    name="longbench_chat",
    titles={"longbench_chat": "LongBench-Chat"},
    data="LongBench-Chat",
    own_data="own small set in LongBench-Chat's format",
    questions=_questions,
    pinned=PinnedFiles(
        data=lambda options: f"LongBench-Chat, test cases of {_OWNERS[_protocol(options)]}",
        files=lambda options: {
            "test_cases.json": f"longbench_chat_cases_{_protocol(options)}",
            "few_shots.json": "longbench_chat_few_shots",
            "prompt_fs.txt": "longbench_chat_judge",
        },
        options=("protocol",),
    ),
    judge_requests=judge_requests,
    ratings={RATING: Rating(1, 10, last_double_brackets)},
    score_arguments=lambda options: ["--language", options["language"]],
    known_count=50,
    published=lambda score: [("all", score, True)],
)
