"""Rule ``train``: fine-tune the model of one experiment and write its weights, its history and a summary.

The script starts its own ranks. On SIGTERM or SIGUSR1, the training saves a checkpoint and ends with exit code 75. The
same command then continues from this checkpoint.
"""

import json
import sys

from gateau.command import argument_parser, run
from gateau.model_files import ModelSpec
from gateau.training.checkpoints import explain_failed_writes
from gateau.training.launcher import PREEMPTED, end_rank, is_rank, launch


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--experiment", required=True, help="name of the experiment")
    parser.add_argument("--mixture", required=True, help="mixture.parquet of rule mixture")
    parser.add_argument("--plan", required=True, help="plan.parquet of rule plan")
    parser.add_argument("--long", required=True, help="tokens of the long samples, Parquet")
    parser.add_argument("--short", help="tokens of the short chats, Parquet (default: no short chats)")
    parser.add_argument("--base", type=json.loads, required=True, help="models.base, the model to fine-tune, as JSON")
    parser.add_argument(
        "--options",
        type=json.loads,
        required=True,
        help="settings of the section train that change the result, as JSON",
    )
    parser.add_argument(
        "--run",
        type=json.loads,
        required=True,
        help="all other settings of the section train, and log_dir, the folder of the TensorBoard logs, as JSON",
    )
    parser.add_argument("--model", required=True, help="output: folder of the trained weights or adapters")
    parser.add_argument("--history", required=True, help="output: history.jsonl, losses and speed of every step")
    parser.add_argument("--summary", required=True, help="output: summary.json")
    args = parser.parse_args()

    nodes, ranks_per_node = args.run["nodes"], args.run["ranks_per_node"]
    if (nodes * ranks_per_node > 1 or args.run["deepspeed"]) and not is_rank():
        sys.exit(launch(sys.argv, nodes, ranks_per_node))

    from gateau.training.finetuning import finetune
    from gateau.training.options import RunOptions, TrainFiles, TrainOptions

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
    with explain_failed_writes(settings.checkpoint_dir, args.model):
        finished = finetune(args.experiment, spec, options, settings, files)
    code = 0 if finished else PREEMPTED
    if is_rank():
        end_rank(code)
    sys.exit(code)


if __name__ == "__main__":
    run(main)
