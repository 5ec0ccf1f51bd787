"""``kill -9`` of Snakemake and all it started, anywhere in the whole DAG: a rerun ends as if nothing had happened.

One run is killed three times, and twenty runs are killed once each. The killed runs have other numbers of shards than
the undisturbed one.
"""

import json
import os
import random
import subprocess
import time

import pytest

from helpers import ROOT, kill_tree, parquet_content, planned_rules, snakemake, snakemake_command, whole_config

pytestmark = [pytest.mark.workflow, pytest.mark.long]

SEED = int(os.environ.get("GATEAU_KILL_SEED", "1"))


def outcome(directory):
    """What a run stands for, as values: tables to the last bit, other files to the last byte."""
    results = directory / "results"
    tables = [
        *results.glob("selection/*/*.parquet"),
        *results.glob("tokens/*.parquet"),
        *results.glob("plan/*/*.parquet"),
    ]
    tables += [results / "scores/scores.parquet", *results.glob("mixture/*/*.parquet")]
    files = [*results.glob("selection/*/*.jsonl"), *results.glob("export/*/*.safetensors")]
    files += results.glob("predictions/**/*.jsonl")
    files += [*results.glob("score_*/*/*.json*"), *results.glob("leaderboard/*.csv")]
    contents = {str(path.relative_to(results)): parquet_content(path) for path in tables}
    contents |= {str(path.relative_to(results)): path.read_bytes() for path in files}
    for path in results.glob("judge/*/*/judgments.jsonl"):  # usage counts a repeated call
        rows = [json.loads(line) for line in path.open()]
        contents[str(path.relative_to(results))] = [(row["id"], row["rating"], row["text"]) for row in rows]
    return contents


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run ends with, and how long it takes in seconds."""
    directory = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    # jobs start as in the killed runs, so that the moments of kills spread over the whole of those
    command = snakemake_command(directory, whole_config(directory))
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    found = outcome(directory)
    assert len(found) >= 15
    return found, time.monotonic() - started


def killed_run(directory, config, seconds):
    """A run that is killed after so many seconds; the lock it leaves is taken away as a user would."""
    with (directory / "killed.log").open("ab") as log:
        process = subprocess.Popen(
            snakemake_command(directory, config), stdout=log, stderr=log, cwd=ROOT, start_new_session=True
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            kill_tree(process)
    assert snakemake(directory, config, "--unlock").returncode == 0


@pytest.mark.parametrize(("run", "kills"), [(0, 3), *((run, 1) for run in range(1, 21))])
def test_killed_anywhere_a_rerun_ends_the_same(undisturbed, tmp_path, run, kills):
    expected, duration = undisturbed
    config = whole_config(
        tmp_path, scoring={"shards": 2}, evaluate={"generate": {"shards": {"longbench_chat": 2, "needle": 3}}}
    )
    generator = random.Random(f"{SEED} {run}")
    moments = [generator.uniform(2, duration / kills) for _ in range(kills)]  # each kill hits another part of the run
    for seconds in moments:
        killed_run(tmp_path, config, seconds)
    folders = sorted(path.name for path in (tmp_path / "results").glob("*"))
    result = snakemake(tmp_path, config)
    assert result.returncode == 0, result.stdout
    assert outcome(tmp_path) == expected
    assert planned_rules(tmp_path, config) == set()
    print(f"killed after {', '.join(f'{seconds:.0f}' for seconds in moments)} s with {len(folders)} folders of results")
