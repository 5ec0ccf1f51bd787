"""Rule ``planted``: generate the demo's long data, rows whose dependency on the context is known."""

import argparse
import json

from gateau.command import run
from gateau.data.planted import PlantedShape, planted_rows
from gateau.files import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planted", type=json.loads, required=True, help="the data.planted section, as JSON")
    parser.add_argument("--output", required=True, help="output: jsonl")
    args = parser.parse_args()
    shape = PlantedShape(min_lines=args.planted["min_lines"], max_lines=args.planted["max_lines"])
    rows = planted_rows(args.planted["rows"], args.planted["seed"], shape, args.planted["duplicates"])
    with atomic_path(args.output) as temporary, temporary.open("w", encoding="utf-8") as output:
        for row in rows:
            output.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run(main)
