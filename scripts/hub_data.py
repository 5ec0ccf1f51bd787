"""Rule ``hub_data``: fetch and verify the files of a data set on the Hugging Face hub.

The token of a gated or private data set is read from the environment variable HF_TOKEN only. With HF_HUB_OFFLINE=1, the
files must be in the cache of the hub's client.
"""

import json
import logging
from pathlib import Path

from gateau.command import argument_parser, run
from gateau.hub_entries import HubEntry


def main() -> None:
    """Write the folder and the list of its files."""
    parser = argument_parser(__doc__)
    parser.add_argument("--entry", type=json.loads, required=True, help="JSON object: hub, revision, files, split")
    parser.add_argument("--mirror", type=Path, help="folder of data sets as OWNER/NAME (default: the hub)")
    parser.add_argument("--folder", type=Path, required=True, help="output: folder of the files")
    parser.add_argument(
        "--listing", type=Path, required=True, help="output: commit, and sizes and digests of the files"
    )
    args = parser.parse_args()

    from gateau.data.hub_data import write_hub_data

    entry = HubEntry.from_config(args.entry)
    write_hub_data(entry, args.folder, args.listing, args.mirror)
    logging.info("wrote the files of %s to %s", entry.hub, args.folder)


if __name__ == "__main__":
    run(main)
