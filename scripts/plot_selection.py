"""Rule ``plot_selection``: distributions of one experiment's HMP, CAS and final score, and each against length."""

import argparse

from gateau.command import run
from gateau.schemas import RANKING, SCORES
from gateau.selection.labelled import read_labels, total_tokens
from gateau.selection.plots import plot_distributions
from gateau.tables import read_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranking", required=True)
    parser.add_argument("--scores", required=True)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--output", required=True, help="output: PNG or SVG")
    args = parser.parse_args()

    ranking = read_table(args.ranking, RANKING).to_pandas().set_index("id")
    scores = read_table(args.scores, SCORES).to_pandas().set_index("id")
    ranking["length"] = total_tokens(scores)
    ranking["dataset"] = read_labels(args.samples).fillna("(no label)")
    plot_distributions(ranking, args.experiment, args.output)


if __name__ == "__main__":
    run(main)
