"""Rule ``leaderboard``: all evaluated models and published scores, in one table per protocol, data and judge."""

import json
import logging

from gateau.command import argument_parser, run
from gateau.files import write_text


def main() -> None:
    """Write the tables and the plot."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--scores", type=json.loads, required=True, help="JSON object: the folders of each model's scorers, by model"
    )
    parser.add_argument("--baseline", required=True, help="the model that the others are compared with")
    parser.add_argument("--published", required=True, help="JSON file of published scores")
    parser.add_argument("--benchmarks", nargs="*", required=True, help="benchmarks whose published scores are shown")
    parser.add_argument("--csv", required=True, help="output: all measures in long form, CSV")
    parser.add_argument("--differences", required=True, help="output: comparisons with the baseline, CSV")
    parser.add_argument("--markdown", required=True, help="output: all tables, Markdown")
    parser.add_argument("--html", required=True, help="output: all tables, HTML")
    parser.add_argument("--plot", required=True, help="output: plot of the headline measures, PNG")
    args = parser.parse_args()

    from gateau.evaluation.results.common_parts import on_common_parts
    from gateau.evaluation.results.leaderboard import (
        compare,
        differences_csv,
        plot_leaderboard,
        published_entries,
        read_entries,
        to_csv,
        to_html,
        to_markdown,
    )

    measured, items = on_common_parts(*read_entries(args.scores))
    differences = compare(measured, items, args.baseline)
    entries = [*measured, *published_entries(args.published, args.benchmarks)]
    write_text(args.csv, to_csv(entries))
    write_text(args.differences, differences_csv(differences))
    write_text(args.markdown, to_markdown(entries, differences, args.baseline))
    write_text(args.html, to_html(entries, differences, args.baseline))
    plot_leaderboard(measured, args.plot)
    logging.info("%d models, %d measures, %d comparisons", len(args.scores), len(entries), len(differences))


if __name__ == "__main__":
    run(main)
