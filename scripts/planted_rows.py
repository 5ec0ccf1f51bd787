"""Rule ``planted_rows``: generate long rows whose dependency on the context is known, and short chats."""

import json
from collections.abc import Iterable

from gateau.command import argument_parser, run
from gateau.files import atomic_path
from gateau.planted import PlantedShape, planted_chats, planted_rows


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--planted", type=json.loads, required=True, help="the section data.planted of the configuration, as JSON"
    )
    parser.add_argument("--output", required=True, help="output: long rows, jsonl")
    parser.add_argument("--chats", help="output: short chats, jsonl (default: none are written)")
    args = parser.parse_args()
    planted = args.planted
    shape = PlantedShape(min_lines=planted["min_lines"], max_lines=planted["max_lines"])
    copies = planted["duplicates"], planted.get("near_duplicates", 0)
    write_jsonl(args.output, planted_rows(planted["rows"], planted["seed"], shape, *copies))
    if args.chats:
        write_jsonl(args.chats, planted_chats(planted.get("chats", 0), planted["seed"]))


def write_jsonl(path: str, rows: Iterable[dict[str, object]]) -> None:
    """Write one JSON object per line. The file appears only once it is complete."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as output:
        for row in rows:
            output.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run(main)
