"""LongBench's automatic scores of prediction files, made here or by the released code; works alone.

Each file is named after its data set (``qasper.jsonl``; ``qasper_e.jsonl`` is LongBench-E's) and holds one JSON object
a line with ``pred``, ``answers``, ``all_classes`` and optionally ``length``. The table goes to standard output.
"""

import argparse

from gateau.command import progress, run
from gateau.evaluation.longbench import markdown, prediction_files, report, score_file
from gateau.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", required=True, help="a folder of <data set>.jsonl, or one such file")
    parser.add_argument("--protocol", choices=("strict", "fixed"), default="strict", help="default: %(default)s")
    parser.add_argument("--output", required=True, help="output: scores as JSON")
    args = parser.parse_args()

    files = prediction_files(args.predictions)
    scores = [score_file(path, args.protocol) for path in progress(files, "scored", "file", total=len(files))]
    result = report(scores, args.protocol)
    write_json(args.output, result)
    print(markdown(result))


if __name__ == "__main__":
    run(main)
