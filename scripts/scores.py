"""Rule ``scores``: the shards of the three passes → one row per sample, with its contextual awareness."""

import argparse
import logging
from collections import Counter
from pathlib import Path

from gateau.command import run
from gateau.errors import ScoreError
from gateau.schemas import SCORES
from gateau.selection.merging import merge_scores, non_finite_share, shard_files
from gateau.tables import write_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True)
    for name in ("short", "long", "segments"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"folder of the {name} pass's shard files")
    parser.add_argument("--shards", type=int, required=True, help="how many shard files each folder holds")
    parser.add_argument("--segment-length", type=int, required=True)
    parser.add_argument("--max-non-finite-share", type=float, default=0.01)
    parser.add_argument("--output", required=True, help="output: scores.parquet")
    args = parser.parse_args()

    short, long, segments = (shard_files(folder, args.shards) for folder in (args.short, args.long, args.segments))
    rows = merge_scores(args.index, short, long, segments, args.segment_length)
    share = non_finite_share(rows)
    bad = [row["id"] for row in rows if row["status"] == "non_finite"]
    if share > args.max_non_finite_share:
        raise ScoreError(
            f"{len(bad)} of {len(rows)} samples have NaN or infinite scores ({', '.join(bad[:10])}), more than "
            "scoring.max_non_finite_share allows; half precision is the usual cause: set scoring.dtype to bfloat16 or "
            "float32, and check that the model works at this length"
        )
    write_rows(args.output, SCORES, rows)
    logging.info("%d samples: %s", len(rows), dict(Counter(row["status"] for row in rows)))


if __name__ == "__main__":
    run(main)
