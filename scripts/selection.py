"""Rule ``selection``: merged scores → one experiment's ranking, its selected rows in LongAlign's format, a summary."""

import argparse
import json
import logging
from dataclasses import asdict

import pandas as pd

from gateau.command import run
from gateau.files import write_json
from gateau.methods import METHODS
from gateau.schemas import CONTRAST, EMBEDDINGS, RANKING, REWARDS, SCORES, SIGNATURES
from gateau.selection.clusters import best_of_each_first, clusters_by_id
from gateau.selection.fusion import SelectionOptions
from gateau.selection.labelled import total_tokens
from gateau.selection.near_duplicates import duplicates_of
from gateau.selection.quality import quality_by_label, spearman
from gateau.selection.ranking import n_selected, rank_samples
from gateau.selection.selected import write_selected
from gateau.tables import read_table, write_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", required=True)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--experiment", required=True, help="name, for the summary")
    parser.add_argument("--options", type=json.loads, required=True, help="the experiment's options, as JSON")
    parser.add_argument("--contrast", help="contrast.parquet, for a method that needs it")
    parser.add_argument("--rewards", help="rewards.parquet, for a method that reads them")
    parser.add_argument("--embeddings", help="embeddings.parquet, to take the best of each cluster first")
    parser.add_argument("--signatures", help="signatures.parquet, to leave out near duplicates")
    parser.add_argument("--ranking", required=True, help="output: ranking.parquet")
    parser.add_argument("--selected", required=True, help="output: gateau_long.jsonl")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    args = parser.parse_args()

    method, n_long, similarity, per_cluster, count = (
        args.options.pop(name) for name in ("method", "n_long", "near_duplicates", "per_cluster", "clusters")
    )
    options = SelectionOptions(**args.options)
    scores = read_table(args.scores, SCORES).to_pandas()
    contrast = read_table(args.contrast, CONTRAST).to_pandas() if args.contrast else None
    rewards = read_table(args.rewards, REWARDS).to_pandas() if args.rewards else None
    ranking = rank_samples(scores, options, method, contrast, rewards)
    repeats: dict[str, str] = {}
    if similarity:
        signatures = read_table(args.signatures, SIGNATURES).to_pandas().set_index("id")["signature"]
        repeats = duplicates_of(ranking["id"].tolist(), signatures.loc[ranking["id"]], similarity)
    ranking["duplicate_of"] = ranking["id"].map(repeats).astype(object).where(ranking["id"].isin(repeats), None)
    ranking["cluster"] = None
    if per_cluster:
        embeddings = read_table(args.embeddings, EMBEDDINGS).to_pandas().set_index("id")["embedding"]
        ranking["cluster"] = ranking["id"].map(clusters_by_id(embeddings.loc[ranking["id"]], count))
        ranking = best_of_each_first(ranking, per_cluster)
    usable = ranking.loc[ranking["duplicate_of"].isna(), "id"]
    selected = usable.head(n_selected(len(usable), n_long)).tolist()
    labels = write_selected(args.samples, selected, args.selected)
    lengths = total_tokens(scores.set_index("id").loc[ranking["id"]])
    write_rows(
        args.ranking,
        RANKING,
        ranking.to_dict("records"),  # type: ignore[arg-type]  # keys are column names
    )
    summary = {
        "experiment": args.experiment,
        "method": method,
        "options": {
            **{name: asdict(options)[name] for name in METHODS[method].reads},
            "near_duplicates": similarity,
            "per_cluster": per_cluster,
        },
        "samples_by_status": _counts(scores["status"]),
        **({} if contrast is None else {"contrast_by_status": _counts(contrast["status"])}),
        **({} if rewards is None else {"rewards_by_status": _counts(rewards["status"])}),
        "ranked": len(ranking),
        "near_duplicates": len(repeats),
        "clusters": ranking["cluster"].nunique(),
        "clusters_selected_from": ranking.loc[ranking["id"].isin(selected), "cluster"].nunique(),
        "selected": len(selected),
        "spearman_with_length": spearman(ranking["score"].to_numpy(), lengths.to_numpy(dtype=float)),
        "by_dataset": quality_by_label(ranking, labels),
    }
    write_json(args.summary, summary)
    logging.info("%s", json.dumps(summary, ensure_ascii=False))


def _counts(status: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in status.value_counts().sort_index().items()}


if __name__ == "__main__":
    run(main)
