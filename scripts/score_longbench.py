"""Score LongBench predictions by its automatic metrics and, with judgments, by a judge's ratings.

The script also works without the workflow, on files that the released code wrote. Each file is named after its data set
(``qasper.jsonl``; ``qasper_e.jsonl`` is LongBench-E's). Each line is a JSON object with ``pred``, ``answers``,
``all_classes`` and optionally ``length`` and ``_id``. The tables are also printed to standard output.
"""

import argparse

from gateau.command import argument_parser, progress, run
from gateau.evaluation.benchmarks.longbench.data_sets import prediction_files
from gateau.evaluation.benchmarks.longbench.judge import judged_items
from gateau.files import write_text


def main() -> None:
    args = _arguments()

    from gateau.evaluation.benchmarks.longbench.judge_scores import PROTOCOL, judged_report, judged_scores
    from gateau.evaluation.benchmarks.longbench.scores import longbench_measures, markdown, report, score_file
    from gateau.evaluation.judging.join import markdown_table, read_ratings
    from gateau.evaluation.results.measures import write_items, write_scores

    files = prediction_files(args.predictions)
    scores = [score_file(path, args.protocol) for path in progress(files, "scored", "file", total=len(files))]
    result = report(scores, args.protocol)
    measures, items = longbench_measures(scores, args.protocol, data=args.data)
    table = markdown(result)

    if args.judgments:
        ratings = read_ratings(args.judgments, judged_items(args.predictions), args.max_null_share)
        judged = judged_scores(args.predictions, ratings)
        result["judge"] = judged_report(judged, args.judge)
        judged_measures, more_items = longbench_measures(judged, PROTOCOL, data=args.data, judge=args.judge)
        measures, items = [*measures, *judged_measures], [*items, *more_items]
        table += "\n" + markdown_table(f"LongBench, in % of the scale, judge {args.judge}", judged_measures)

    write_scores(args.output, result, measures)
    if args.items:
        write_items(args.items, items)
    if args.table:
        write_text(args.table, table)
    print(table)


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--predictions", required=True, help="a folder of <data set>.jsonl, or one such file")
    parser.add_argument("--protocol", choices=("strict", "fixed"), default="strict", help="of the metrics")
    parser.add_argument(
        "--judgments", help="judgments of scripts/judge.py on the 12 data sets that are judged, jsonl (default: none)"
    )
    parser.add_argument("--judge", help="name of the judge in tables; required with --judgments")
    parser.add_argument(
        "--max-null-share", type=float, default=0.05, help="largest share of judgments without a rating, from 0 to 1"
    )
    parser.add_argument("--data", default="LongBench", help="name of the items in tables")
    parser.add_argument("--output", required=True, help="output: scores, JSON")
    parser.add_argument("--items", help="output: scored items, jsonl (default: not written)")
    parser.add_argument("--table", help="output: tables, Markdown (default: not written)")
    args = parser.parse_args()
    if bool(args.judgments) != bool(args.judge):
        parser.error("--judgments and --judge must be given together")
    return args


if __name__ == "__main__":
    run(main)
