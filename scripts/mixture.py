"""Rule ``mixture``: collect the rows that one experiment trains on, and the rows that are held out."""

import json
import logging

import pandas as pd
import pyarrow as pa

from gateau.command import argument_parser, run
from gateau.files import write_json
from gateau.schemas import MIXTURE, RANKING, SAMPLES, TOKENS
from gateau.selection.selected import selected_ids
from gateau.tables import open_table, write_rows
from gateau.training.mixture import MixtureOptions, mix

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
    parser.add_argument("--mixture", required=True, help="output: mixture.parquet")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    args = parser.parse_args()

    ranked = None
    if args.ranking:
        ranking = _columns(args.ranking, RANKING, ["id", "rank", "duplicate_of", "held_out"])
        ranked = selected_ids(ranking, args.options["n_long"])
    mixture = mix(
        args.experiment,
        MixtureOptions(**args.options),
        _columns(args.samples, SAMPLES, ["id"])["id"].tolist(),
        _columns(args.long, TOKENS, _LENGTHS),
        _columns(args.short, TOKENS, _LENGTHS) if args.short else None,
        ranked,
    )
    write_rows(args.mixture, MIXTURE, mixture.rows, row_group_size=8192)
    write_json(args.summary, mixture.summary)
    logging.info("%s", json.dumps(mixture.summary, ensure_ascii=False))


def _columns(path: str, schema: pa.Schema, names: list[str]) -> pd.DataFrame:
    with open_table(path, schema) as file:
        return pd.DataFrame(file.read(columns=names).to_pandas())


if __name__ == "__main__":
    run(main)
