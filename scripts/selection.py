"""Rule ``selection``: rank and select samples for one experiment; write ranking, selected rows and summary."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from gateau.command import argument_parser, run
from gateau.files import write_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--scores", required=True, help="scores.parquet of rule scores")
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--experiment", required=True, help="name of the experiment, for the summary")
    parser.add_argument(
        "--options", type=json.loads, required=True,
        help="JSON object: method, n_long, held_out, seed, near_duplicates, per_cluster, clusters, and the formula",
    )  # fmt: skip
    parser.add_argument("--contrast", help="contrast.parquet, for a method that needs it (default: none)")
    parser.add_argument("--rewards", help="rewards.parquet, for a method that reads rewards (default: none)")
    parser.add_argument("--embeddings", help="embeddings.parquet, needed by option per_cluster (default: none)")
    parser.add_argument("--signatures", help="signatures.parquet, needed by option near_duplicates (default: none)")
    parser.add_argument("--ranking", required=True, help="output: ranking.parquet")
    parser.add_argument("--parts", required=True, help="output: parts.parquet, how every score adds up")
    parser.add_argument("--selected", required=True, help="output: gateau_long.jsonl, the selected rows, best first")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    args = parser.parse_args()

    from gateau.schemas import CONTRAST, EMBEDDINGS, PARTS, RANKING, REWARDS, SIGNATURES
    from gateau.selection.labelled import read_labels
    from gateau.selection.measures import read_scores
    from gateau.selection.method_scores import measures_of
    from gateau.selection.parts import parts_frames
    from gateau.selection.policy import Policy, Tables, select, summarise
    from gateau.selection.selected import write_selected
    from gateau.tables import write_frame, write_frames

    policy = Policy.from_options(args.options)
    scores = read_scores(args.scores, measures_of(policy.method, policy.formula))
    contrast, rewards = _optional(args.contrast, CONTRAST), _optional(args.rewards, REWARDS)
    signatures, embeddings = _optional(args.signatures, SIGNATURES), _optional(args.embeddings, EMBEDDINGS)
    labels = read_labels(args.samples)
    tables = Tables(
        labels.index, scores, contrast, rewards,
        None if signatures is None else signatures.set_index("id")["signature"],
        None if embeddings is None else embeddings.set_index("id")["embedding"],
    )  # fmt: skip
    selection = select(policy, tables)
    write_selected(args.samples, selection.ids, args.selected)
    write_frame(args.ranking, RANKING, selection.ranking)
    write_frames(args.parts, PARTS, parts_frames(selection.scored.ids, selection.scored.parts))
    summary = summarise(args.experiment, policy, tables, selection, labels)
    write_json(args.summary, summary)
    logging.info("%s", json.dumps(summary, ensure_ascii=False))


def _optional(path: str | None, schema: pa.Schema) -> pd.DataFrame | None:
    import pandas as pd

    from gateau.tables import read_table

    return pd.DataFrame(read_table(path, schema).to_pandas()) if path else None


if __name__ == "__main__":
    run(main)
