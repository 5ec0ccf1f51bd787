"""Rule ``contrast_pass``: response NLL under what a method puts in place of θ_S, for one shard."""

import json

from gateau.command import run
from gateau.model_files import ModelSpec
from gateau.models import load_config, resolved
from gateau.scoring.arguments import context_window, pass_parser, run_short_pass


def main() -> None:
    parser = pass_parser(__doc__)
    parser.add_argument("--short-context", choices=("ntk", "truncate", "none"), required=True)
    parser.add_argument("--window-of", type=json.loads, help="take this model's window, as JSON; default: its own")
    args = parser.parse_args()
    window = None
    if args.window_of:
        other = resolved(ModelSpec.from_config(args.window_of))
        window = context_window(other, load_config(other))
    run_short_pass(args, ModelSpec.from_config(args.model), args.short_context, window)


if __name__ == "__main__":
    run(main)
