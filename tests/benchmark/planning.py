"""What ``snakemake -n`` costs for 8 experiments, 4 benchmarks and many shards, before a run and after it.

``python tests/benchmark/planning.py [--shards N ...]`` prints a table. Results are pretended: files of a few bytes, and
Snakemake's own records of them.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planning import large_config, plan, pretend


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 3334, 10_000])
    args = parser.parse_args()
    print("| shards of each of three passes | jobs | seconds | of them CPU | peak memory |\n|---|---:|---:|---:|---:|")
    for shards in args.shards:
        with tempfile.TemporaryDirectory() as folder:
            config = large_config(Path(folder), shards)
            before = plan(Path(folder), config)
            show(f"{shards}, nothing made yet", before)
            if shards <= 1000:  # pretending takes the square of it
                pretend(Path(folder), config)
                show(f"{shards}, everything made", plan(Path(folder), config))


def show(name, made):
    print(f"| {name} | {made.jobs} | {made.wall:.1f} | {made.cpu:.1f} | {made.peak / 1e6:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
