"""Rule ``overview``: write the summaries of all experiments side by side, as Markdown tables."""

import json
from pathlib import Path
from typing import Any

from gateau.command import argument_parser, run
from gateau.files import write_text
from gateau.reports import UNKNOWN, decimal, markdown_table


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--intake", required=True, help="summary.json of rule samples")
    parser.add_argument("--summaries", nargs="+", required=True, help="summary.json of each experiment's selection")
    parser.add_argument("--output", required=True, help="output: overview.md")
    args = parser.parse_args()
    intake, *summaries = (json.loads(Path(path).read_text(encoding="utf-8")) for path in [args.intake, *args.summaries])
    write_text(args.output, overview(intake, summaries))


def overview(intake: dict[str, Any], summaries: list[dict[str, Any]]) -> str:
    """Return Markdown: rows read and rejected, what each experiment selected, and each label's place in its ranking.

    Args:
        intake: summary.json of rule samples.
        summaries: summary.json of rule selection, one per experiment.
    """
    reasons = ", ".join(f"{reason} {count}" for reason, count in intake["rejected_by_reason"].items()) or "none"
    columns = ["experiment", "method", "ranked", "near duplicates left out", "selected", "clusters selected from"]
    names = ("experiment", "method", "ranked", "near_duplicates", "selected")
    selected = [[*(one[name] for name in names), _clusters(one)] for one in summaries]
    label_columns = ["experiment", "data set", "ranked", "AUROC", "share of best 10 %", "Spearman with length"]
    by_label = [
        [
            one["experiment"], label, group["samples"], decimal(group["auroc"]), decimal(group["share_of_best_tenth"]),
            decimal(one["spearman_with_length"]),
        ]
        for one in summaries
        for label, group in one["by_dataset"].items()
    ]  # fmt: skip
    return f"""{intake["rows"]} rows read, {intake["samples"]} samples, {intake["rejected"]} rejected ({reasons}).

{markdown_table(columns, selected, numbers=range(2, 6))}

AUROC: the chance that a sample of this data set is ranked before one of any other (0.5 = chance).

{markdown_table(label_columns, by_label, numbers=range(2, 6))}
"""


def _clusters(summary: dict[str, Any]) -> str:
    return f"{summary['clusters_selected_from']} of {summary['clusters']}" if summary["clusters"] else UNKNOWN


if __name__ == "__main__":
    run(main)
