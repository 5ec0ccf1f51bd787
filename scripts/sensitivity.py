"""Rule ``sensitivity``: measure how much the ranking changes with settings that should not matter.

Run by hand, it also compares with the scores of other runs on the same samples, for example with another segment
length, window or model:
``python scripts/sensitivity.py --scores a.parquet --other "segment length 64=b.parquet" --csv s.csv --markdown s.md``
"""

import json

from gateau.command import argument_parser, run
from gateau.files import write_text


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--scores", required=True, help="scores.parquet of rule scores")
    parser.add_argument(
        "--options", type=json.loads, default={}, help="options of method gateau as a JSON object (default: {})"
    )
    parser.add_argument(
        "--other", action="append", default=[], metavar="NAME=SCORES",
        help="scores.parquet of another run, may be repeated (default: none)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn segments")
    parser.add_argument("--csv", required=True, help="output: table (.csv)")
    parser.add_argument("--markdown", required=True, help="output: table for people (.md)")
    args = parser.parse_args()

    from gateau.schemas import SCORES
    from gateau.selection.fusion import SelectionOptions
    from gateau.selection.sensitivity import sensitivity, sensitivity_markdown
    from gateau.tables import read_table

    others = dict(one.rsplit("=", 1) for one in args.other)
    table = sensitivity(
        read_table(args.scores, SCORES).to_pandas(),
        SelectionOptions(**args.options),
        {name: read_table(path, SCORES).to_pandas() for name, path in others.items()},
        args.seed,
    )
    write_text(args.csv, table.to_csv(index=False))
    write_text(args.markdown, sensitivity_markdown(table))


if __name__ == "__main__":
    run(main)
