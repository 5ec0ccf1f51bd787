"""Rule ``segment_pass``: compute mean response NLLs of one shard under the long-context model θ_L.

There is one value given each context segment and the instruction, one given the instruction alone, and one given
nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gateau.command import run
from gateau.model_files import ModelSpec
from gateau.prompts import PromptEncoder
from gateau.scoring.arguments import pass_parser, run_pass

if TYPE_CHECKING:
    from gateau.scoring.passes import SegmentPass


def main() -> None:
    parser = pass_parser(__doc__)
    parser.add_argument("--segment-length", type=int, required=True, help="tokens of a segment")
    parser.add_argument("--batch-tokens", type=int, required=True, help="maximum tokens of a batch of segments")
    parser.add_argument("--screen", help="screen.parquet of rule screen (default: all samples are read as a whole)")
    parser.add_argument(
        "--segments", type=json.loads,
        help="JSON object: the shares attended and drawn of the segments that are read of samples that the screen does "
        "not admit (default: they are left out)",
    )  # fmt: skip
    parser.add_argument("--long", help="the shard's file of the long pass, needed by --segments")
    parser.add_argument("--attention-block", type=int, help="tokens of a block of stored attention, needed likewise")
    args = parser.parse_args()

    from gateau.schemas import SEGMENT_RESULT
    from gateau.scoring.segments import Choice, Screen

    choice = args.segments and Choice(
        segment_length=args.segment_length, attention_block=args.attention_block, **args.segments
    )
    screen = Screen(args.screen, args.long, choice) if args.screen else None

    def make_pass(config: Any, encoder: PromptEncoder) -> SegmentPass:
        from gateau.scoring.passes import SegmentPass

        return SegmentPass(args.segment_length, args.batch_tokens, tuple(encoder.start()))

    run_pass(
        args,
        ModelSpec.from_config(args.model),
        "segment_pass",
        SEGMENT_RESULT,
        make_pass,
        whole_window=True,
        screen=screen,
        segment_length=args.segment_length,
    )


if __name__ == "__main__":
    run(main)
