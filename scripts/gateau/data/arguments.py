"""The command line that the scripts ``samples`` and ``chats`` share, and the run behind it."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator

from gateau.command import progress
from gateau.data.intake import Intake, RowKind
from gateau.data.readers import Rejection, read_records
from gateau.errors import DataError
from gateau.files import atomic_path, write_json
from gateau.tables import Row, write_rows


def intake_parser(kind: RowKind, description: str | None) -> argparse.ArgumentParser:
    """Arguments of an intake script; the table's option has the name of the kind."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--input", nargs="+", required=True, help="jsonl or JSON array files, plain, gzip or zstd")
    parser.add_argument(f"--{kind.name}", dest="table", required=True, help=f"output: {kind.name}.parquet")
    parser.add_argument("--rejects", required=True, help="output: rejects.jsonl")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    parser.add_argument("--duplicate-content", choices=("reject", "keep"), default="reject")
    parser.add_argument("--max-rejected-share", type=float, default=0.5)
    return parser


def run_intake(kind: RowKind, args: argparse.Namespace) -> None:
    """Write the table, the rejections and the summary as the arguments say.

    Raises:
        DataError: the data cannot be read, no row is usable, or too few are.
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
    _gate(intake, args.max_rejected_share)


def _gate(intake: Intake, max_rejected_share: float) -> None:
    """Refuse data of which too little is usable. Snakemake removes a failed rule's outputs, so examples are logged."""
    broken = sum(n for reason, n in intake.rejected.items() if not reason.startswith("duplicate"))
    if intake.n_kept and broken <= max_rejected_share * intake.n_rows:
        return
    for rejection in intake.first_rejections:
        origin = rejection.origin
        logging.error("%s line %d: %s: %s", origin.file, origin.line, rejection.reason, rejection.advice)
    reasons = ", ".join(f"{reason} {count}" for reason, count in intake.rejected.most_common())
    setting = intake.kind.setting
    if not intake.n_kept:
        raise DataError(f"no usable row among {intake.n_rows} ({reasons}); mend {setting}, see the first rows above")
    raise DataError(
        f"{broken} of {intake.n_rows} rows are unusable ({reasons}), more than data.max_rejected_share allows; "
        f"mend the rows of {setting} (the first stand above) or raise the bound"
    )
