"""Rule ``index``: token lengths, status and shard of every sample."""

import argparse
import json
import logging
from collections import Counter

from gateau.command import run
from gateau.data.index import index_rows
from gateau.model_files import ModelSpec, check_window
from gateau.models import load_config, load_tokenizer, resolved, tokenizer_digest
from gateau.prompts import PromptEncoder
from gateau.schemas import INDEX
from gateau.tables import write_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--model", type=json.loads, required=True, help="models.long, as JSON; its tokenizer counts")
    parser.add_argument("--prompt", required=True, help="prompt template, see scoring.prompt")
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--output", required=True, help="output: index.parquet")
    args = parser.parse_args()

    spec = resolved(ModelSpec.from_config(args.model))
    check_window(spec, getattr(load_config(spec), "max_position_embeddings", None), args.max_length)
    tokenizer = load_tokenizer(spec)
    encoder = PromptEncoder(tokenizer, args.prompt)
    rows = list(index_rows(args.samples, encoder, args.max_length, args.shards))
    # the short pass compares its own tokenizer with this digest: homologous models share their tokenizer
    write_rows(args.output, INDEX, rows, metadata={"tokenizer": tokenizer_digest(tokenizer)})
    logging.info("%d samples, %s", len(rows), dict(Counter(row["status"] for row in rows)))
    logging.info("%d tokens, %d truncated", sum(r["n_tokens"] for r in rows), sum(r["truncated_tokens"] for r in rows))


if __name__ == "__main__":
    run(main)
