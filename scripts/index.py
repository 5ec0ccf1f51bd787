"""Rule ``index``: write the token lengths, the status and the shard of every sample."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from gateau.command import argument_parser, run
from gateau.frames import FORMATS, choose_frame
from gateau.model_files import ModelSpec, check_window
from gateau.models import config_window, load_config, load_tokenizer, resolved, special_tokens, tokenizer_digest
from gateau.prompts import PromptEncoder


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument(
        "--model", type=json.loads, required=True, help="models.long, as JSON; its tokenizer counts the tokens"
    )
    parser.add_argument("--prompt", required=True, help="prompt template of the format plain, as in scoring.prompt")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="plain",
        help="frame around the texts: --prompt, or the model's chat template; auto takes the template if its stop "
        "token is among the EOS ids of the model's generation config",
    )
    parser.add_argument(
        "--template-options", type=json.loads, default={}, help="variables of the chat template, as a JSON object"
    )
    parser.add_argument(
        "--max-length",
        type=int,
        required=True,
        help="maximum tokens of a whole sequence; the start of longer contexts is cut off",
    )
    parser.add_argument("--shards", type=int, required=True, help="number of shards, the jobs of each scoring pass")
    parser.add_argument("--output", required=True, help="output: index.parquet")
    args = parser.parse_args()

    from gateau.data.index import index_rows
    from gateau.schemas import INDEX
    from gateau.tables import write_rows

    spec = resolved(ModelSpec.from_config(args.model))
    window = spec.context_window() or config_window(load_config(spec))
    check_window(spec, window, args.max_length)
    tokenizer = load_tokenizer(spec)
    frame = choose_frame(args.format, spec, tokenizer, args.prompt, args.template_options)
    encoder = PromptEncoder(tokenizer, frame)
    statuses: Counter[str] = Counter()
    tokens: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for row in index_rows(args.samples, encoder, args.max_length, args.shards):
            statuses[row["status"]] += 1
            tokens.update(kept=row["n_tokens"], cut=row["truncated_tokens"])
            yield row

    # the scoring passes take the frame from here, and compare their tokenizer with this one
    metadata = {
        "tokenizer": tokenizer_digest(tokenizer),
        "special_tokens": json.dumps(special_tokens(tokenizer)),
        "frame": json.dumps(asdict(frame)),
        "frame_ids": json.dumps(encoder.frame_ids()),
    }
    write_rows(args.output, INDEX, counted(), metadata=metadata)
    logging.info("%d samples by status: %s", statuses.total(), dict(statuses))
    logging.info("%d tokens kept, %d context tokens cut off", tokens["kept"], tokens["cut"])


if __name__ == "__main__":
    run(main)
