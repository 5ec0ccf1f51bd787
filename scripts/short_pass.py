"""Rule ``short_pass``: compute the response NLL of one shard under the short-context model θ_S."""

from gateau.command import run
from gateau.model_files import ModelSpec
from gateau.scoring.arguments import add_short_context_option, pass_parser, run_short_pass


def main() -> None:
    parser = pass_parser(__doc__)
    add_short_context_option(parser)
    parser.add_argument("--cut-to", type=int, help="truncate to this many tokens (default: the window of --model)")
    args = parser.parse_args()
    run_short_pass(args, ModelSpec.from_config(args.model), args.short_context, args.cut_to)


if __name__ == "__main__":
    run(main)
