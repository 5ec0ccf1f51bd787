"""Rule ``plot_train``: plot the training and held-out losses of all experiments in one figure."""

from pathlib import Path

from gateau.command import argument_parser, run
from gateau.files import read_jsonl


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--histories",
        nargs="+",
        type=Path,
        required=True,
        help="history.jsonl of each experiment, in a folder with the experiment's name",
    )
    parser.add_argument("--output", required=True, help="output: the figure, PNG or SVG by its extension")
    args = parser.parse_args()

    from gateau.training.plots import plot_losses

    histories = {path.parent.name: [entry for _, entry in read_jsonl(path)] for path in args.histories}
    plot_losses(histories, args.output)


if __name__ == "__main__":
    run(main)
