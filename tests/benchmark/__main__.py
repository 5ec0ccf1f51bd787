"""Measure all parts of the project, each as the ratio of two ways in one run.

``python tests/benchmark`` writes ``bench.json``, ``bench.md`` and ``bench.png`` after every part, so that a run that is
killed keeps what it has. ``--quick`` runs the same on tiny sizes, and shows that it works, not how fast it is.
"""

import argparse
import importlib
import inspect
import json
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT / "scripts"), str(ROOT / "tests")]

PARTS = {  # the module and its function, whose docstring says what the figures mean
    "released": "passes", "bound": "passes", "growth": "passes", "memory": "passes", "texts": "texts", "scale": "scale",
    "planning": "workflow", "start": "workflow", "page": "workflow", "answers": "answers", "training": "finetuning",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test of less than a minute")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where models run (default: cpu)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison (default: 3, with --quick 2)")
    parser.add_argument("--rows", type=int, nargs="+", help="rows of the part scale beside 10000 (default: 100000)")
    parser.add_argument("--model", help="a model for the parts bound, growth and answers (default: small ones)")
    parser.add_argument(
        "--context", type=int, default=1000, help="tokens of the context in the part answers (default: 1000)"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench", help="folder (default: results/bench)")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="compare two bench.json and measure nothing"
    )
    args = parser.parse_args()

    warnings.filterwarnings("ignore", category=FutureWarning)  # of transformers, about its own next version
    from benchmark import report
    from benchmark.harness import Settings

    if args.compare:
        print(report.compare(*(json.loads(path.read_text()) for path in args.compare)))
        return
    rows = (300, 900) if args.quick else tuple(sorted({10_000, *(args.rows or [100_000])}))
    rounds = args.rounds or (2 if args.quick else 3)
    settings = Settings(args.quick, args.device, rounds, rows, args.model, args.context)
    result = {**report.surroundings(args.device), "quick": args.quick, "parts": {}, "rows": []}
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        start = time.monotonic()
        measure = getattr(importlib.import_module(f"benchmark.{PARTS[name]}"), name)
        for row in measure(settings):
            result["rows"].append(row.record())
            print(report.line(result["rows"][-1]), file=sys.stderr, flush=True)
        meaning = " ".join(inspect.getdoc(measure).split())
        result["parts"][name] = {"meaning": meaning, "seconds": time.monotonic() - start}
        report.write(args.output, result)
    print((args.output / "bench.md").read_text())


if __name__ == "__main__":
    main()
