"""Rule ``plot_selection``: plot how one experiment's scores spread, and which samples are selected."""

import json
from pathlib import Path

from gateau.command import argument_parser, run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--ranking", required=True, help="ranking.parquet of rule selection")
    parser.add_argument("--summary", required=True, type=Path, help="summary.json of rule selection")
    parser.add_argument("--scores", required=True, help="scores.parquet of rule scores")
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--output", required=True, help="output: plot (.png, .svg or .pdf)")
    args = parser.parse_args()

    from gateau.schemas import RANKING
    from gateau.selection.labelled import read_labels, total_tokens
    from gateau.selection.measures import read_scores
    from gateau.selection.plots import plot_distributions
    from gateau.selection.selected import is_selectable, selected_ids
    from gateau.tables import read_table

    summary = json.loads(args.summary.read_text(encoding="utf-8"))
    ranking = read_table(args.ranking, RANKING).to_pandas().set_index("id", drop=False)
    ranking["selectable"] = is_selectable(ranking)
    ranking["selected"] = ranking["id"].isin(selected_ids(ranking, summary["selected"]))
    ranking["length"] = total_tokens(read_scores(args.scores).set_index("id"))
    ranking["dataset"] = read_labels(args.samples).fillna("(no label)")
    plot_distributions(ranking, summary["experiment"], args.output)


if __name__ == "__main__":
    run(main)
