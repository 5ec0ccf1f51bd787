"""The invalidation table, really run: after each change exactly what the dry run names is written anew.

One run of every stage is changed again and again, each change on top of those before it. What ran is read off the files
of results, not taken from Snakemake's word. What a dry run names is checked in test_dag.py and test_evaluation.py.
"""

import json
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import (
    ROOT,
    TINY_PAIR,
    merged,
    other_weights,
    planned_rules,
    row,
    run_script,
    snakemake,
    snakemake_command,
    touch_all,
    whole_config,
    write_jsonl,
)

pytestmark = [pytest.mark.workflow, pytest.mark.long]

BENCHMARKS = ["longbench_chat", "needle"]
SCORES = {f"score_{benchmark}" for benchmark in BENCHMARKS}
AFTER_ANSWERS = {"predictions", "judge", *SCORES, "leaderboard", "answers"}
AFTER_TRAINING = {"export", "plot_train", "generate", *AFTER_ANSWERS}
AFTER_PLAN = {"train", *AFTER_TRAINING}
AFTER_TOKENS = {"mixture", "plan", *AFTER_PLAN}
AFTER_SCORES = {"selection", "plot_selection", "overview", "scored", "dataset", *AFTER_TOKENS}
PASSES = {"short_pass", "long_pass", "segment_pass"}
BESIDE_RESULTS = {"logs", "benchmarks", "progress", "checkpoints"}


@dataclass
class Run:
    """A working directory with a checkout, and its configuration as it is by now."""

    directory: Path
    config: dict[str, Any]

    def change(self, change):
        self.config = merged(self.config, change)

    def call(self, *arguments):
        result = snakemake(self.directory, self.config, *arguments)
        assert result.returncode == 0, result.stdout
        return result.stdout

    def planned(self, *targets):
        """The rule of every output that a dry run would make."""
        jobs = re.findall(r"^(?:local)?rule (\w+):\n((?: +.*\n)+)", self.call(*targets, "--dry-run"), re.M)
        return {
            path: rule
            for rule, text in jobs
            for line in re.findall(r"^ +output: (.*)$", text, re.M)
            for path in line.split(", ")
        }

    def stamps(self):
        """What tells of every file of results whether it was written since."""
        found = {}
        for path in (self.directory / "results").rglob("*"):
            place = path.relative_to(self.directory)
            hidden = any(part.startswith(".") for part in place.parts)
            if path.is_file() and place.parts[1] not in BESIDE_RESULTS and not hidden:
                stat = path.stat()
                found[str(place)] = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
        return found

    def rerun(self, name, *targets):
        """Run; the rules and the files that were written, which are those that were planned, and nothing is left."""
        planned, before, started = self.planned(*targets), self.stamps(), time.monotonic()
        self.call(*targets)
        seconds = time.monotonic() - started
        written = [path for path, stamp in self.stamps().items() if before.get(path) != stamp]
        owners = {path: planned_output(path, planned) for path in written}
        assert [path for path, owner in owners.items() if owner is None] == []
        assert set(owners.values()) == set(planned)
        assert planned_rules(self.directory, self.config, *targets) == set()
        rules = {planned[owner] for owner in owners.values()} - {"manifest", "provenance", "report_page"}
        print(f"{name}: {len(written)} files of {len(rules)} rules in {seconds:.0f} s")
        return rules, written

    def logs(self, rule):
        return "".join(path.read_text() for path in sorted((self.directory / "results/logs" / rule).rglob("*.log")))


def planned_output(path, planned):
    """The output that a file is, or lies in."""
    return next((str(place) for place in [Path(path), *Path(path).parents] if str(place) in planned), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("invalidation") / "first"
    for name in ("workflow", "config", "scripts", "profiles", "envs"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    config = whole_config(directory, evaluate={"benchmarks": BENCHMARKS})
    planted = run_script(
        "planted_rows", "--planted", json.dumps({"seed": 0, **config["data"]["planted"]}),
        "--output", directory / "long.jsonl", "--chats", directory / "short.jsonl",
    )  # fmt: skip
    assert planted.returncode == 0, planted.stderr
    (directory / "rows").mkdir()
    rows = [json.loads(line) for line in (directory / "long.jsonl").read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(rows[:6]), directory / "rows/first.parquet")
    write_jsonl(directory / "rows/more.jsonl", rows[6:])
    for role in ("short", "long"):
        other_weights(TINY_PAIR / role, directory / f"other_{role}")
    config = merged(config, {"data": {"long": "rows", "short": "short.jsonl", "planted": None}})
    made = Run(directory, config)
    rules, _ = made.rerun("everything")
    assert rules == {"samples", "chats", "index", *PASSES, "scores", "tokens", "assets", *AFTER_SCORES}
    return made


def test_times_places_machines_and_resources_rerun_nothing(run):
    touch_all(run.directory)
    run.directory = run.directory.rename(run.directory.parent / "moved")
    elsewhere = {
        "train": {"nodes": 2, "ranks_per_node": 4, "deepspeed": "config/deepspeed/zero2.json", "save_steps": 9},
        "scoring": {"threads": 2},
        "evaluate": {"generate": {"threads": 2}},
    }
    config, run.config = run.config, merged(run.config, elsewhere)
    before = run.stamps()
    arguments = ["--set-resources", "train:slurm_partition=other", "train:mem_mb=9", "long_pass:gpu=4"]
    assert "Nothing to be done" in run.call(*arguments)
    assert run.stamps() == before
    command = snakemake_command(run.directory, run.config, "--dry-run")
    command = [word.replace(str(ROOT / "profiles/local"), str(ROOT / "profiles/slurm")) for word in command]
    slurm = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert slurm.returncode == 0, slurm.stderr
    assert "Nothing to be done" in slurm.stdout + slurm.stderr
    run.config = config


def test_another_judge_asks_no_model(run):
    stand_in = run.directory / "scripts/stand_in_judge.py"
    stand_in.write_text(stand_in.read_text().replace('"stand-in-judge"', '"another-judge"'))
    run.change({"evaluate": {"judge": {"model": "another-judge"}}})
    rules, _ = run.rerun("judge model")
    assert rules == {"judge", *SCORES, "leaderboard", "answers"}


def test_alpha_reruns_the_ranking_and_what_follows(run):
    run.change({"selection": {"alpha": 0.5}})
    rules, _ = run.rerun("α")
    assert rules == AFTER_SCORES


def test_appended_rows_are_the_only_ones_computed(run):
    """A line is appended to a file, and a folder gets another Parquet file."""
    new = [
        row(f"Note {name} balor.\n\nWhat does note {name} say?", f"Note {name} balor.", id=name)
        for name in ("otter", "falcon")
    ]
    with (run.directory / "rows/more.jsonl").open("a") as file:
        file.write(json.dumps(new[0]) + "\n")
    pq.write_table(pa.Table.from_pylist(new[1:]), run.directory / "rows/new.parquet")
    rules, written = run.rerun("rows appended")
    assert rules == {"samples", "index", "scores", *PASSES, "tokens", *AFTER_SCORES}
    assert "results/tokens/short.parquet" not in written
    for rule in PASSES:
        assert "12 samples, 10 found" in run.logs(rule)
        assert "2 to compute" in run.logs(rule)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cam": {"segment_length": 32}}, {"segment_pass", "scores", *AFTER_SCORES}),
        ({"scoring": {"screen": 0.5}}, {"screen", "segment_pass", "scores", *AFTER_SCORES}),
        ({"scoring": {"screen": None}}, {"segment_pass", "scores", *AFTER_SCORES}),
        ({"models": {"short": "other_short"}}, {"short_pass", "scores", *AFTER_SCORES}),
        ({"scoring": {"short_context": "truncate"}}, {"short_pass", "scores", *AFTER_SCORES}),
        # models.base is the long one
        ({"models": {"long": "other_long"}}, {"long_pass", "segment_pass", "scores", *AFTER_SCORES}),
        ({"scoring": {"prompt": "{context} {instruction} {response}"}}, {"index", "scores", *PASSES, *AFTER_SCORES}),
        ({"scoring": {"max_length": 700}}, {"index", "scores", *PASSES, *AFTER_SCORES}),
        ({"train": {"learning_rate": 5e-4}}, {"dataset", *AFTER_PLAN}),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_setting_reruns_what_depends_on_it(run, change, expected):
    run.change(change)
    rules, _ = run.rerun(json.dumps(change))
    assert rules == expected


def test_an_edited_module_reruns_the_rules_that_stand_on_it_and_loads_no_model(run):
    path = run.directory / "scripts/gateau/scoring/attention.py"
    path.write_text(path.read_text() + "\n# a remark\n")
    rules, _ = run.rerun("module edited")
    assert rules == {"scores", *PASSES, *AFTER_SCORES}
    for rule in PASSES:
        assert re.search(r"(\d+) samples, \1 found", run.logs(rule))
        assert "loading " not in run.logs(rule)


def test_an_added_benchmark_asks_nothing_else_again(run):
    benchmarks = [*BENCHMARKS, "mt_bench"]
    run.change({"evaluate": {"benchmarks": benchmarks, "judge": {"benchmarks": benchmarks}}})
    rules, written = run.rerun("benchmark added")
    assert rules == {"assets", "generate", "predictions", "judge", "score_mt_bench", "leaderboard", "answers"}
    assert [path for path in written if any(benchmark in path for benchmark in BENCHMARKS)] == []


def test_an_added_experiment_leaves_the_others_alone(run):
    run.change({"experiments": {"second": {"alpha": 1}}})
    rules, written = run.rerun("experiment added")
    assert rules == {*AFTER_SCORES, *(f"score_{benchmark}" for benchmark in run.config["evaluate"]["benchmarks"])}
    assert [path for path in written if re.search("/gateau[/.]", path) and "/second/" not in path] == []
