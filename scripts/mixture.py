"""Rule ``mixture``: ranking and tokens → the rows that one experiment trains on, and the rows held out."""

import argparse
import json
import logging

import pandas as pd

from gateau.command import run
from gateau.files import write_json
from gateau.schemas import MIXTURE, TOKENS
from gateau.selection.selected import read_distinct_ids
from gateau.tables import open_table, write_rows
from gateau.training.mixture import MixtureOptions, mix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True, help="name of the experiment, for messages and the summary")
    parser.add_argument(
        "--options", type=json.loads, required=True, help="JSON object: method, n_long, n_short, held_out, seed"
    )
    parser.add_argument("--long", required=True, help="long.parquet of rule tokens")
    parser.add_argument("--short", help="short.parquet of rule tokens (default: no short chats)")
    parser.add_argument("--ranking", help="ranking.parquet, for a method that ranks (default: none)")
    parser.add_argument("--mixture", required=True, help="output: mixture.parquet")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    args = parser.parse_args()

    mixture = mix(
        args.experiment,
        MixtureOptions(**args.options),
        _lengths(args.long),
        _lengths(args.short) if args.short else None,
        read_distinct_ids(args.ranking) if args.ranking else None,
    )
    write_rows(args.mixture, MIXTURE, mixture.rows, row_group_size=8192)
    write_json(args.summary, mixture.summary)
    logging.info("%s", json.dumps(mixture.summary, ensure_ascii=False))


def _lengths(path: str) -> pd.DataFrame:
    with open_table(path, TOKENS) as file:
        return pd.DataFrame(file.read(columns=["id", "n_tokens", "n_targets"]).to_pandas())


if __name__ == "__main__":
    run(main)
