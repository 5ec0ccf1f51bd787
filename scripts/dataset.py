"""Rule ``dataset``: write an experiment's rows as a data set for other programs, and push it if configured."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from gateau.command import argument_parser, run
from gateau.digests import describe_files
from gateau.files import read_json, write_json
from gateau.model_files import ModelSpec
from gateau.uploads import push_if_asked


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--experiment", required=True, help="name of the experiment")
    parser.add_argument(
        "--options", type=json.loads, required=True, help="JSON object: method, n_long, n_short, held_out, seed"
    )
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--intake", required=True, help="summary.json of rule samples")
    parser.add_argument("--ranking", help="ranking.parquet, for a method that ranks (default: none)")
    parser.add_argument("--selection", help="summary.json of rule selection, which goes with --ranking (default: none)")
    parser.add_argument("--plot", help="distributions.png of the ranking (default: none)")
    parser.add_argument("--long", help="long.parquet of rule tokens, for n_long in tokens (default: none)")
    parser.add_argument("--chats", help="chats.parquet of rule chats, for n_short (default: none)")
    parser.add_argument("--short", help="short.parquet of rule tokens, which goes with --chats (default: none)")
    parser.add_argument(
        "--models", type=json.loads, default={}, help="JSON object: the models that score, by role (default: none)"
    )
    parser.add_argument("--base", type=json.loads, required=True, help="models.base, the model to fine-tune, as JSON")
    parser.add_argument(
        "--training", type=json.loads, required=True,
        help="JSON object: max_length and chat_template of tokens, and the sections plan and train",
    )  # fmt: skip
    parser.add_argument(
        "--hub", type=json.loads, default={},
        help="the section export of the configuration, as JSON (default: %(default)s, nothing is pushed)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="write the data set, and only list the files that a push would upload"
    )
    parser.add_argument("--output", type=Path, required=True, help="output: folder of the data set")
    parser.add_argument("--contents", help="output: digests of the files, JSON (default: not written)")
    args = parser.parse_args()

    from gateau.delivery.choice import chosen_samples, read_columns
    from gateau.delivery.folder import TRAINERS, ChosenRows, write_data_set
    from gateau.delivery.trainers import TrainingSettings, template_beside
    from gateau.draws import MixtureOptions, short_ids
    from gateau.schemas import SAMPLES, TOKENS

    options, base = MixtureOptions(**args.options), ModelSpec.from_config(args.base)
    samples = read_columns(args.samples, SAMPLES, ["id"])["id"].tolist()
    choice = chosen_samples(args.experiment, options, samples, args.ranking, args.selection, args.long)
    ranks = None
    if choice.ranking is not None:
        table = choice.ranking
        ranks = dict(zip(table["id"], zip(table["rank"], table["score"], strict=True), strict=True))
    chats = []
    if args.chats and options.n_short:
        chats = short_ids(args.experiment, options, read_columns(args.short, TOKENS, ["id"])["id"].tolist())
    selection = read_json(args.selection) if args.selection else {}
    card = {
        "experiment": args.experiment,
        "method": options.method,
        "options": {"n_long": "all" if options.n_long is None else options.n_long, **selection.get("options", {})},
        "models": {role: ModelSpec.from_config(section) for role, section in args.models.items()},
        "intake": read_json(args.intake),
        "ranked": selection.get("ranked"),
    }
    template = template_beside(base, args.training.pop("chat_template"))
    files = write_data_set(
        args.output, card, ChosenRows(args.samples, choice.ids, ranks), ChosenRows(args.chats, chats),
        TrainingSettings(base, **args.training, has_template_file=template is not None), template, args.plot,
    )  # fmt: skip
    if args.contents:
        write_json(args.contents, describe_files(args.output))
    logging.info("rows by file: %s", json.dumps(files))
    # these name the folder of a local model, which means nothing to others
    push_if_asked(args.output, "dataset", args.hub, args.experiment, args.dry_run, TRAINERS if base.is_local else ())


if __name__ == "__main__":
    run(main)
