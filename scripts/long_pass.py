"""Rule ``long_pass``: compute response NLL and attention profiles of one shard under the long-context model θ_L."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateau.command import run
from gateau.model_files import ModelSpec
from gateau.prompts import PromptEncoder
from gateau.scoring.arguments import pass_parser, run_pass

if TYPE_CHECKING:
    from gateau.scoring.passes import LongPass


def main() -> None:
    parser = pass_parser(__doc__)
    parser.add_argument(
        "--attention-block", type=int, required=True,
        help="context tokens that are averaged into one entry of the attention profile over all layers",
    )  # fmt: skip
    parser.add_argument(
        "--layer-block", type=int, required=True,
        help="context tokens that are averaged into one entry of the attention profile by layer",
    )  # fmt: skip
    args = parser.parse_args()

    from gateau.schemas import LONG_RESULT

    def make_pass(config: Any, encoder: PromptEncoder) -> LongPass:
        from gateau.scoring.passes import LongPass

        return LongPass(args.attention_block, args.layer_block)

    run_pass(
        args,
        ModelSpec.from_config(args.model),
        "long_pass",
        LONG_RESULT,
        make_pass,
        whole_window=True,
        attention_block=args.attention_block,
        layer_block=args.layer_block,
    )


if __name__ == "__main__":
    run(main)
