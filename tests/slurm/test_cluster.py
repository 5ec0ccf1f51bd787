"""The workflow on a real SLURM of two virtual nodes with four GPUs each: what runs where, and what cancelling does.

One local run is the reference. From its data two runs start on the cluster at once: one scores three shards and trains
on two GPUs of one node, the other trains on one GPU of each node. Meanwhile jobs of both are cancelled.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from helpers import ROOT, merged, parquet_content, planned_rules, small_config, snakemake
from slurm.cluster import GPUS_PER_NODE, NODES, job_processes, wait_for

pytestmark = [pytest.mark.workflow, pytest.mark.slurm]
PASSES = ("short_pass", "long_pass", "segment_pass")
SELECTION = "results/selection/gateau"
TRAINED = "results/train/random"
SCORING, TRAINING = f"{SELECTION}/ranking.parquet", f"{TRAINED}/model"
MADE_ON_THE_CLUSTER = ("index", *PASSES, "scores", "selection", "train", "progress", "checkpoints", "logs")
FAST = {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 2,
        "seconds-between-status-checks": 3, "latency-wait": 20}  # fmt: skip


def config_of(directory, **overrides):
    """``device: auto`` asks for GPUs, and computes on the CPU where CUDA has none."""
    config = small_config(
        directory,
        experiments={"gateau": {}, "random": {"method": "random", "n_long": 8}},
        scoring={"device": "auto"},
        train={"device": "auto", "ranks_per_node": 2, "learning_rate": 1e-4},
        plan={"epochs": 8},
    )
    return merged(config, overrides)


class Local(NamedTuple):
    """The reference: a local run, trained on two ranks, and the losses of one rank alone."""

    directory: Path
    losses: list[float]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    directory = tmp_path_factory.mktemp("local")
    alone = config_of(directory, train={"ranks_per_node": 1})
    result = snakemake(directory, alone, SCORING, TRAINING)
    assert result.returncode == 0, result.stdout
    losses = losses_of(directory)
    shutil.rmtree(directory / "results/checkpoints")
    result = snakemake(directory, config_of(directory), TRAINING, "--forcerun", "train")
    assert result.returncode == 0, result.stdout
    return Local(directory, losses)


class Run:
    """The workflow on the cluster, in a folder with the local run's data."""

    def __init__(self, directory, local, **overrides):
        names = [f"results/{name}" for name in MADE_ON_THE_CLUSTER]
        shutil.copytree(local.directory, directory, ignore=lambda folder, _: [
            Path(name).name for name in names if Path(folder) == (local.directory / name).parent
        ])  # fmt: skip
        self.directory, self.config, self.log = directory, config_of(directory, **overrides), directory / "run.log"

    def start(self, *targets):
        file = self.directory / "cluster.yaml"
        file.write_text(yaml.safe_dump(self.config))
        fast = [part for name, value in FAST.items() for part in (f"--{name}", str(value))]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "snakemake", *targets, "--workflow-profile", "slurm", *fast,
                    "--directory", str(self.directory), "--configfile", str(file),
                ],
                cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip

    def running(self, rule, wildcard):
        """Id of the running job of this rule."""
        assert self.process.poll() is None, self.log.read_text()
        ours = set(re.findall(r"SLURM jobid (\d+)", self.log.read_text()))
        queue = subprocess.run(
            ["squeue", "-h", "-t", "running", "-o", "%i %k"], capture_output=True, text=True, check=True
        )
        jobs = dict(line.split() for line in queue.stdout.splitlines())
        return next((job for job in ours & jobs.keys() if jobs[job] == f"rule_{rule}_wildcards_{wildcard}"), None)

    def finish(self):
        try:
            self.process.wait(timeout=900)
        finally:
            self.stop()
        assert self.process.returncode == 0, self.log.read_text() + "".join(map(Path.read_text, self.logs("train")))

    def stop(self):
        """As Ctrl-C: Snakemake cancels its jobs."""
        if getattr(self, "process", None) and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def logs(self, rule):
        return sorted((self.directory / "results/logs" / rule).glob("*.log"))

    def has_checkpoint(self):
        return any((self.directory / "results/checkpoints").rglob("complete.json"))


class Cancellation(NamedTuple):
    """Which job is cancelled, when, and how."""

    name: str
    run: Run
    job: tuple[str, str]
    ready: Callable[[], bool]
    options: list[str]


@pytest.fixture(scope="module")
def runs(cluster, local, tmp_path_factory):
    """Both runs, finished; the ids of the cancelled jobs."""
    folder = tmp_path_factory.mktemp("cluster")
    one = Run(folder / "one_node", local, scoring={"shards": 3})
    two = Run(folder / "two_nodes", local, train={"nodes": 2, "ranks_per_node": 1})
    result = snakemake(one.directory, one.config, "results/index/index.parquet")
    assert result.returncode == 0, result.stdout
    shard = one.directory / "results/logs/segment_pass/0002-of-0003.log"
    waiting = [
        Cancellation("one", one, ("train", "random"), one.has_checkpoint, ["--signal=USR1"]),
        Cancellation("two", two, ("train", "random"), two.has_checkpoint, []),
        Cancellation("shard", one, ("segment_pass", "0002"), shard.exists, []),
    ]
    cancelled = {}

    def all_cancelled():
        for what in [what for what in waiting if what.ready()]:
            if job := what.run.running(*what.job):
                subprocess.run(["scancel", *what.options, job], check=True)
                cancelled[what.name] = job
                waiting.remove(what)
        return not waiting

    try:
        one.start(SCORING, TRAINING)
        two.start(TRAINING)
        # A training may get its devices last, and on two slow cores the passes before it take minutes.
        wait_for("the jobs to cancel", all_cancelled, 900, every=0.05)
        one.finish()
        two.finish()
    finally:
        one.stop()
        two.stop()
    return {"one": one, "two": two, "cancelled": cancelled}


class Stay(NamedTuple):
    """When one process of a job was where, as its log says."""

    job: str
    node: str
    gpus: tuple[int, ...]
    start: float
    end: float


def stays(log):
    """What a log tells of each node it was written from."""
    pattern = (
        r"^(\S+ \S+) INFO running on host \S+, SLURM job (\d+) node (\S+), GPUs ([\d,]+), CUDA_VISIBLE_DEVICES (\S+)$"
    )
    found = []
    for when, job, node, gpus, visible in re.findall(pattern, log.read_text(), re.MULTILINE):
        assert gpus == visible  # as they are where SLURM does not hide devices
        start = datetime.strptime(when, "%Y-%m-%d %H:%M:%S").timestamp()
        found.append(Stay(job, node, tuple(map(int, gpus.split(","))), start, log.stat().st_mtime))
    assert found, log.read_text()
    return found


def losses_of(directory):
    entries = map(json.loads, (directory / TRAINED / "history.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if "loss" in entry]


def weights_of(directory):
    return (directory / TRAINED / "model/model.safetensors").read_bytes()


def test_no_two_jobs_share_a_device(runs):
    passes = [stay for rule in PASSES for log in runs["one"].logs(rule) for stay in stays(log)]
    assert len(passes) == 9
    assert all(len(stay.gpus) == 1 for stay in passes)
    trainings = [stay for run in ("one", "two") for log in runs[run].logs("train") for stay in stays(log)]
    everything = passes + trainings
    assert {stay.node for stay in passes} == set(NODES)
    assert {gpu for stay in everything for gpu in stay.gpus} == set(range(GPUS_PER_NODE))
    for first, second in combinations(sorted(everything, key=lambda stay: stay.start), 2):
        if first.job != second.job and first.node == second.node and set(first.gpus) & set(second.gpus):
            assert int(first.end) <= second.start, (first, second)  # logs count whole seconds


def test_a_training_gets_the_places_it_asks_for(runs):
    (one,) = stays(runs["one"].logs("train")[0])
    assert len(one.gpus) == 2
    # what its own launcher on the first node says comes first
    *_, first, second = stays(runs["two"].logs("train")[0])
    assert {first.node, second.node} == set(NODES)
    assert len(first.gpus) == len(second.gpus) == 1


@pytest.mark.parametrize("run", ["one", "two"])
def test_a_cancelled_training_ends_with_the_weights_of_a_local_run(runs, local, run):
    directory = runs[run].directory
    summary = json.loads((directory / TRAINED / "summary.json").read_text())
    assert summary["world_size"] == 2
    assert 2 <= summary["resumed_from_step"] < summary["steps"]
    assert losses_of(directory) == pytest.approx(local.losses, rel=1e-5)
    assert weights_of(directory) == weights_of(local.directory)


def test_told_to_stop_a_training_saves_before_it_ends(runs):
    """All processes of the job get the signal; none in between may end before the ranks have saved."""
    log = runs["one"].log.read_text()
    assert f"SLURM-job '{runs['cancelled']['one']}' failed, SLURM status is: 'FAILED'" in log
    assert "run again to go on" in log


def test_a_cancelled_shard_is_computed_again(runs, local):
    log = runs["one"].log.read_text()
    assert f"SLURM-job '{runs['cancelled']['shard']}' failed, SLURM status is: 'CANCELLED'" in log
    for name in ("results/scores/scores.parquet", f"{SELECTION}/ranking.parquet"):
        assert parquet_content(runs["one"].directory / name) == parquet_content(local.directory / name)
    selected = f"{SELECTION}/gateau_long.jsonl"
    assert (runs["one"].directory / selected).read_bytes() == (local.directory / selected).read_bytes()


def test_afterwards_the_local_profile_has_nothing_to_do(runs):
    run = runs["one"]
    assert planned_rules(run.directory, run.config, SCORING, TRAINING) == set()


def test_what_a_cancelled_job_leaves_is_known_as_the_cluster_s(cluster, tmp_path):
    """So that the cluster ends it when it ends; the fixture looks whether it does."""
    left, ready = ["sleep", "601"], tmp_path / "ready"
    script = f"(setsid {' '.join(left)} &); touch {ready}; sleep 602"
    command = ["sbatch", "--parsable", f"--output={tmp_path}/log", f"--wrap={script}"]
    job = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    wait_for("the job", ready.exists, 60)
    subprocess.run(["scancel", job], check=True)

    def all_ended():
        queue = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True, check=True)
        return job not in queue.stdout.split()

    wait_for("the end of the job", all_ended, 60)
    with subprocess.Popen(left) as bystander:
        try:
            alike = [process for process in job_processes(cluster) if process.cmdline() == left]
            assert len(alike) == 1
            assert alike[0].pid != bystander.pid
        finally:
            bystander.kill()
