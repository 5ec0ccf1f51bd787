"""Rule ``mixture``: ranking, long tokens and short tokens → the rows that one experiment trains on."""

import argparse
import json
import logging

import pandas as pd

from gateau.command import run
from gateau.files import write_json
from gateau.schemas import MIXTURE, RANKING, TOKENS
from gateau.tables import open_table, write_rows
from gateau.training.mixture import MixtureOptions, mix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--options", type=json.loads, required=True, help="the experiment's options, as JSON")
    parser.add_argument("--long", required=True, help="tokens of the long samples")
    parser.add_argument("--short", help="tokens of the short chats, if there are any")
    parser.add_argument("--ranking", help="ranking.parquet, for a method that ranks")
    parser.add_argument("--mixture", required=True, help="output: mixture.parquet")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    args = parser.parse_args()

    ranking = None
    if args.ranking:
        with open_table(args.ranking, RANKING) as file:
            rows = file.read(columns=["id", "duplicate_of"]).to_pylist()
        ranking = [row["id"] for row in rows if row["duplicate_of"] is None]
    mixture = mix(
        args.experiment,
        MixtureOptions(**args.options),
        _lengths(args.long),
        _lengths(args.short) if args.short else None,
        ranking,
    )
    write_rows(args.mixture, MIXTURE, mixture.rows, row_group_size=8192)
    write_json(args.summary, mixture.summary)
    logging.info("%s", json.dumps(mixture.summary, ensure_ascii=False))


def _lengths(path: str) -> pd.DataFrame:
    with open_table(path, TOKENS) as file:
        return pd.DataFrame(file.read(columns=["id", "n_tokens", "n_targets"]).to_pandas())


if __name__ == "__main__":
    run(main)
