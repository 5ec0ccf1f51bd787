"""Rule ``manifest``: what one folder of results holds and where it comes from, with digests of every file."""

import argparse
import json
import logging
from pathlib import Path

from gateau.command import run
from gateau.files import write_json
from gateau.provenance import make_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--logs", type=Path, required=True, help="folder of its jobs' logs")
    parser.add_argument("--config", type=json.loads, required=True, help="the whole configuration, as JSON")
    parser.add_argument("--models", type=json.loads, required=True, help="JSON: role to fingerprints")
    parser.add_argument("--data", nargs="*", default=[], help="raw files the folder is made of")
    parser.add_argument("--output", required=True, help="output: JSON")
    args = parser.parse_args()
    repository = Path(__file__).resolve().parents[1]
    manifest = make_manifest(args.folder, args.logs, repository, args.config, args.models, args.data)
    write_json(args.output, manifest)
    logging.info("%s: %d files", args.folder, len(manifest["files"]))


if __name__ == "__main__":
    run(main)
