"""Rule ``sensitivity``: merged scores → how far the ranking moves when something changes that should not matter.

Alone, it also compares with other runs' scores of the same samples, e.g. of another segment length, window or model:
``python scripts/sensitivity.py --scores a.parquet --other "segment length 64=b.parquet" --csv s.csv --markdown s.md``
"""

import argparse
import json

from gateau.command import run
from gateau.files import write_text
from gateau.schemas import SCORES
from gateau.selection.fusion import SelectionOptions
from gateau.selection.sensitivity import sensitivity
from gateau.tables import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", required=True)
    parser.add_argument("--options", type=json.loads, default={}, help="options of method gateau, as JSON")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=SCORES", help="scores of another run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", required=True, help="output: table")
    parser.add_argument("--markdown", required=True, help="output: table for people")
    args = parser.parse_args()

    others = dict(one.rsplit("=", 1) for one in args.other)
    table = sensitivity(
        read_table(args.scores, SCORES).to_pandas(),
        SelectionOptions(**args.options),
        {name: read_table(path, SCORES).to_pandas() for name, path in others.items()},
        args.seed,
    )
    write_text(args.csv, table.to_csv(index=False))
    lines = [
        "How far a ranking moves: Spearman's correlation with the ranking as it is, and what the best tenths share.",
        "",
        "| method | change | Spearman | shared of the best 10 % |",
        "|---|---|---:|---:|",
        *(
            f"| {row['method']} | {row['change']} | {row['spearman']:.3f} | {row['overlap_of_best_tenth']:.2f} |"
            for row in table.to_dict("records")
        ),
    ]
    write_text(args.markdown, "\n".join(lines) + "\n")


if __name__ == "__main__":
    run(main)
