"""Rule ``manifest``: describe one folder of results, with the digest of every file and where the files come from."""

import json
import logging
from pathlib import Path

from gateau.command import argument_parser, run
from gateau.files import write_json
from gateau.places import ROOT
from gateau.provenance import make_manifest


def main() -> None:
    """Write the manifest of one folder."""
    parser = argument_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of results to describe")
    parser.add_argument("--logs", type=Path, required=True, help="folder with the logs of the jobs that made it")
    parser.add_argument("--config", type=json.loads, required=True, help="the whole configuration, as JSON")
    parser.add_argument(
        "--models", type=json.loads, required=True, help="fingerprints of each model by its role, as JSON"
    )
    parser.add_argument("--data", nargs="*", default=[], help="raw data files that the results are made from")
    parser.add_argument("--output", required=True, help="output: manifest.json")
    args = parser.parse_args()
    manifest = make_manifest(args.folder, args.logs, ROOT, args.config, args.models, args.data)
    write_json(args.output, manifest)
    logging.info("%s: %d files", args.folder, len(manifest["files"]))


if __name__ == "__main__":
    run(main)
