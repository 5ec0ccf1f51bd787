"""Fetch the pinned files of the benchmarks, or copy them from a local root, and verify each before it is used."""

import argparse
import logging
from pathlib import Path

from gateau.command import run
from gateau.evaluation.assets import fetch_assets, read_table

TABLE = Path(__file__).resolve().parents[1] / "workflow/resources/assets.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", default=TABLE, help="what is pinned (default: %(default)s)")
    parser.add_argument("--root", help="holds the files as OWNER/REPOSITORY/PATH; with it, the network is never asked")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of the table (default: all)")
    parser.add_argument("--output", required=True, help="output: the cache, a folder; laid out as a root is")
    args = parser.parse_args()

    for name, path in fetch_assets(read_table(args.table), args.output, args.root, args.only).items():
        logging.info("%s: verified, %s", name, path)


if __name__ == "__main__":
    run(main)
