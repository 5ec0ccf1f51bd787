"""Rule ``export``: export a trained model, with tokenizer, chat template and model card, and push it if configured."""

import json
import logging
from pathlib import Path

from gateau.command import argument_parser, run
from gateau.digests import describe_files
from gateau.files import write_json
from gateau.model_files import ModelSpec
from gateau.training.arguments import add_format_options
from gateau.training.checkpoints import explain_failed_writes
from gateau.uploads import push_if_asked


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--experiment", required=True, help="name of the experiment")
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained weights or adapters")
    parser.add_argument("--summary", type=_json, required=True, help="summary.json of rule train")
    parser.add_argument("--mixture", type=_json, required=True, help="summary.json of rule mixture")
    parser.add_argument("--plan", type=_json, required=True, help="statistics.json of rule plan")
    parser.add_argument(
        "--selection",
        type=_json,
        help="summary.json of rule selection (default: none, for an experiment without a ranking)",
    )
    parser.add_argument("--base", type=json.loads, required=True, help="models.base, the fine-tuned model, as JSON")
    add_format_options(parser)
    parser.add_argument(
        "--hub",
        type=json.loads,
        default={},
        help="the section export of the configuration, as JSON (default: %(default)s, nothing is pushed)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="export the model, and only list the files that a push would upload"
    )
    parser.add_argument("--output", type=Path, required=True, help="output: folder of the exported model")
    parser.add_argument("--contents", help="output: digests of the exported files, JSON (default: not written)")
    args = parser.parse_args()

    from gateau.formats import FormatSettings
    from gateau.training.exporting import StageSummaries, export_model

    summaries = StageSummaries(args.experiment, args.summary, args.mixture, args.plan, args.selection)
    with explain_failed_writes(str(args.output.parent)):
        settings = FormatSettings(**args.format_settings)
        export_model(args.model, ModelSpec.from_config(args.base), args.format, settings, summaries, args.output)
    if args.contents:
        write_json(args.contents, describe_files(args.output))
    logging.info("exported to %s", args.output)
    push_if_asked(args.output, "model", args.hub, args.experiment, args.dry_run)


def _json(path: str) -> dict[str, object]:
    return dict(json.loads(Path(path).read_text(encoding="utf-8")))


if __name__ == "__main__":
    run(main)
