"""The shared command line of the scripts ``samples`` and ``chats``, and the code that both run."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator

from gateau.command import argument_parser, progress
from gateau.data.intake import Intake, RowKind
from gateau.data.readers import Rejection, read_records
from gateau.errors import DataError
from gateau.files import atomic_path, write_json
from gateau.tables import Row, write_rows


def intake_parser(kind: RowKind, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of an intake script. The option that names the output table is called ``--<kind.name>``."""
    parser = argument_parser(description)
    parser.add_argument(
        "--input", nargs="+", required=True, help="raw data: jsonl or JSON array files, plain, gzip or zstd"
    )
    parser.add_argument(
        f"--{kind.name}", dest="table", required=True, help=f"output: {kind.name}.parquet, one row per usable raw row"
    )
    parser.add_argument("--rejects", required=True, help="output: rejects.jsonl, one line per rejected row")
    parser.add_argument("--summary", required=True, help="output: summary.json, counts over all rows")
    parser.add_argument(
        "--duplicate-content",
        choices=("reject", "keep"),
        default="reject",
        help="what to do with a row whose content an earlier row already has",
    )
    parser.add_argument(
        "--max-rejected-share",
        type=float,
        default=0.5,
        help="fail if more than this share of the rows, from 0 to 1, is rejected; duplicates do not count ",
    )
    return parser


def run_intake(kind: RowKind, args: argparse.Namespace) -> None:
    """Read the raw rows and write the table, the rejected rows and the summary.

    Args:
        kind: the kind of rows to read.
        args: the parsed arguments of :func:`intake_parser`.

    Raises:
        DataError: if the data cannot be read, no row is usable, or too many rows are rejected.
    """
    intake = Intake(kind, keep_duplicate_content=args.duplicate_content == "keep")
    records = progress(read_records(args.input, kind.setting), kind.name, "row")
    with atomic_path(args.rejects) as temporary, temporary.open("w", encoding="utf-8") as rejects:

        def kept() -> Iterator[Row]:
            for outcome in intake.read(records):
                if isinstance(outcome, Rejection):
                    origin = {"file": outcome.origin.file, "line": outcome.origin.line}
                    row = {**origin, "id": outcome.id, "reason": outcome.reason, "advice": outcome.advice}
                    rejects.write(json.dumps(row, ensure_ascii=False) + "\n")
                else:
                    yield outcome

        write_rows(args.table, kind.schema, kept(), row_group_size=kind.row_group_size)
    summary = {"files": args.input, **intake.summary()}
    write_json(args.summary, summary)
    logging.info("%s", json.dumps(summary, ensure_ascii=False))
    _check_rejected_share(intake, args.max_rejected_share)


def _check_rejected_share(intake: Intake, max_rejected_share: float) -> None:
    """Raise DataError if no row is usable or if too many rows are rejected.

    Snakemake deletes the outputs of a failed rule, ``rejects.jsonl`` included. The first rejected rows are therefore
    logged.
    """
    broken = sum(n for reason, n in intake.rejected.items() if not reason.startswith("duplicate"))
    if intake.n_kept and broken <= max_rejected_share * intake.n_rows:
        return
    for rejection in intake.first_rejections:
        origin = rejection.origin
        logging.error("%s line %d: %s: %s", origin.file, origin.line, rejection.reason, rejection.advice)
    reasons = ", ".join(f"{reason} {count}" for reason, count in intake.rejected.most_common())
    setting = intake.kind.setting
    if not intake.n_kept:
        raise DataError(
            f"none of the {intake.n_rows} rows is usable ({reasons}); correct the rows of {setting}: the first "
            "rejected rows are listed above"
        )
    raise DataError(
        f"{broken} of {intake.n_rows} rows are unusable ({reasons}), more than data.max_rejected_share allows; "
        f"correct the rows of {setting} (the first rejected rows are listed above) or raise data.max_rejected_share"
    )
