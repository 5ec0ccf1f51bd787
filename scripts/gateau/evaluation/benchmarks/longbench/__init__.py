"""LongBench (arXiv 2308.14508): 21 data sets with automatic scores, 12 of which a judge can rate too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateau.evaluation.benchmarks.base import Benchmark, Options, PinnedFiles
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS, RATED_CATEGORIES, category_means
from gateau.evaluation.benchmarks.longbench.judge import judge_requests
from gateau.evaluation.benchmarks.longbench.questions import prediction_rows, questions
from gateau.evaluation.judging.ratings import Rating, last_double_brackets

_DATA = "longbench_data"


def _unpack(places: Mapping[str, Path], folder: Path) -> None:
    from gateau.evaluation.benchmarks.longbench.archive import unpack

    unpack(places[_DATA], folder / "data")


def _is_rated(options: Options) -> bool:
    """Return whether a chosen data set is one of questions or summaries. LongBench-E is not rated."""
    if options.get("extended") == "only":
        return False
    chosen = DATA_SETS if options["data_sets"] == "all" else options["data_sets"]
    return any(DATA_SETS[name].category in RATED_CATEGORIES for name in chosen)


def _published(scores: Mapping[str, float]) -> list[tuple[str, float, bool]]:
    """Return the published scores of the data sets, and as headlines the means of the categories."""
    data_sets = {name: {"score": scores[name]} for name in DATA_SETS if name in scores}
    categories = category_means(data_sets, extended=False)
    return [
        *((name, row["score"], False) for name, row in data_sets.items()),
        *((category, row["score"], True) for category, row in categories.items()),
    ]


def _parts(measure: str) -> list[str]:
    """Return the data sets of a category, each of which weighs the same in its mean."""
    return [item.name for item in DATA_SETS.values() if item.category == measure] or [measure]


BENCHMARK = Benchmark(
    name="longbench",
    titles={"longbench": "LongBench", "longbench_e": "LongBench-E"},
    data="LongBench",
    own_data="own small set in LongBench's format",
    questions=questions,
    pinned=PinnedFiles(
        data=lambda options: "LongBench",
        files=lambda options: {
            "dataset2prompt.json": "longbench_prompts",
            "dataset2maxlen.json": "longbench_new_tokens",
            "prompt_for_qa.txt": "longbench_judge_qa",
            "prompt_for_sum.txt": "longbench_judge_summary",
        },
        unpacked=(_DATA,),
        unpack=_unpack,
    ),
    prediction_files=prediction_rows,
    judge_requests=judge_requests,
    ratings={
        "longbench_qa": Rating(1, 3, last_double_brackets),
        "longbench_summary": Rating(1, 5, last_double_brackets),
    },
    has_own_scores=True,
    is_rated=_is_rated,
    score_options=("protocol",),
    known_count=4750,
    published=_published,
    parts=_parts,
)
