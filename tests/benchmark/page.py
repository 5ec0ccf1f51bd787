"""Measure the page of generated runs: seconds, peak memory and size, for 120, 10 000 and 200 000 samples.

Seconds of the processor tell more than those of the clock where other work runs beside it.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]


def main() -> None:
    from page_results import make_results

    print("| samples | seconds | of the CPU | peak memory | page |")
    print("|--------:|--------:|-----------:|------------:|-----:|")
    for count in map(int, sys.argv[1:] or ["120", "10000", "200000"]):
        with tempfile.TemporaryDirectory() as folder:
            results = make_results(Path(folder) / "results", count)
            start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, ROOT / "scripts/report_page.py", "--results", results], check=True, capture_output=True
            )
            seconds, size = time.monotonic() - start, (results / "report_page/index.html").stat().st_size
            # of the largest child so far: the counts grow
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            memory = f"{after.ru_maxrss * 1024 / 1e9:.2f} GB"
            print(f"| {count:,} | {seconds:.0f} | {cpu:.0f} | {memory} | {size / 1e6:.1f} MB |", flush=True)


if __name__ == "__main__":
    main()
