"""Rule ``contrast``: join the shard files of a contrast's pass into one NLL per sample, used in place of θ_S's."""

import logging
from collections import Counter
from pathlib import Path

from gateau.command import argument_parser, run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--index", required=True, help="index.parquet of rule index")
    parser.add_argument("--folder", type=Path, required=True, help="folder with the pass's shard files")
    parser.add_argument("--shards", type=int, required=True, help="number of shard files in the folder")
    parser.add_argument("--output", required=True, help="output: contrast.parquet")
    parser.add_argument(
        "--max-non-finite-share", type=float, default=0.01,
        help="fail if a larger share of the samples has NaN or infinite scores",
    )  # fmt: skip
    args = parser.parse_args()

    from gateau.schemas import CONTRAST
    from gateau.selection.merging import check_finite, merge_contrast, non_finite, shard_files
    from gateau.tables import write_table_stream

    table = merge_contrast(args.index, shard_files(args.folder, args.shards))
    check_finite(non_finite(table), len(table), args.max_non_finite_share)
    write_table_stream(args.output, CONTRAST, [table])
    logging.info("%d samples: %s", len(table), dict(Counter(table["status"].to_pylist())))


if __name__ == "__main__":
    run(main)
