"""Score recall: the share of answers that are exactly the note that was asked for.

The script also works without the workflow. Each line of the predictions is a JSON object with id, answer (the note)
and pred (the answer's text).
"""

import logging

from gateau.command import argument_parser, run
from gateau.evaluation.benchmarks.base import predictions_file
from gateau.files import read_jsonl, text_of


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--predictions", required=True, help="predictions, jsonl, or a folder with predictions.jsonl")
    parser.add_argument("--data", default="Far recall", help="name of the items in tables")
    parser.add_argument("--output", required=True, help="output: scores, JSON")
    parser.add_argument("--items", help="output: scored items, jsonl (default: not written)")
    args = parser.parse_args()

    from gateau.evaluation.results.measures import ScoredItem, measure_items, write_items, write_scores

    items = []
    for where, row in read_jsonl(predictions_file(args.predictions)):
        answer, wanted = text_of(row, "pred", where), text_of(row, "answer", where)
        items.append(
            ScoredItem("recall", "far", "exact", text_of(row, "id", where), 100.0 * (answer.strip() == wanted))
        )
    measure = measure_items(items, unit="%", data=args.data, headline=True)
    write_scores(args.output, {}, [measure])
    if args.items:
        write_items(args.items, items)
    logging.info("%s: %.1f %% of %d notes", args.predictions, measure.score, measure.n)


if __name__ == "__main__":
    run(main)
