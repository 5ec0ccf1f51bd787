"""Rule ``index``: write the token lengths, the status and the shard of every sample."""

import json
import logging
from collections import Counter

from gateau.command import argument_parser, run
from gateau.data.index import index_rows
from gateau.model_files import ModelSpec, check_window
from gateau.models import load_config, load_tokenizer, resolved, tokenizer_digest
from gateau.prompts import PromptEncoder
from gateau.schemas import INDEX
from gateau.tables import write_rows


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument(
        "--model", type=json.loads, required=True, help="models.long, as JSON; its tokenizer counts the tokens"
    )
    parser.add_argument("--prompt", required=True, help="prompt template, as in scoring.prompt")
    parser.add_argument(
        "--max-length",
        type=int,
        required=True,
        help="maximum tokens of a whole sequence; the start of longer contexts is cut off",
    )
    parser.add_argument("--shards", type=int, required=True, help="number of shards, the jobs of each scoring pass")
    parser.add_argument("--output", required=True, help="output: index.parquet")
    args = parser.parse_args()

    spec = resolved(ModelSpec.from_config(args.model))
    check_window(spec, getattr(load_config(spec), "max_position_embeddings", None), args.max_length)
    tokenizer = load_tokenizer(spec)
    encoder = PromptEncoder(tokenizer, args.prompt)
    rows = list(index_rows(args.samples, encoder, args.max_length, args.shards))
    # the scoring passes compare the digest of their tokenizer with this one: homologous models share their tokenizer
    write_rows(args.output, INDEX, rows, metadata={"tokenizer": tokenizer_digest(tokenizer)})
    logging.info("%d samples by status: %s", len(rows), dict(Counter(row["status"] for row in rows)))
    logging.info(
        "%d tokens kept, %d context tokens cut off",
        sum(row["n_tokens"] for row in rows),
        sum(row["truncated_tokens"] for row in rows),
    )


if __name__ == "__main__":
    run(main)
