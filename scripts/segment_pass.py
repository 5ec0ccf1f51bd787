"""Rule ``segment_pass``: compute mean response NLLs of one shard under the long-context model θ_L.

There is one value given each context segment and the instruction, one given the instruction alone, and one given
nothing.
"""

from __future__ import annotations

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
    args = parser.parse_args()

    from gateau.schemas import SEGMENT_RESULT

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
        segment_length=args.segment_length,
    )


if __name__ == "__main__":
    run(main)
