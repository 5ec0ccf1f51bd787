"""Rule ``scores``: join the shard files of the three passes into one row per sample, with its contextual awareness."""

import logging
from pathlib import Path

from gateau.command import argument_parser, run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--index", required=True, help="index.parquet of rule index")
    for name in ("short", "long", "segments"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"folder with the {name} pass's shard files")
    parser.add_argument("--shards", type=int, required=True, help="number of shard files in each folder")
    parser.add_argument("--segment-length", type=int, required=True, help="length of a context segment in tokens")
    parser.add_argument("--attention-block", type=int, required=True, help="tokens of a block of stored attention")
    parser.add_argument(
        "--max-non-finite-share", type=float, default=0.01,
        help="fail if a larger share of the samples has NaN or infinite scores",
    )  # fmt: skip
    parser.add_argument("--output", required=True, help="output: scores.parquet")
    args = parser.parse_args()

    from gateau.selection.merging import Lengths, shard_files, write_scores

    short, long, segments = (shard_files(folder, args.shards) for folder in (args.short, args.long, args.segments))
    statuses = write_scores(
        args.index,
        short,
        long,
        segments,
        Lengths(args.segment_length, args.attention_block),
        args.max_non_finite_share,
        args.output,
    )
    logging.info("%d samples: %s", statuses.total(), dict(statuses))


if __name__ == "__main__":
    run(main)
