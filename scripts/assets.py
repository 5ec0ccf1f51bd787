"""Rule ``assets``: the files of one benchmark under canonical names, pinned ones or this project's own small set.

Pinned files come from the cache, or else from an offline root, or else from the network, and are always verified.
LongBench's data has no commit by which it could be pinned. Unless the table has its digest, its first download is
pinned in the cache (pins.json).
"""

import json
import logging
from pathlib import Path

from gateau.command import argument_parser, run
from gateau.digests import describe_files
from gateau.evaluation import benchmarks
from gateau.evaluation.assets.folders import write_own, write_pinned
from gateau.evaluation.assets.table import read_table
from gateau.files import write_json
from gateau.places import OWN_SETS, RESOURCES


def main() -> None:
    """Write the folder, and the digests of its files if asked."""
    parser = argument_parser(__doc__)
    parser.add_argument("--benchmark", choices=benchmarks.names(), required=True, help="benchmark whose files to write")
    parser.add_argument(
        "--source",
        choices=("pinned", "own"),
        default="pinned",
        help="pinned: the released files; own: this project's small set",
    )
    parser.add_argument("--table", default=RESOURCES / "assets.json", help="JSON table of the pinned files")
    parser.add_argument(
        "--cache", help="folder of verified files, which any number of runs can share; required for pinned files"
    )
    parser.add_argument(
        "--root",
        help="offline root: a folder that holds the files as OWNER/REPOSITORY/PATH (default: fetch from the network)",
    )
    parser.add_argument(
        "--options",
        type=json.loads,
        default={},
        help="options of the benchmark that decide its files, as JSON (default: {})",
    )
    parser.add_argument("--output", required=True, help="output: a folder, written whole or not at all")
    parser.add_argument("--contents", help="output: size and digest of each file, JSON (default: not written)")
    args = parser.parse_args()
    if args.source == "pinned" and not args.cache:
        parser.error("--cache is required for pinned files")

    if args.source == "own":
        write_own(args.benchmark, OWN_SETS, args.output)
    else:
        write_pinned(args.benchmark, read_table(args.table), args.cache, args.output, args.root, args.options)
    if args.contents:
        write_json(args.contents, describe_files(Path(args.output)))
    logging.info("wrote the %s files of %s to %s", args.source, args.benchmark, args.output)


if __name__ == "__main__":
    run(main)
