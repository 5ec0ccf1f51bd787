"""Run the demo with several seeds, to see whether its result depends on chance.

Run ``python scripts/demo_seeds.py`` in the repository. Each run has its own generated rows, random rows, order of
training and questions, and measures far recall only. It is stored under ``results/demo_seeds/seed_<N>``, and a finished
run is not repeated. The table of all runs is printed at the end. docs/demo.md holds the table of seeds 0 to 4.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from gateau.command import argument_parser, run
from gateau.errors import DataError
from gateau.files import write_text
from gateau.places import ROOT, SCRIPTS


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of the runs")
    parser.add_argument(
        "--results", type=Path, default=Path("results/demo_seeds"), help="output: folder for the results of all runs"
    )
    parser.add_argument("--cores", default="all", help="number of cores for Snakemake")
    args = parser.parse_args()

    folders = [args.results / f"seed_{seed}" for seed in args.seeds]
    for seed, folder in zip(args.seeds, folders, strict=True):
        file = args.results / f"seed_{seed}.yaml"
        write_text(file, yaml.safe_dump(configuration(seed, folder)))
        command = ["-m", "snakemake", "evaluated", "--snakefile", str(ROOT / "workflow/Snakefile"), "--quiet", "rules"]
        command += ["--workflow-profile", "none", "--profile", str(ROOT / "profiles/local"), "--cores", args.cores]
        if subprocess.run([sys.executable, *command, "--configfile", str(file)], check=False).returncode:
            raise DataError(f"seed {seed}: Snakemake failed; its messages above say why")
    subprocess.run([sys.executable, SCRIPTS / "demo_summary.py", *folders], check=True)


def configuration(seed: int, folder: Path) -> dict[str, Any]:
    """Return config/demo.yaml with other seeds and folders, and far recall as its only benchmark."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "config/demo.yaml").read_text(encoding="utf-8"))
    config["results_dir"] = str(folder)
    config["data"]["long"] = str(folder / "planted_rows/long.jsonl")
    config["data"]["planted"]["seed"] = seed
    for section in ("mixture", "plan", "train"):
        config[section]["seed"] = seed
    config["evaluate"]["benchmarks"] = ["recall"]
    config["evaluate"]["recall"]["seed"] = seed
    return config


if __name__ == "__main__":
    run(main)
