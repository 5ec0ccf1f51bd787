"""Rule ``comparison``: compare how well each method finds some labels on labelled data; write a table and a plot."""

import logging
from pathlib import Path

from gateau.command import argument_parser, run
from gateau.files import write_text


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rankings", nargs="+", required=True, help="<experiment>/ranking.parquet of each experiment")
    parser.add_argument("--scores", required=True, help="scores.parquet of rule scores")
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--positive", nargs="+", required=True, help="data set labels of the samples to find")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples")
    parser.add_argument("--csv", required=True, help="output: table (.csv)")
    parser.add_argument("--markdown", required=True, help="output: table for people (.md)")
    parser.add_argument("--plot", required=True, help="output: plot (.png, .svg or .pdf)")
    args = parser.parse_args()

    from gateau.schemas import RANKING
    from gateau.selection.comparison import compare, plot_comparison, to_frame, to_markdown
    from gateau.selection.labelled import read_labels, total_tokens
    from gateau.selection.measures import read_scores
    from gateau.tables import read_table

    rankings = {Path(path).parent.name: read_table(path, RANKING).to_pandas() for path in args.rankings}
    lengths = total_tokens(read_scores(args.scores).set_index("id"))
    compared = compare(rankings, read_labels(args.samples), lengths, args.positive, args.resamples, args.seed)
    write_text(args.csv, to_frame(compared).to_csv(index=False))
    write_text(args.markdown, to_markdown(compared, args.positive))
    plot_comparison(compared, args.plot)
    logging.info("\n%s", to_markdown(compared, args.positive))


if __name__ == "__main__":
    run(main)
