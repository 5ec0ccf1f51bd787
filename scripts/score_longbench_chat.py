"""Score LongBench-Chat: the mean of a judge's ratings over all, the English and the Chinese cases.

The script also works without the workflow.
"""

import logging

from gateau.command import argument_parser, run
from gateau.errors import DataError
from gateau.evaluation.benchmarks.longbench_chat.cases import (
    LANGUAGES,
    PROTOCOLS,
    RATING,
    read_predictions,
)
from gateau.files import write_text


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--predictions", required=True, help="predictions, jsonl, or a folder with predictions.jsonl")
    parser.add_argument("--judgments", required=True, help="judgments of scripts/judge.py, jsonl")
    parser.add_argument("--judge", required=True, help="name of the judge in tables")
    parser.add_argument("--protocol", choices=PROTOCOLS, required=True, help="how the model was asked")
    parser.add_argument(
        "--language", choices=("all", *LANGUAGES), default="all", help="which cases were asked (default: all)"
    )
    parser.add_argument(
        "--max-null-share", type=float, default=0.05, help="largest share of judgments without a rating, from 0 to 1"
    )
    parser.add_argument("--data", default="LongBench-Chat", help="name of the items in tables")
    parser.add_argument("--output", required=True, help="output: scores, JSON")
    parser.add_argument("--items", help="output: scored items, jsonl (default: not written)")
    parser.add_argument("--table", help="output: tables, Markdown (default: not written)")
    args = parser.parse_args()

    from gateau.evaluation.benchmarks.longbench_chat.scores import chat_scores
    from gateau.evaluation.judging.join import markdown_table, read_ratings
    from gateau.evaluation.results.measures import write_items, write_scores

    predictions = read_predictions(args.predictions)
    ratings = read_ratings(args.judgments, {one.id: RATING for one in predictions}, args.max_null_share)
    if other := [one.id for one in predictions if args.language not in ("all", one.language)]:
        raise DataError(f"{args.predictions}: idx {other[0]} is not {args.language}; take --language all")
    measures, items = chat_scores(
        predictions, ratings, args.protocol, data=args.data, judge=args.judge, language=args.language
    )
    report = {
        "protocol": args.protocol,
        "judge": args.judge,
        "cases": {language: sum(one.language == language for one in predictions) for language in LANGUAGES},
        "ratings": [{"idx": one.idx, "language": one.language, "rating": ratings[one.id]} for one in predictions],
    }
    write_scores(args.output, report, measures)
    if args.items:
        write_items(args.items, items)
    if args.table:
        write_text(
            args.table, markdown_table(f"LongBench-Chat, protocol {args.protocol}, judge {args.judge}", measures)
        )
    first = measures[0]
    logging.info("%s: %.2f (%.2f to %.2f), n = %d", args.predictions, first.score, first.low, first.high, first.n)


if __name__ == "__main__":
    run(main)
