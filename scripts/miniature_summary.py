"""Rule ``miniature_summary``: summarise all runs of the miniature study in a table with intervals and a plot."""

import json
import logging
from pathlib import Path

from gateau.command import argument_parser, run
from gateau.files import write_text


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--runs", nargs="+", required=True, help="JSON files of rule miniature_runs")
    parser.add_argument("--csv", required=True, help="output: table (.csv)")
    parser.add_argument("--markdown", required=True, help="output: table for people (.md)")
    parser.add_argument("--plot", required=True, help="output: plot (.png, .svg or .pdf)")
    args = parser.parse_args()

    from gateau.miniature.summary import plot_summary, summarise, to_markdown

    table = summarise([row for path in args.runs for row in json.loads(Path(path).read_text(encoding="utf-8"))])
    write_text(args.csv, table.to_csv(index=False))
    write_text(args.markdown, to_markdown(table))
    plot_summary(table, args.plot)
    logging.info("\n%s", to_markdown(table))


if __name__ == "__main__":
    run(main)
