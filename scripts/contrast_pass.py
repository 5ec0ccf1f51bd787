"""Rule ``contrast_pass``: compute the response NLL of one shard under the model that a method uses instead of θ_S."""

import json

from gateau.command import run
from gateau.model_files import ModelSpec
from gateau.models import load_config, resolved
from gateau.scoring.arguments import add_short_context_option, context_window, pass_parser, run_short_pass


def main() -> None:
    parser = pass_parser(__doc__)
    add_short_context_option(parser)
    parser.add_argument(
        "--window-of",
        type=json.loads,
        help="truncate to the window of this model, an entry of models as JSON (default: the window of --model)",
    )
    args = parser.parse_args()
    window = None
    if args.window_of:
        other = resolved(ModelSpec.from_config(args.window_of))
        window = other.context_window() or context_window(other, load_config(other))
    run_short_pass(args, ModelSpec.from_config(args.model), args.short_context, window)


if __name__ == "__main__":
    run(main)
