"""Rule ``rewards``: compute the reward of every sample's response with a reward model, for method ``reward``."""

import logging
from collections import Counter

from gateau.command import run
from gateau.scoring.text_models import load_reward_model, run_text_model, text_model_parser


def main() -> None:
    parser = text_model_parser(__doc__)
    parser.add_argument(
        "--max-non-finite-share",
        type=float,
        default=0.01,
        help="fail if more than this share of the samples, from 0 to 1, has a reward that is NaN or infinite ",
    )
    args = parser.parse_args()

    from gateau.schemas import REWARDS
    from gateau.selection.merging import check_finite
    from gateau.tables import write_rows

    rows = list(run_text_model(args, "rewards", REWARDS, load_reward_model))
    bad = [row["id"] for row in rows if row["status"] == "non_finite"]
    check_finite(bad, len(rows), args.max_non_finite_share)
    write_rows(args.output, REWARDS, rows)
    logging.info("%d samples by status: %s", len(rows), dict(Counter(row["status"] for row in rows)))


if __name__ == "__main__":
    run(main)
