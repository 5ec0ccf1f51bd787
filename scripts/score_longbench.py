"""LongBench's automatic scores of prediction files, made here or by the released code, and a judge's; works alone.

Each file is named after its data set (``qasper.jsonl``; ``qasper_e.jsonl`` is LongBench-E's) and holds one JSON object
a line with ``pred``, ``answers``, ``all_classes`` and optionally ``length`` and ``_id``. The tables go to standard
output too.
"""

import argparse

from gateau.command import progress, run
from gateau.evaluation.benchmarks.longbench.data_sets import prediction_files
from gateau.evaluation.benchmarks.longbench.judge import PROTOCOL, judged_items, judged_report, judged_scores
from gateau.evaluation.benchmarks.longbench.scores import longbench_measures, markdown, report, score_file
from gateau.evaluation.judging.join import markdown_table, read_ratings
from gateau.evaluation.results.measures import write_items, write_scores
from gateau.files import write_text


def main() -> None:
    args = _arguments()
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", required=True, help="a folder of <data set>.jsonl, or one such file")
    parser.add_argument("--protocol", choices=("strict", "fixed"), default="strict", help="default: %(default)s")
    parser.add_argument("--judgments", help="jsonl of scripts/judge.py, of the 12 data sets that are judged")
    parser.add_argument("--judge", help="who judged, as tables show it; needed with --judgments")
    parser.add_argument("--max-null-share", type=float, default=0.05, help="of judgments without a rating")
    parser.add_argument("--data", default="LongBench", help="whose items they are (default: %(default)s)")
    parser.add_argument("--output", required=True, help="output: scores as JSON")
    parser.add_argument("--items", help="output: jsonl of scored items")
    parser.add_argument("--table", help="output: Markdown")
    args = parser.parse_args()
    if bool(args.judgments) != bool(args.judge):
        parser.error("--judgments and --judge are given together or not at all")
    return args


if __name__ == "__main__":
    run(main)
