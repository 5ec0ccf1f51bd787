"""Rule ``report_page``: make one page of a results folder, finished or not, that needs no network."""

import logging
from pathlib import Path

from gateau.command import argument_parser, run


def main() -> None:
    """Write the page."""
    parser = argument_parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="results folder, the results_dir of a run")
    parser.add_argument("--output", type=Path, help="the page (default: report_page/index.html in the results folder)")
    parser.add_argument(
        "--sample", action="append", default=[], help="id of a sample to embed in full, whatever its rank; repeatable"
    )
    args = parser.parse_args()

    from gateau.errors import DataError
    from gateau.files import write_text
    from gateau.report_page.page import make_page

    if not args.results.is_dir():
        raise DataError(f"{args.results}: no such folder; give the results_dir of your configuration")
    output = args.output or args.results / "report_page/index.html"
    output.parent.mkdir(parents=True, exist_ok=True)
    page = make_page(args.results, output, args.sample)
    write_text(output, page)
    logging.info("%s: %.1f MB", output, len(page.encode()) / 1e6)


if __name__ == "__main__":
    run(main)
