"""Scores of LongBench from a judge's ratings (arXiv 2410.15633).

A data set's score is the sum of its ratings in percent of the largest possible sum. Its lowest value is therefore not 0
but 33.3 (ratings from 1 to 3) or 20 (ratings from 1 to 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateau.evaluation.benchmarks import ratings as all_ratings
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS, category_means, item_id, read_predictions
from gateau.evaluation.benchmarks.longbench.judge import judged_files
from gateau.evaluation.benchmarks.longbench.scores import Scores, percent, percent_interval
from gateau.evaluation.judging.join import Ratings
from gateau.evaluation.results.intervals import bootstrap_interval

PROTOCOL = "judge"


def judged_scores(predictions: str | Path, ratings: Ratings) -> list[Scores]:
    """Return each file's ratings as shares of the largest rating, and the number of rows without a rating."""
    files = []
    for path, data_set, kind in judged_files(predictions):
        clusters = {item_id(path, one): one.cluster for one in read_predictions(path)}
        highest = all_ratings()[kind].highest
        rated = {item: value / highest for item in clusters if (value := ratings[item]) is not None}
        shared, nulls = [clusters[item] for item in rated], len(clusters) - len(rated)
        files.append(Scores(data_set, False, list(rated.values()), (), 0, list(rated), shared, nulls))
    return files


def judged_report(files: Sequence[Scores], judge: str) -> dict[str, Any]:
    """Return data sets and categories as they stand in ``scores.json``; scores and intervals are in percent."""
    found = {scores.data_set.name: scores for scores in files if scores.items}
    data_sets = {
        name: {
            "score": percent(found[name].items),
            "interval": percent_interval(bootstrap_interval(found[name].items, clusters=found[name].clusters)),
            "n": len(found[name].items),
            "nulls": found[name].nulls,
        }
        for name in DATA_SETS
        if name in found
    }
    return {"judge": judge, "data_sets": data_sets, "categories": category_means(data_sets, extended=False)}
