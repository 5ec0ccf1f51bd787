"""Rule ``screen``: choose the samples whose segments are all read, by the scores of the short and the long pass."""

import logging
from pathlib import Path

from gateau.command import argument_parser, run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--index", required=True, help="index.parquet of rule index")
    for name in ("short", "long"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"folder with the {name} pass's shard files")
    parser.add_argument("--shards", type=int, required=True, help="number of shard files in each folder")
    parser.add_argument("--share", type=float, required=True, help="share of the samples whose segments are all read")
    parser.add_argument("--output", required=True, help="output: screen.parquet")
    args = parser.parse_args()

    from gateau.selection.merging import shard_files
    from gateau.selection.screening import write_screen

    short, long = (shard_files(folder, args.shards) for folder in (args.short, args.long))
    admitted, count = write_screen(args.index, short, long, args.share, args.output)
    logging.info("the segment pass reads all segments of %d of the %d samples that can be ranked", admitted, count)


if __name__ == "__main__":
    run(main)
