"""Rule ``choices``: compare how well each open choice of the method finds some labels on labelled data."""

from gateau.command import argument_parser, run
from gateau.files import write_text


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--scores", required=True, help="scores.parquet of rule scores")
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--positive", nargs="+", required=True, help="data set labels of the samples to find")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples")
    parser.add_argument("--csv", required=True, help="output: table of all choices, best first (.csv)")
    parser.add_argument("--markdown", required=True, help="output: table for people (.md)")
    args = parser.parse_args()

    from gateau.schemas import SCORES
    from gateau.selection.choices import choices_markdown, rank_choices
    from gateau.selection.comparison import compare, to_frame
    from gateau.selection.labelled import read_labels, total_tokens
    from gateau.tables import read_table

    scores = read_table(args.scores, SCORES).to_pandas()
    labels, lengths = read_labels(args.samples), total_tokens(scores.set_index("id"))
    table = to_frame(compare(rank_choices(scores), labels, lengths, args.positive, args.resamples, args.seed))
    write_text(args.csv, table.to_csv(index=False))
    write_text(args.markdown, choices_markdown(table))


if __name__ == "__main__":
    run(main)
