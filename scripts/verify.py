"""Compare every file of a run's results with the manifest of its folder; exit with code 1 if any differs."""

import logging
import sys
from pathlib import Path

from gateau.command import argument_parser, progress, run
from gateau.errors import DataError
from gateau.provenance import NAME, check_folder


def main() -> None:
    """Print one line per file that differs."""
    parser = argument_parser(__doc__)
    parser.add_argument("results", type=Path, help="results_dir of a finished run, or one folder in it")
    args = parser.parse_args()
    folders = sorted(path.parent for path in [*args.results.glob(NAME), *args.results.glob(f"*/{NAME}")])
    if not folders:
        raise DataError(f"{args.results}: no {NAME} in it or one folder below; give the results_dir of a finished run")
    findings = [
        line for folder in progress(folders, "verified", "folder", total=len(folders)) for line in check_folder(folder)
    ]
    for line in findings:
        print(line)
    if findings:
        logging.error("%d files differ from the manifests of %d folders", len(findings), len(folders))
        sys.exit(1)
    logging.info("all files of %d folders agree with their manifests", len(folders))


if __name__ == "__main__":
    run(main)
