"""Rule ``samples``: raw instruction data → validated samples, counted rejections, a summary."""

import argparse
import json
import logging
from collections.abc import Iterator
from typing import Any

from gateau.command import progress, run
from gateau.data.readers import Rejection, read_records
from gateau.data.samples import Intake, read_samples
from gateau.errors import DataError
from gateau.files import atomic_path, write_json
from gateau.schemas import SAMPLES
from gateau.tables import write_rows

# Rows of long text are large: sixteen of 64k tokens are about 4 MB, the unit that a shard job reads.
ROW_GROUP = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", nargs="+", required=True, help="jsonl or JSON array files, plain, gzip or zstd")
    parser.add_argument("--samples", required=True, help="output: samples.parquet")
    parser.add_argument("--rejects", required=True, help="output: rejects.jsonl")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    parser.add_argument("--duplicate-content", choices=("reject", "keep"), default="reject")
    parser.add_argument("--max-rejected-share", type=float, default=0.5)
    args = parser.parse_args()

    intake = Intake()
    with atomic_path(args.rejects) as temporary, temporary.open("w", encoding="utf-8") as rejects:

        def accepted() -> Iterator[dict[str, Any]]:
            keep = args.duplicate_content == "keep"
            for outcome in read_samples(
                progress(read_records(args.input), "samples", "row"), intake, keep_duplicate_content=keep
            ):
                if isinstance(outcome, Rejection):
                    origin = {"file": outcome.origin.file, "line": outcome.origin.line}
                    row = {**origin, "id": outcome.id, "reason": outcome.reason, "advice": outcome.advice}
                    rejects.write(json.dumps(row, ensure_ascii=False) + "\n")
                else:
                    yield outcome

        write_rows(args.samples, SAMPLES, accepted(), row_group_size=ROW_GROUP)
    summary = {"files": args.input, **intake.summary()}
    write_json(args.summary, summary)
    logging.info("%s", json.dumps(summary, ensure_ascii=False))
    _gate(intake, args.max_rejected_share)


def _gate(intake: Intake, max_rejected_share: float) -> None:
    """Refuse data of which too little is usable. Snakemake removes a failed rule's outputs, so examples are logged."""
    broken = sum(n for reason, n in intake.rejected.items() if not reason.startswith("duplicate"))
    if intake.n_samples and broken <= max_rejected_share * intake.n_rows:
        return
    for rejection in intake.first_rejections:
        origin = rejection.origin
        logging.error("%s line %d: %s: %s", origin.file, origin.line, rejection.reason, rejection.advice)
    reasons = ", ".join(f"{reason} {count}" for reason, count in intake.rejected.most_common())
    if not intake.n_samples:
        raise DataError(f"no usable row among {intake.n_rows} ({reasons}); mend data.long, see the first rows above")
    raise DataError(
        f"{broken} of {intake.n_rows} rows are unusable ({reasons}), more than data.max_rejected_share allows; "
        "mend the rows (the first stand above) or raise the bound"
    )


if __name__ == "__main__":
    run(main)
