"""Score needle-in-a-haystack predictions by key phrases and, with judgments, by a judge's ratings.

The script also works without the workflow. Each line of the predictions is a JSON object with length (tokens), depth
(percent), pred (the answer's text), and an id if a cell has several answers. Answers about several needles also have
needle (the hidden sentence).
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gateau.command import argument_parser, run
from gateau.errors import DataError
from gateau.evaluation.benchmarks.base import predictions_file
from gateau.evaluation.benchmarks.needle import judge as needle_judged
from gateau.evaluation.benchmarks.needle.predictions import NeedlePrediction, read_predictions
from gateau.evaluation.benchmarks.needle.settings import KEYS, contains_keys
from gateau.files import write_text

if TYPE_CHECKING:
    from gateau.evaluation.benchmarks.needle.scores import NeedleCell, NeedleMean
    from gateau.evaluation.judging.join import Ratings


def main() -> None:
    args = _arguments()

    from gateau.evaluation.benchmarks.needle.scores import (
        means_of_needles,
        needle_markdown,
        needle_mean,
        needle_measures,
        plot_needle,
    )
    from gateau.evaluation.judging.join import read_ratings
    from gateau.evaluation.results.measures import write_items, write_scores

    predictions = read_predictions(predictions_file(args.predictions))
    keys = _keys(predictions, args)
    contained = {one.id: float(contains_keys(one.pred, keys[one.needle])) for one in predictions}
    left_out = sorted(set(args.lengths) - {one.length for one in predictions})
    cells = _cells(predictions, contained, "answer")
    overall = needle_mean(predictions, contained)
    measures, items = needle_measures(predictions, contained, "containment", data=args.data, left_out=left_out)
    report = {
        "needles": [{"needle": needle, "keys": list(phrases)} for needle, phrases in keys.items()],
        "left_out_lengths": left_out,
        **_report(predictions, contained, cells, overall),
    }
    tables = [
        "## Needle, protocol containment: share of answers with all key phrases\n",
        needle_markdown(cells, overall, means_of_needles(predictions, contained), left_out),
    ]
    logging.info("%s: containment: %s", args.predictions, overall)

    if args.judgments:
        rated = {one.id: needle_judged.RATING for one in predictions}
        ratings = read_ratings(args.judgments, rated, args.max_null_share)
        judged_cells = _cells(predictions, ratings, "rating")
        judged = needle_mean(predictions, ratings)
        more_measures, more_items = needle_measures(
            predictions, ratings, "judge", data=args.data, judge=args.judge, left_out=left_out
        )
        measures, items = [*measures, *more_measures], [*items, *more_items]
        report["judge"] = {"judge": args.judge, **_report(predictions, ratings, judged_cells, judged)}
        nulls = sum(rating is None for rating in ratings.values())
        tables += [
            f"## Needle, protocol judge: ratings from 1 to 10 by {args.judge}; {nulls} answers without a rating\n",
            needle_markdown(judged_cells, judged, means_of_needles(predictions, ratings), left_out),
        ]
        logging.info("%s: judge: %s", args.predictions, judged)

    write_scores(args.output, report, measures)
    if args.items:
        write_items(args.items, items)
    if args.table:
        write_text(args.table, "\n".join(tables))
    if args.heatmap:
        plot_needle(cells, overall, args.title, args.heatmap)
    if args.judge_heatmap:
        plot_needle(judged_cells, judged, f"{args.title}, rated by {args.judge}", args.judge_heatmap, highest=10.0)


def _keys(predictions: Iterable[NeedlePrediction], args: argparse.Namespace) -> dict[str | None, Sequence[str]]:
    """Return the key phrases of each needle that was asked for, in the order of the predictions."""
    asked = dict.fromkeys(one.needle for one in predictions)
    if not args.needles:
        return dict.fromkeys(asked, args.key or KEYS)
    known = {one["needle"]: one["keys"] for one in args.needles}
    if unknown := [needle for needle in asked if needle not in known]:
        raise DataError(f"{args.predictions}: --needles has no keys of the needle {unknown[0]!r}; generate them again")
    return {needle: known[needle] for needle in asked}


def _cells(predictions: Iterable[NeedlePrediction], scores: Ratings, what: str) -> list[NeedleCell]:
    from gateau.evaluation.benchmarks.needle.scores import needle_cells

    cells = needle_cells((one.length, one.depth, scores[one.id]) for one in predictions)
    if empty := [f"{cell.length} at {cell.depth:g} %" for cell in cells if not cell.n]:
        logging.warning("no %s for %d of %d cells: %s", what, len(empty), len(cells), ", ".join(empty))
    return cells


def _report(
    predictions: Iterable[NeedlePrediction], scores: Ratings, cells: Iterable[NeedleCell], overall: NeedleMean
) -> dict[str, Any]:
    return {
        "overall": asdict(overall),
        "cells": [asdict(cell) for cell in cells],
        "answers": [
            {"id": one.id, "length": one.length, "depth": one.depth, "score": scores[one.id]} for one in predictions
        ],
    }


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--predictions", required=True, help="predictions, jsonl, or a folder with predictions.jsonl")
    parser.add_argument(
        "--key",
        action="append",
        help=f"phrase that a right answer contains; can be repeated, and all are required (default: {', '.join(KEYS)})",
    )
    parser.add_argument(
        "--needles",
        type=json.loads,
        help="JSON list of objects with needle and keys: the phrases of each needle, instead of --key",
    )
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=[],
        help="lengths in tokens that should have been asked; a note names those without answers (default: not named)",
    )
    parser.add_argument("--judgments", help="judgments of scripts/judge.py, jsonl (default: none)")
    parser.add_argument("--judge", help="name of the judge in tables; required with --judgments")
    parser.add_argument(
        "--max-null-share", type=float, default=0.05, help="largest share of judgments without a rating, from 0 to 1"
    )
    parser.add_argument("--data", default="Needle", help="name of the items in tables")
    parser.add_argument("--title", default="Needle in a haystack", help="title of the heatmaps")
    parser.add_argument("--output", required=True, help="output: scores of each answer, of each cell and overall, JSON")
    parser.add_argument("--items", help="output: scored items, jsonl (default: not written)")
    parser.add_argument("--table", help="output: tables, Markdown (default: not written)")
    parser.add_argument("--heatmap", help="output: heatmap of the scores, PNG (default: not written)")
    parser.add_argument("--judge-heatmap", help="output: heatmap of the ratings, PNG (default: not written)")
    args = parser.parse_args()
    if bool(args.judgments) != bool(args.judge):
        parser.error("--judgments and --judge must be given together")
    if args.judge_heatmap and not args.judgments:
        parser.error("--judge-heatmap requires --judgments")
    return args


if __name__ == "__main__":
    run(main)
