"""Rule ``scored``: write all raw rows, with their own columns untouched and what the run found out about each."""

from __future__ import annotations

import json
import logging

from gateau.command import argument_parser, run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--input", nargs="+", required=True, help="the raw files that the samples were made from")
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--rejects", required=True, help="rejects.jsonl of rule samples")
    parser.add_argument("--scores", help="scores.parquet of rule scores (default: nothing was scored)")
    parser.add_argument(
        "--experiments", type=json.loads, required=True,
        help="JSON object of all experiments by name, each with method, n_long, held_out, seed",
    )  # fmt: skip
    parser.add_argument("--rankings", nargs="*", default=[], help="ranking.parquet of each experiment that ranks")
    parser.add_argument("--selections", nargs="*", default=[], help="summary.json beside each of --rankings")
    parser.add_argument(
        "--tokens", help="long.parquet of rule tokens, for n_long in tokens without a ranking (default: none)"
    )
    parser.add_argument("--output", required=True, help="output: scored.parquet")
    args = parser.parse_args()

    from gateau.data.whole import WholeRows
    from gateau.delivery.choice import chosen_samples, read_columns
    from gateau.delivery.scored import SHOWN, Outcome, found_out, write_scored
    from gateau.draws import MixtureOptions
    from gateau.files import read_json
    from gateau.schemas import SAMPLES, SCORES

    ids = read_columns(args.samples, SAMPLES, ["id"])["id"].tolist()
    places = {
        read_json(summary)["experiment"]: (ranking, summary)
        for ranking, summary in zip(args.rankings, args.selections, strict=True)
    }
    outcomes = []
    for name, options in args.experiments.items():
        draw = MixtureOptions(**options, n_short=0)
        choice = chosen_samples(name, draw, ids, *places.get(name, (None, None)), args.tokens)
        outcomes.append(Outcome(name, choice.ids, choice.ranking))
    scores = read_columns(args.scores, SCORES, ["id", *SHOWN]) if args.scores else None
    counts = write_scored(
        WholeRows.of(args.input), args.samples, args.rejects, found_out(ids, scores, outcomes), args.output
    )
    logging.info("rows by status: %s", json.dumps(counts))


if __name__ == "__main__":
    run(main)
