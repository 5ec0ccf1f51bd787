"""Rule ``train``: one experiment's plan and tokens → a fine-tuned model, its history and a summary.

Starts its own ranks. SIGTERM or SIGUSR1 makes it save a checkpoint and end with code 75; the same command then goes on.
"""

import argparse
import json
import sys

from gateau.command import run
from gateau.model_files import ModelSpec
from gateau.training.checkpoints import told_writes
from gateau.training.launcher import PREEMPTED, end_rank, is_rank, launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--mixture", required=True)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--long", required=True, help="tokens of the long samples")
    parser.add_argument("--short", help="tokens of the short chats, if there are any")
    parser.add_argument("--base", type=json.loads, required=True, help="models.base, as JSON")
    parser.add_argument("--options", type=json.loads, required=True, help="settings that change the result, as JSON")
    parser.add_argument("--run", type=json.loads, required=True, help="settings that do not, as JSON")
    parser.add_argument("--model", required=True, help="output: model directory")
    parser.add_argument("--history", required=True, help="output: history.jsonl")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    args = parser.parse_args()

    nodes, ranks_per_node = args.run["nodes"], args.run["ranks_per_node"]
    if (nodes * ranks_per_node > 1 or args.run["deepspeed"]) and not is_rank():
        sys.exit(launch(sys.argv, nodes, ranks_per_node))

    from gateau.training.finetuning import RunOptions, TrainFiles, TrainOptions, finetune

    files = TrainFiles(
        mixture=args.mixture,
        plan=args.plan,
        tokens={"long": args.long, **({"short": args.short} if args.short else {})},
        model=args.model,
        history=args.history,
        summary=args.summary,
    )
    spec = ModelSpec.from_config(args.base)
    options, settings = TrainOptions(**args.options), RunOptions(**args.run)
    with told_writes(settings.checkpoint_dir, args.model):
        finished = finetune(args.experiment, spec, options, settings, files)
    code = 0 if finished else PREEMPTED
    if is_rank():
        end_rank(code)
    sys.exit(code)


if __name__ == "__main__":
    run(main)
