"""Rule ``plan``: lengths of a mixture → which sequences each rank trains on in each step, with what that costs."""

import argparse
import json
import logging

from gateau.command import run
from gateau.files import write_json
from gateau.schemas import MIXTURE
from gateau.tables import read_rows
from gateau.training.plans import PlanOptions, make_plan, statistics, write_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixture", required=True)
    parser.add_argument("--options", type=json.loads, required=True, help="the plan section, as JSON")
    parser.add_argument("--world-size", type=int, required=True, help="ranks that will train; others can use the plan")
    parser.add_argument("--plan", required=True, help="output: plan.parquet")
    parser.add_argument("--statistics", required=True, help="output: statistics.json")
    args = parser.parse_args()

    rows = [(number, row) for number, row in enumerate(read_rows(args.mixture, MIXTURE)) if row["split"] == "train"]
    lengths = [row["n_tokens"] for _, row in rows]
    plan = make_plan(lengths, PlanOptions(**args.options), args.world_size)
    write_plan(args.plan, plan, [number for number, _ in rows], lengths)
    counted = statistics(plan, lengths)
    write_json(args.statistics, counted)
    logging.info("%s", json.dumps(counted))


if __name__ == "__main__":
    run(main)
