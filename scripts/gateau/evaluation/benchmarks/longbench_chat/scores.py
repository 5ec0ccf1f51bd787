"""Scores of LongBench-Chat from a judge's ratings."""

from __future__ import annotations

from collections.abc import Sequence

from gateau.evaluation.benchmarks.longbench_chat.cases import LANGUAGES, ChatPrediction, Protocol
from gateau.evaluation.judging.join import Ratings, rated_groups
from gateau.evaluation.results.measures import Measure, ScoredItem


def chat_scores(
    predictions: Sequence[ChatPrediction],
    ratings: Ratings,
    protocol: Protocol,
    *,
    data: str,
    judge: str,
    language: str = "all",
) -> tuple[list[Measure], list[ScoredItem]]:
    """Return the mean rating (points from 1 to 10) of all, the English and the Chinese cases, and their items.

    If only the cases of one ``language`` were asked, its mean is the headline, and there is no mean of all. Cases about
    one document are resampled together.
    """
    groups: list[tuple[str, bool, Ratings]] = [("all", True, ratings)] * (language == "all")
    for name in LANGUAGES:
        ids = [one.id for one in predictions if one.language == name]
        groups.append((name, name == language, {item: ratings[item] for item in ids}))
    clusters = {one.id: one.cluster for one in predictions}
    return rated_groups("longbench_chat", protocol, groups, data=data, judge=judge, clusters=clusters)
