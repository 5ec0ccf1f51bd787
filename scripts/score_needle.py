"""Score needle-in-a-haystack predictions by key phrases, without a judge: JSON, and if wished a table and a heatmap.

Each line of the predictions is a JSON object: length (tokens), depth (percent), pred (the answer's text), and an id
where a cell has several answers.
"""

import argparse
import logging
from dataclasses import asdict

from gateau.command import run
from gateau.evaluation.needle import (
    KEYS,
    contains_keys,
    needle_cells,
    needle_markdown,
    needle_mean,
    plot_needle,
    read_predictions,
)
from gateau.files import write_json, write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", required=True, help="jsonl")
    parser.add_argument(
        "--key",
        action="append",
        help=f"phrase that a right answer holds; all of them must be there ({', '.join(KEYS)})",
    )
    parser.add_argument("--title", default="Needle in a haystack", help="stands above the heatmap")
    parser.add_argument("--output", required=True, help="output: JSON with scores per answer, per cell and overall")
    parser.add_argument("--table", help="output: Markdown")
    parser.add_argument("--heatmap", help="output: PNG")
    args = parser.parse_args()

    keys = args.key or KEYS
    predictions = read_predictions(args.predictions)
    scores = [float(contains_keys(prediction.pred, keys)) for prediction in predictions]
    cells = needle_cells((one.length, one.depth, score) for one, score in zip(predictions, scores, strict=True))
    overall = needle_mean(cells)
    if empty := [f"{cell.length} at {cell.depth:g} %" for cell in cells if not cell.n]:
        logging.warning("no answer for %d of %d cells: %s", len(empty), len(cells), ", ".join(empty))
    write_json(
        args.output,
        {
            "keys": list(keys),
            "overall": asdict(overall),
            "cells": [asdict(cell) for cell in cells],
            "answers": [
                {"id": one.id, "length": one.length, "depth": one.depth, "score": score}
                for one, score in zip(predictions, scores, strict=True)
            ],
        },
    )
    if args.table:
        write_text(args.table, needle_markdown(cells, overall))
    if args.heatmap:
        plot_needle(cells, overall, args.title, args.heatmap)
    logging.info("%s: %s", args.predictions, overall)


if __name__ == "__main__":
    run(main)
