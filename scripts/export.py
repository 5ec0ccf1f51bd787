"""Rule ``export``: trained weights → a model that others can load and talk to, with its card; pushed if configured."""

import argparse
import json
import logging
from pathlib import Path

from gateau.command import run
from gateau.digests import describe_files
from gateau.files import write_json
from gateau.model_files import ModelSpec
from gateau.training.checkpoints import told_writes
from gateau.training.exporting import Provenance, export_model, push_to_hub, upload_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--model", type=Path, required=True, help="trained weights or adapters")
    parser.add_argument("--summary", type=_json, required=True, help="of rule train")
    parser.add_argument("--mixture", type=_json, required=True, help="summary of rule mixture")
    parser.add_argument("--plan", type=_json, required=True, help="statistics of rule plan")
    parser.add_argument("--selection", type=_json, help="summary of rule selection, if there was one")
    parser.add_argument("--base", type=json.loads, required=True, help="models.base, as JSON")
    parser.add_argument("--format", required=True)
    parser.add_argument("--hub", type=json.loads, default={}, help="the export section, as JSON")
    parser.add_argument("--dry-run", action="store_true", help="export, then only say what a push would send")
    parser.add_argument("--output", type=Path, required=True, help="output: model directory")
    parser.add_argument("--contents", help="output: digests of its files, JSON")
    args = parser.parse_args()

    provenance = Provenance(args.experiment, args.summary, args.mixture, args.plan, args.selection)
    with told_writes(str(args.output.parent)):
        export_model(args.model, ModelSpec.from_config(args.base), args.format, provenance, args.output)
    if args.contents:
        write_json(args.contents, describe_files(args.output))
    logging.info("exported to %s", args.output)
    if repository := args.hub.get("hub_repository"):
        repository = repository.format(experiment=args.experiment)
        if args.dry_run:
            logging.info("would push to %s:\n%s", repository, upload_plan(args.output))
        else:
            logging.info("pushed to %s", push_to_hub(args.output, repository, args.hub.get("hub_private", True)))


def _json(path: str) -> dict[str, object]:
    return dict(json.loads(Path(path).read_text(encoding="utf-8")))


if __name__ == "__main__":
    run(main)
