"""Rule ``samples``: validate raw instruction data and write the samples, the rejected rows and a summary."""

from gateau.command import run
from gateau.data.arguments import intake_parser, run_intake
from gateau.data.samples import LONG_ROWS


def main() -> None:
    run_intake(LONG_ROWS, intake_parser(LONG_ROWS, __doc__).parse_args())


if __name__ == "__main__":
    run(main)
