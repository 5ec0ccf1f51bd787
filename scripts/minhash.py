"""Rule ``minhash``: compute a MinHash signature of every sample's text, for finding near duplicates."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from gateau.command import argument_parser, progress, run

_COLUMNS = ["context", "instruction", "response"]
_AT_ONCE = 16  # texts per worker that are held in memory at once


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", required=True, help="samples.parquet of rule samples")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--output", required=True, help="output: signatures.parquet")
    args = parser.parse_args()

    from gateau.schemas import SIGNATURES
    from gateau.tables import write_rows

    write_rows(args.output, SIGNATURES, progress(signatures(args.samples, args.workers), "minhash", "sample"))


def signatures(samples: str, workers: int) -> Iterator[dict[str, object]]:
    """Yield rows of :data:`gateau.schemas.SIGNATURES` in the order of the samples."""
    from gateau.schemas import SAMPLES
    from gateau.selection.near_duplicates import signature
    from gateau.tables import iterate_rows

    rows = iterate_rows(samples, SAMPLES, ["id", *_COLUMNS])
    with ProcessPoolExecutor(workers) as pool:
        while batch := list(islice(rows, _AT_ONCE * workers)):
            texts = ["\n".join(row[name] for name in _COLUMNS) for row in batch]
            for row, values in zip(batch, pool.map(signature, texts), strict=True):
                yield {"id": row["id"], "signature": values.tolist()}


if __name__ == "__main__":
    run(main)
