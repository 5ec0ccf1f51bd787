"""Scores of MT-Bench from a judge's ratings, and judgments as FastChat stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateau.evaluation.benchmarks.mt_bench.questions import PROTOCOL, TURNS, Question, item_id, prompt_name
from gateau.evaluation.judging.join import Ratings, rated_groups
from gateau.evaluation.judging.judge import Judgment
from gateau.evaluation.judging.requests import JudgeRequest
from gateau.evaluation.results.measures import Measure, ScoredItem
from gateau.files import Row

_NULL_SCORE = -1


def mt_bench_scores(
    questions: Sequence[Question], ratings: Ratings, *, data: str, judge: str
) -> tuple[list[Measure], list[ScoredItem]]:
    """Return the mean rating (points from 1 to 10) of all rows, of each turn and of each category, and their items.

    The two turns of a question are resampled together.
    """
    clusters = {item_id(one.question_id, turn): str(one.question_id) for one in questions for turn in TURNS}
    groups: list[tuple[str, bool, Ratings]] = [("average", True, ratings)]
    for turn in TURNS:
        ids = [item_id(question.question_id, turn) for question in questions]
        groups.append((f"turn {turn}", False, {item: ratings[item] for item in ids}))
    for category in dict.fromkeys(question.category for question in questions):
        ids = [item_id(one.question_id, turn) for one in questions if one.category == category for turn in TURNS]
        groups.append((category, False, {item: ratings[item] for item in ids}))
    return rated_groups("mt_bench", PROTOCOL, groups, data=data, judge=judge, clusters=clusters)


def judgment_rows(
    questions: Sequence[Question],
    model: str,
    requests: Sequence[JudgeRequest],
    judgments: Mapping[str, Judgment],
    judge: str,
    tstamp: float = 0.0,
) -> list[Row]:
    """Return judgments as FastChat's single mode stores them. A missing rating is -1, which FastChat's tools skip."""
    asked = {one.id: one.messages[-1]["content"] for one in requests}
    rows = []
    for question in questions:
        for turn in TURNS:
            item = item_id(question.question_id, turn)
            rating = judgments[item].rating
            rows.append(
                {
                    "question_id": question.question_id,
                    "model": model,
                    "judge": [judge, prompt_name(question.category, turn)],
                    "user_prompt": asked[item],
                    "judgment": judgments[item].text,
                    "score": _NULL_SCORE if rating is None else _plain(rating),
                    "turn": turn,
                    "tstamp": float(tstamp),
                }
            )
    return rows


def _plain(rating: float) -> int | float:
    """Return a whole rating as a whole number, as FastChat reads it from the judge's text."""
    return int(rating) if float(rating).is_integer() else rating
