"""Score MT-Bench: the mean of a judge's ratings over all rows, of each turn, and of each category.

The script also works without the workflow.
"""

import logging

from gateau.command import argument_parser, run
from gateau.evaluation.benchmarks.mt_bench.questions import (
    PROTOCOL,
    RATING,
    TURNS,
    item_id,
    judge_requests,
    read_answers,
    read_questions,
)
from gateau.evaluation.judging.judge import read_judgments
from gateau.files import write_jsonl, write_text


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--predictions", required=True, help="FastChat's model_answer file, or a folder that holds only this file"
    )
    parser.add_argument("--judgments", required=True, help="judgments of scripts/judge.py, jsonl")
    parser.add_argument("--assets", required=True, help="folder of questions, references and the judge's prompts")
    parser.add_argument("--judge", required=True, help="name of the judge in tables")
    parser.add_argument(
        "--max-null-share", type=float, default=0.05, help="largest share of judgments without a rating, from 0 to 1"
    )
    parser.add_argument("--data", default="MT-Bench", help="name of the items in tables")
    parser.add_argument("--output", required=True, help="output: scores, JSON")
    parser.add_argument("--items", help="output: scored items, jsonl (default: not written)")
    parser.add_argument("--table", help="output: tables, Markdown (default: not written)")
    parser.add_argument(
        "--fastchat-judgments",
        help="output: judgments as FastChat's single mode stores them, jsonl (default: not written)",
    )
    args = parser.parse_args()

    from gateau.evaluation.benchmarks.mt_bench.scores import judgment_rows, mt_bench_scores
    from gateau.evaluation.judging.join import markdown_table, read_ratings
    from gateau.evaluation.results.measures import write_items, write_scores

    questions, answers = read_questions(args.assets), read_answers(args.predictions)
    requests = judge_requests(args.predictions, args.assets)
    ratings = read_ratings(args.judgments, {one.id: RATING for one in requests}, args.max_null_share)
    measures, items = mt_bench_scores(questions, ratings, data=args.data, judge=args.judge)
    model = answers[0].model
    report = {
        "protocol": PROTOCOL,
        "judge": args.judge,
        "model": model,
        "ratings": [
            {
                "question_id": question.question_id,
                "category": question.category,
                "turn": turn,
                "rating": ratings[item_id(question.question_id, turn)],
            }
            for question in questions
            for turn in TURNS
        ],
    }
    write_scores(args.output, report, measures)
    if args.items:
        write_items(args.items, items)
    if args.table:
        write_text(args.table, markdown_table(f"MT-Bench, protocol {PROTOCOL}, judge {args.judge}", measures))
    if args.fastchat_judgments:
        rows = judgment_rows(questions, model, requests, read_judgments(args.judgments), args.judge)
        # ASCII, because FastChat opens the file with the platform's encoding
        write_jsonl(args.fastchat_judgments, rows, ascii_only=True)
    first = measures[0]
    logging.info("%s: %.2f (%.2f to %.2f), n = %d", args.predictions, first.score, first.low, first.high, first.n)


if __name__ == "__main__":
    run(main)
