"""Rule ``overview``: the experiments' summaries side by side, as a Markdown table for people."""

import argparse
import json
from pathlib import Path
from typing import Any

from gateau.command import run
from gateau.files import write_text

_TAKEN = ("experiment", "method", "ranked", "near_duplicates", "selected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--intake", required=True, help="summary.json of rule samples")
    parser.add_argument("--summaries", nargs="+", required=True, help="summary.json of each experiment")
    parser.add_argument("--output", required=True, help="output: overview.md")
    args = parser.parse_args()
    intake = json.loads(Path(args.intake).read_text(encoding="utf-8"))
    write_text(
        args.output, overview(intake, [json.loads(Path(path).read_text(encoding="utf-8")) for path in args.summaries])
    )


def overview(intake: dict[str, Any], summaries: list[dict[str, Any]]) -> str:
    """Rows read and rejected, what each experiment took, then one table line per experiment and data set label."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in intake["rejected_by_reason"].items()) or "none"
    lines = [
        f"{intake['rows']} rows read, {intake['samples']} samples, {intake['rejected']} rejected ({reasons}).",
        "",
        "| experiment | method | ranked | near duplicates left out | selected | clusters selected from |",
        "|---|---|---:|---:|---:|---:|",
        *(f"| {' | '.join(str(one[name]) for name in _TAKEN)} | {_clusters(one)} |" for one in summaries),
        "",
        "AUROC: the chance that a sample of this data set is ranked before one of any other (0.5 = chance).",
        "",
        "| experiment | data set | ranked | AUROC | share of best 10 % | Spearman with length |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for summary in summaries:
        for label, group in summary["by_dataset"].items():
            cells = [
                summary["experiment"], label, f"{group['samples']}", _decimal(group["auroc"]),
                _decimal(group["share_of_best_tenth"]), _decimal(summary["spearman_with_length"]),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _clusters(summary: dict[str, Any]) -> str:
    return f"{summary['clusters_selected_from']} of {summary['clusters']}" if summary["clusters"] else "–"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    run(main)
