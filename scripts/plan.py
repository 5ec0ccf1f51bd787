"""Rule ``plan``: plan the sequences that each rank trains on in each step, and compute the cost of the plan."""

import json
import logging

from gateau.command import argument_parser, run
from gateau.files import write_json


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--mixture", required=True, help="mixture.parquet of rule mixture")
    parser.add_argument(
        "--options", type=json.loads, required=True, help="the section plan of the configuration, as JSON"
    )
    parser.add_argument(
        "--world-size",
        type=int,
        required=True,
        help="number of ranks that will train; a training with another number of ranks can use the plan, too",
    )
    parser.add_argument("--plan", required=True, help="output: plan.parquet")
    parser.add_argument("--statistics", required=True, help="output: statistics.json, the cost of the plan")
    args = parser.parse_args()

    import numpy as np
    import pyarrow.compute as pc

    from gateau.schemas import MIXTURE
    from gateau.tables import open_table
    from gateau.training.plans import PlanOptions, describe_plan, make_plan, write_plan

    with open_table(args.mixture, MIXTURE) as file:
        mixture = file.read(columns=["split", "n_tokens"])
    is_trained = pc.equal(mixture["split"], "train")
    rows, lengths = np.flatnonzero(is_trained).tolist(), mixture["n_tokens"].filter(is_trained).to_pylist()
    plan = make_plan(lengths, PlanOptions(**args.options), args.world_size)
    write_plan(args.plan, plan, rows, lengths)
    description = describe_plan(plan, lengths)
    write_json(args.statistics, description)
    logging.info("%s", json.dumps(description))


if __name__ == "__main__":
    run(main)
