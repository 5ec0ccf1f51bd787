"""Rule ``long_pass``: compute response NLL and attention profiles of one shard under the long-context model θ_L."""

from gateau.command import run
from gateau.model_files import ModelSpec
from gateau.scoring.arguments import pass_parser, run_pass
from gateau.scoring.passes import LongPass


def main() -> None:
    parser = pass_parser(__doc__)
    parser.add_argument(
        "--layer-block",
        type=int,
        required=True,
        help="context tokens that are averaged into one entry of the attention profile by layer",
    )
    args = parser.parse_args()
    spec = ModelSpec.from_config(args.model)
    run_pass(
        args,
        spec,
        lambda config, encoder: LongPass(args.layer_block),
        whole_window=True,
        layer_block=args.layer_block,
    )


if __name__ == "__main__":
    run(main)
