"""Rule ``tokens``: tokenize samples or chats for training; write token ids and labels, rejected rows and a preview."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from gateau.command import argument_parser, progress, run
from gateau.conversations import OVER_LONG
from gateau.errors import DataError
from gateau.files import atomic_path, write_json, write_text
from gateau.model_files import ModelSpec
from gateau.models import load_tokenizer, resolved, tokenizer_digest
from gateau.training.arguments import add_format_options

if TYPE_CHECKING:
    import pyarrow as pa

    from gateau.training.previews import PreviewRow
    from gateau.training.tokenization import RejectedRow, TokensReport

_EXAMPLES = 10


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", required=True, help="samples.parquet of rule samples or chats.parquet of rule chats")
    parser.add_argument(
        "--source", choices=("long", "short"), required=True, help="kind of the rows: long samples or short chats"
    )
    parser.add_argument(
        "--model", type=json.loads, required=True, help="models.base, as JSON; its tokenizer makes the tokens"
    )
    add_format_options(parser)
    parser.add_argument("--max-length", type=int, required=True, help="maximum tokens of a sequence")
    parser.add_argument(
        "--over-long",
        choices=OVER_LONG,
        required=True,
        help="what to do with longer rows: reject them (drop), cut the start of the longest user turn's context "
        "(truncate_context), cut the end, answer included (truncate_right), or fail (error)",
    )
    parser.add_argument(
        "--max-rejected-share",
        type=float,
        required=True,
        help="fail if more than this share of the rows, from 0 to 1, is rejected",
    )
    parser.add_argument("--preview", type=int, required=True, help="number of rows to render in the previews")
    parser.add_argument("--workers", type=int, required=True, help="number of processes that tokenize")
    parser.add_argument("--tokens", required=True, help="output: token ids and labels, Parquet")
    parser.add_argument("--rejects", required=True, help="output: rejected rows, jsonl")
    parser.add_argument("--summary", required=True, help="output: counts over all rows, JSON")
    parser.add_argument("--preview-text", required=True, help="output: preview as plain text")
    parser.add_argument("--preview-html", required=True, help="output: preview as an HTML page")
    args = parser.parse_args()

    from gateau.formats import FormatSettings
    from gateau.schemas import CHATS, SAMPLES, TOKENS
    from gateau.tables import count_rows, iterate_rows, write_tables
    from gateau.training.previews import preview_html, preview_text
    from gateau.training.tokenization import RowEncoder, TokensOptions, TokensReport, tokenize_rows

    tokenizer = load_tokenizer(resolved(ModelSpec.from_config(args.model)))
    settings = FormatSettings(**args.format_settings)
    encoder = RowEncoder(tokenizer, TokensOptions(args.format, args.max_length, args.over_long, settings))
    schema = SAMPLES if args.source == "long" else CHATS
    rows = progress(
        iterate_rows(args.rows, schema, ["id", "file", "line", "messages"]), "tokens", "row", count_rows(args.rows)
    )
    report = TokensReport()
    shown: list[PreviewRow] = []
    examples: list[RejectedRow] = []
    with atomic_path(args.rejects) as temporary, temporary.open("w", encoding="utf-8") as rejects:

        def tables() -> Iterator[pa.Table]:
            for table, rejected in tokenize_rows(rows, encoder, args.source, report, args.workers):
                for row in rejected:
                    rejects.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
                examples.extend(rejected[: _EXAMPLES - len(examples)])
                new = table.slice(0, max(args.preview - len(shown), 0)).to_pylist()
                shown.extend((row["id"], row["input_ids"], row["labels"], row["pieces"]) for row in new)
                yield table

        metadata = {"tokenizer": tokenizer_digest(tokenizer), "format": args.format}
        write_tables(args.tokens, TOKENS, tables(), metadata=metadata)
    write_text(args.preview_text, preview_text(shown, tokenizer))
    write_text(args.preview_html, preview_html(shown, tokenizer, f"Training rows, {args.source}"))
    summary = {"source": args.source, "format": args.format, **report.summary()}
    write_json(args.summary, summary)
    logging.info("%s", json.dumps(summary, ensure_ascii=False))
    _check_rejected_share(report, args.max_rejected_share, examples)


def _check_rejected_share(report: TokensReport, max_rejected_share: float, examples: list[RejectedRow]) -> None:
    """Raise DataError if no row can be trained on or if too many rows are rejected.

    Snakemake deletes the outputs of a failed rule, the rejected rows included. The first of them are therefore logged.
    """
    rejected = sum(report.rejected.values())
    if report.accepted and rejected <= max_rejected_share * report.rows:
        return
    for row in examples:
        logging.error("%s line %d (id %s): %s: %s", row.file, row.line, row.id, row.reason, row.advice)
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.rejected.most_common())
    raise DataError(
        f"{rejected} of {report.rows} rows cannot be trained on ({reasons}), more than tokens.max_rejected_share "
        "allows; correct the rows (the first rejected rows are listed above), change tokens.max_length or "
        "tokens.over_long, or raise tokens.max_rejected_share"
    )


if __name__ == "__main__":
    run(main)
