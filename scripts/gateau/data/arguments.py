"""The shared command line of the scripts ``samples`` and ``chats``, and the code that both run."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateau.command import argument_parser, progress
from gateau.errors import DataError
from gateau.files import Row, atomic_path, write_json

if TYPE_CHECKING:
    from gateau.data.intake import Intake
    from gateau.data.preview import Preview


def intake_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the intake script ``name``, which is also the name of the option for the output table."""
    parser = argument_parser(description)
    parser.add_argument(
        "--input", nargs="+", required=True, help="raw data: files, folders or globs of the formats of docs/data.md"
    )
    parser.add_argument(
        f"--{name}", dest="table", required=True, help=f"output: {name}.parquet, one row per usable raw row"
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
        "--options", type=json.loads, default={},
        help="JSON object: columns; for samples also split, system, limit, seed, min_tokens, max_tokens (default: {})",
    )  # fmt: skip
    parser.add_argument(
        "--max-rejected-share",
        type=float,
        default=0.5,
        help="fail if more than this share of the rows, from 0 to 1, is rejected; duplicates and rows "
        "that options leave out do not count",
    )
    return parser


def run_intake(intake: Intake, args: argparse.Namespace, preview: Preview | None = None) -> None:
    """Read the raw rows and write the table, the rejected rows and the summary.

    Args:
        intake: reads the rows.
        args: the parsed arguments of :func:`intake_parser`.
        preview: what draws a few of the kept rows.

    Raises:
        DataError: if the data cannot be read, no row has a field that the user named, no row is usable, or too many
            rows are rejected.
    """
    from gateau.data.readers import Rejection, read_records
    from gateau.tables import write_rows

    kind = intake.kind
    records = progress(read_records(args.input, kind.setting, intake.columns), kind.name, "row")
    with atomic_path(args.rejects) as temporary, temporary.open("w", encoding="utf-8") as rejects:

        def kept() -> Iterator[Row]:
            for outcome in intake.read(records):
                if isinstance(outcome, Rejection):
                    origin = {"file": outcome.origin.file, "line": outcome.origin.line}
                    row = {**origin, "id": outcome.id, "reason": outcome.reason, "advice": outcome.advice}
                    rejects.write(json.dumps(row, ensure_ascii=False) + "\n")
                else:
                    yield outcome

        rows = preview.watch(kept()) if preview else kept()
        write_rows(args.table, kind.schema, rows)
        intake.check_columns()
    summary = {"files": args.input, **intake.summary()}
    write_json(args.summary, summary)
    logging.info("%s", json.dumps(summary, ensure_ascii=False))
    _check_rejected_share(intake, args.max_rejected_share)


def _check_rejected_share(intake: Intake, max_rejected_share: float) -> None:
    """Raise DataError if no row is usable or if too many rows are rejected.

    Snakemake deletes the outputs of a failed rule, ``rejects.jsonl`` included. The first rejected rows are therefore
    logged.
    """
    from gateau.data.intake import SPARED

    broken = sum(n for reason, n in intake.rejected.items() if reason not in SPARED)
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
