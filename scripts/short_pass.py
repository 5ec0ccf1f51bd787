"""Rule ``short_pass``: response NLL under the short-context model θ_S, for one shard."""

from gateau.command import run
from gateau.model_files import ModelSpec
from gateau.scoring.arguments import pass_parser, run_short_pass


def main() -> None:
    parser = pass_parser(__doc__)
    parser.add_argument("--short-context", choices=("ntk", "truncate", "none"), required=True)
    args = parser.parse_args()
    run_short_pass(args, ModelSpec.from_config(args.model), args.short_context)


if __name__ == "__main__":
    run(main)
