"""Rule ``assets``: one benchmark's files under canonical names, pinned ones fetched and verified, or the own small set.

Pinned files come from the cache, else from a local root, else from the network. LongBench's data has no commit to be
pinned by: its first download is pinned in the cache (pins.json), unless the table has its digest.
"""

import argparse
import json
import logging
from pathlib import Path

from gateau.command import run
from gateau.digests import describe_files
from gateau.evaluation import benchmarks
from gateau.evaluation.assets.folders import write_own, write_pinned
from gateau.evaluation.assets.pinned import read_table
from gateau.files import write_json

RESOURCES = Path(__file__).resolve().parents[1] / "workflow/resources"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmark", choices=benchmarks.names(), required=True)
    parser.add_argument("--source", choices=("pinned", "own"), default="pinned", help="default: %(default)s")
    parser.add_argument("--table", default=RESOURCES / "assets.json", help="what is pinned (default: %(default)s)")
    parser.add_argument("--cache", help="folder of verified files, shared by any number of runs; needed for pinned")
    parser.add_argument("--root", help="holds the files as OWNER/REPOSITORY/PATH; with it, the network is never asked")
    parser.add_argument(
        "--options",
        type=json.loads,
        default={},
        help="options of the benchmark that decide its files, as JSON (default: {})",
    )
    parser.add_argument("--output", required=True, help="output: a folder, written whole or not at all")
    parser.add_argument("--contents", help="output: digests of its files, JSON")
    args = parser.parse_args()
    if args.source == "pinned" and not args.cache:
        parser.error("--cache is needed for pinned files")

    if args.source == "own":
        write_own(args.benchmark, RESOURCES / "small_benchmarks", args.output)
    else:
        write_pinned(args.benchmark, read_table(args.table), args.cache, args.output, args.root, args.options)
    if args.contents:
        write_json(args.contents, describe_files(Path(args.output)))
    logging.info("%s: %s files of %s", args.output, args.source, args.benchmark)


if __name__ == "__main__":
    run(main)
