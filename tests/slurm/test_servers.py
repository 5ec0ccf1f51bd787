"""Servers that jobs start on a real SLURM: on the node of their job, with its GPUs, and two on one node at once."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from helpers import ROOT, TINY_PAIR, small_config
from slurm.test_cluster import FAST, stays

pytestmark = [pytest.mark.workflow, pytest.mark.slurm]
FAKE = ROOT / "tests/unit/fake_server.py"
MODELS = ("one", "two")
ANSWERS = "results/generate/two/mt_bench/0000-of-0001.jsonl"
JUDGMENTS = "results/judge/one/mt_bench/judgments.jsonl"


def started(mode):
    return f"{shlex.join([sys.executable, str(FAKE)])} {{model}} {{port}} '{mode}'"


@pytest.fixture(scope="module")
def finished(cluster, tmp_path_factory):
    """Two models answer, each through a server that is ready only while the other one runs too; a third one judges."""
    directory = tmp_path_factory.mktemp("servers")
    for name in ("models/one", "models/two", "judge/third"):
        shutil.copytree(TINY_PAIR / "long", directory / name)
    config = small_config(directory)
    config["evaluate"] = {
        "benchmarks": ["mt_bench"],
        "models": {name: str(directory / "models" / name) for name in MODELS},
        "assets": {"source": "own"},
        "servers": {name: {"start": started("meets another"), "seconds": 600} for name in MODELS},
        "judge": {
            "benchmarks": ["mt_bench"], "model": str(directory / "judge/third"), "start": started("judges"), "gpus": 2,
        },
    }  # fmt: skip
    (directory / "cluster.yaml").write_text(yaml.safe_dump(config))
    fast = [part for name, value in FAST.items() for part in (f"--{name}", str(value))]
    command = [
        sys.executable, "-m", "snakemake", ANSWERS, JUDGMENTS, "--workflow-profile", "slurm", *fast, "--retries", "0",
        "--directory", str(directory), "--configfile", str(directory / "cluster.yaml"),
    ]  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    logs = "\n".join(log.read_text() for log in (directory / "results/logs").rglob("*.log"))
    assert result.returncode == 0, result.stderr + logs
    return directory


def where(directory, name):
    (stay,) = stays(directory / "results/logs" / f"{name}.log")
    return stay


def command_of(directory, name):
    """The command of a job's server."""
    return (directory / "results/logs" / f"{name}.server.log").read_text().splitlines()[0]


def test_two_jobs_on_one_node_start_servers_that_do_not_collide(finished):
    jobs = [f"generate/{name}/mt_bench/0000-of-0001" for name in MODELS]
    one, two = (where(finished, job) for job in jobs)
    assert one.job != two.job
    assert one.node == two.node
    assert len(one.gpus) == len(two.gpus) == 1
    assert one.gpus != two.gpus
    ports = {shlex.split(command_of(finished, job))[3] for job in jobs}
    assert len(ports) == 2
    answers = [json.loads(line) for line in (finished / ANSWERS).read_text().splitlines()]
    assert {turn["text"] for row in answers for turn in row["turns"]} == {"fine"}


def test_a_judge_that_is_started_is_a_job_with_gpus(finished):
    assert len(where(finished, "judge/one/mt_bench").gpus) == 2
    assert "judge/third" in command_of(finished, "judge/one/mt_bench")
    judgments = [json.loads(line) for line in (finished / JUDGMENTS).read_text().splitlines()]
    assert {one["rating"] for one in judgments} == {5}
    summary = json.loads((finished / JUDGMENTS).with_name("summary.json").read_text())
    assert summary["judge"] == "third"
    assert summary["server"].endswith("version 1.5")
    assert summary["calls"] + summary["cached"] >= len(judgments)


def test_no_server_stays_behind(finished):
    def names_a_model(process):
        try:
            return any(part.startswith(str(finished)) for part in process.cmdline())
        except psutil.Error:  # it has ended meanwhile
            return False

    assert [process for process in psutil.process_iter() if names_a_model(process)] == []
    assert sorted(path.name for path in Path(finished).glob("*/*.started")) == [
        "one.started", "third.started", "two.started",
    ]  # fmt: skip
