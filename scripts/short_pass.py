"""Rule ``short_pass``: response NLL under the short-context model θ_S, for one shard."""

from typing import Any

from gateau.command import run
from gateau.errors import ModelError
from gateau.model_files import ModelSpec
from gateau.prompts import PromptEncoder
from gateau.scoring.arguments import pass_parser, run_pass
from gateau.scoring.passes import ShortPass


def main() -> None:
    parser = pass_parser(__doc__)
    parser.add_argument("--short-context", choices=("ntk", "truncate", "none"), required=True)
    args = parser.parse_args()

    spec = ModelSpec.from_config(args.model)

    def make_pass(config: Any, encoder: PromptEncoder) -> ShortPass:
        if args.short_context != "truncate":
            return ShortPass(window=None)
        window = getattr(config, "max_position_embeddings", None)
        if window is None:
            raise ModelError(f"{spec.path} does not tell its window; set models.short.window")
        return ShortPass(window)

    run_pass(args, spec, make_pass, dynamic_ntk=args.short_context == "ntk", short_context=args.short_context)


if __name__ == "__main__":
    run(main)
