"""Rule ``embeddings``: embed the instruction and context of every sample, for selections that use clusters."""

from gateau.command import run
from gateau.scoring.text_models import load_embedder, run_text_model, text_model_parser


def main() -> None:
    args = text_model_parser(__doc__).parse_args()

    from gateau.schemas import EMBEDDINGS
    from gateau.tables import write_rows

    write_rows(args.output, EMBEDDINGS, run_text_model(args, "embeddings", EMBEDDINGS, load_embedder))


if __name__ == "__main__":
    run(main)
