"""Rule ``mixture``: collect the rows that one experiment trains on, and the rows that are held out."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from gateau.command import argument_parser, run
from gateau.files import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_LENGTHS = ["id", "n_tokens", "n_targets"]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--experiment", required=True, help="name of the experiment, for messages and the summary")
    parser.add_argument(
        "--options", type=json.loads, required=True, help="JSON object: method, n_long, n_short, held_out, seed"
    )
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--long", required=True, help="long.parquet of rule tokens")
    parser.add_argument("--short", help="short.parquet of rule tokens (default: no short chats)")
    parser.add_argument("--ranking", help="ranking.parquet, for a method that ranks (default: none)")
    parser.add_argument("--selection", help="summary.json of rule selection, which goes with --ranking (default: none)")
    parser.add_argument("--mixture", required=True, help="output: mixture.parquet")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    args = parser.parse_args()

    from gateau.draws import MixtureOptions
    from gateau.schemas import MIXTURE, RANKING, SAMPLES, TOKENS
    from gateau.selection.selected import selected_ids
    from gateau.tables import write_frame
    from gateau.training.mixture import mix

    ranked = None
    if args.ranking:
        ranking = _columns(args.ranking, RANKING, ["id", "rank", "duplicate_of", "held_out"])
        ranked = selected_ids(ranking, read_json(args.selection)["selected"])
    mixture = mix(
        args.experiment,
        MixtureOptions(**args.options),
        _columns(args.samples, SAMPLES, ["id"])["id"],
        _columns(args.long, TOKENS, _LENGTHS),
        _columns(args.short, TOKENS, _LENGTHS) if args.short else None,
        ranked,
    )
    write_frame(args.mixture, MIXTURE, mixture.rows, row_group_size=8192)
    write_json(args.summary, mixture.summary)
    logging.info("%s", json.dumps(mixture.summary, ensure_ascii=False))


def _columns(path: str, schema: pa.Schema, names: list[str]) -> pd.DataFrame:
    import pandas as pd

    from gateau.tables import open_table

    with open_table(path, schema) as file:
        return pd.DataFrame(file.read(columns=names).to_pandas())


if __name__ == "__main__":
    run(main)
