"""Rule ``answers``: the answers of all models to all benchmarks in one Parquet table, for other people's analyses."""

import json
import logging

from gateau.command import argument_parser, run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--answers",
        type=json.loads,
        required=True,
        help="JSON object: by model an object with the files of rule generate by benchmark",
    )
    parser.add_argument(
        "--scores", type=json.loads, required=True, help="JSON object: the folders of each model's scorers, by model"
    )
    parser.add_argument("--output", required=True, help="output: table of answers, Parquet")
    args = parser.parse_args()

    from gateau.evaluation.results.answers import answer_rows
    from gateau.schemas import ANSWERS
    from gateau.tables import write_rows

    count = write_rows(args.output, ANSWERS, answer_rows(args.answers, args.scores))
    logging.info("%s: %d answers of %d models", args.output, count, len(args.answers))


if __name__ == "__main__":
    run(main)
