"""Rule ``samples``: validate raw instruction data and write the samples, the rejected rows, a summary and a preview."""

import json

from gateau.command import run
from gateau.data.arguments import intake_parser, run_intake
from gateau.files import write_text
from gateau.model_files import ModelSpec


def main() -> None:
    parser = intake_parser("samples", __doc__)
    parser.add_argument(
        "--model", type=json.loads, help="models.long, as JSON; its tokenizer counts min_tokens and max_tokens"
    )
    parser.add_argument("--preview", help="output: preview.txt, the parts of ten random rows (default: none)")
    parser.add_argument("--preview-page", help="output: preview.html, the same as a page (default: none)")
    args = parser.parse_args()

    from gateau.data.limits import drawn, token_check
    from gateau.data.preview import Preview
    from gateau.data.samples import long_intake

    intake, preview = long_intake(args.options, args.duplicate_content == "keep"), Preview()
    if args.model:
        from gateau.models import load_tokenizer, resolved
        from gateau.prompts import DEFAULT_TEMPLATE, PromptEncoder

        encoder = PromptEncoder(load_tokenizer(resolved(ModelSpec.from_config(args.model))), DEFAULT_TEMPLATE)
        intake.check = token_check(encoder.count_tokens, args.options["min_tokens"], args.options["max_tokens"])
    run_intake(drawn(intake, args.input, args.options), args, preview)
    if args.preview:
        write_text(args.preview, preview.text())
    if args.preview_page:
        write_text(args.preview_page, preview.page())


if __name__ == "__main__":
    run(main)
