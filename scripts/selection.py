"""Rule ``selection``: merged scores → one experiment's ranking, its selected rows in LongAlign's format, a summary."""

import argparse
import json
import logging
from dataclasses import asdict

from gateau.command import run
from gateau.files import write_json
from gateau.schemas import RANKING, SCORES
from gateau.selection.fusion import SelectionOptions, n_selected, rank_samples
from gateau.selection.quality import quality_by_label, spearman
from gateau.selection.selected import write_selected
from gateau.tables import read_table, write_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", required=True)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--experiment", required=True, help="name, for the summary")
    parser.add_argument("--options", type=json.loads, required=True, help="the experiment's options, as JSON")
    parser.add_argument("--ranking", required=True, help="output: ranking.parquet")
    parser.add_argument("--selected", required=True, help="output: gateau_long.jsonl")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    args = parser.parse_args()

    options = SelectionOptions(**args.options)
    scores = read_table(args.scores, SCORES).to_pandas()
    ranking = rank_samples(scores, options)
    count = n_selected(len(ranking), options.n_long)
    labels = write_selected(args.samples, ranking["id"].head(count).tolist(), args.selected)
    lengths = scores.set_index("id").loc[ranking["id"], ["n_context", "n_instruction", "n_response"]].sum(axis=1)
    write_rows(
        args.ranking,
        RANKING,
        ranking.to_dict("records"),  # type: ignore[arg-type]  # keys are column names
    )
    summary = {
        "experiment": args.experiment,
        "options": asdict(options),
        "samples_by_status": {str(k): int(v) for k, v in scores["status"].value_counts().sort_index().items()},
        "ranked": len(ranking),
        "selected": count,
        "spearman_with_length": spearman(ranking["score"].to_numpy(), lengths.to_numpy(dtype=float)),
        "by_dataset": quality_by_label(ranking, labels),
    }
    write_json(args.summary, summary)
    logging.info("%s", json.dumps(summary, ensure_ascii=False))


if __name__ == "__main__":
    run(main)
