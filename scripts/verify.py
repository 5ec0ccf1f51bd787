"""Are results still what they were? Compares every file with the manifest of its folder; ends with 1 if any differs."""

import argparse
import logging
import sys
from pathlib import Path

from gateau.command import progress, run
from gateau.errors import DataError
from gateau.provenance import NAME, check_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="a results folder, or one folder in it")
    args = parser.parse_args()
    folders = sorted(path.parent for path in [*args.results.glob(NAME), *args.results.glob(f"*/{NAME}")])
    if not folders:
        raise DataError(f"{args.results}: no {NAME} there nor one folder below; give results_dir of a finished run")
    findings = [
        line for folder in progress(folders, "verified", "folder", total=len(folders)) for line in check_folder(folder)
    ]
    for line in findings:
        print(line)
    if findings:
        logging.error("%d files differ from the manifests of %d folders", len(findings), len(folders))
        sys.exit(1)
    logging.info("all files of %d folders are as their manifests say", len(folders))


if __name__ == "__main__":
    run(main)
