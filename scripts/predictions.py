"""Rule ``predictions``: one model's answers to one benchmark, in the file formats of the benchmark's released code.

A missing or repeated item is an error, because the score of half a benchmark looks like any other score.
"""

import logging

from gateau.command import argument_parser, run
from gateau.digests import describe_files
from gateau.evaluation import benchmarks
from gateau.evaluation.answering.answers import read_answers
from gateau.files import new_folder, write_json, write_jsonl


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--benchmark", choices=benchmarks.names(), required=True, help="what was asked")
    parser.add_argument("--model-name", required=True, help="name of the model in the files")
    parser.add_argument("--answers", nargs="+", required=True, help="answers of all shards of rule generate, jsonl")
    parser.add_argument("--output", required=True, help="output: folder of predictions")
    parser.add_argument(
        "--contents", help="output: sizes and digests of the folder's files, JSON (default: not written)"
    )
    args = parser.parse_args()

    files = benchmarks.load(args.benchmark).prediction_files(args.model_name, read_answers(args.answers))
    with new_folder(args.output) as folder:
        for name, rows in files.items():
            write_jsonl(folder / name, rows)
        described = describe_files(folder)
    if args.contents:
        write_json(args.contents, described)
    logging.info("%s: %s", args.output, ", ".join(f"{name} {len(rows)}" for name, rows in files.items()))


if __name__ == "__main__":
    run(main)
