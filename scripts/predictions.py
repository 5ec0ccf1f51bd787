"""Rule ``predictions``: one model's answers to one benchmark, in the file formats of the benchmark's released code.

A missing or doubled item is an error: a score of half a benchmark looks like any other.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path

from gateau.command import run
from gateau.digests import describe_files
from gateau.evaluation.answering.answers import read_answers
from gateau.evaluation.benchmarks.catalogue import BENCHMARKS, prediction_files
from gateau.files import write_json, write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmark", choices=BENCHMARKS, required=True)
    parser.add_argument("--model-name", required=True, help="how the model is called in the files")
    parser.add_argument("--answers", nargs="+", required=True, help="the shards of rule generate")
    parser.add_argument("--output", required=True, help="output: a folder")
    parser.add_argument("--contents", help="output: digests of its files, JSON")
    args = parser.parse_args()

    files = prediction_files(args.benchmark, args.model_name, read_answers(args.answers))
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        folder = Path(temporary, output.name)
        for name, rows in files.items():
            write_text(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        folder.replace(output)
    if args.contents:
        write_json(args.contents, describe_files(output))
    logging.info("%s: %s", args.output, ", ".join(f"{name} {len(rows)}" for name, rows in files.items()))


if __name__ == "__main__":
    run(main)
