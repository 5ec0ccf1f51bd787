"""Leases in the rules: which jobs get one, and a run on two simulated devices, which computes on the CPU."""

import os
import re
import subprocess

import pytest

from helpers import TINY_PAIR, merged, small_config, snakemake, snakemake_command

pytestmark = pytest.mark.workflow
PASSES = ("short_pass", "long_pass", "segment_pass")
GENERATE = {
    "models": {"given": str(TINY_PAIR / "long"), "served": str(TINY_PAIR / "long")},
    "benchmarks": ["needle"],
    "assets": {"source": "own"},
    "servers": {"served": {"base_url": "http://localhost:1/v1", "model": "any"}},
}
AUTO = {
    "scoring": {"device": "auto"},
    "train": {"device": "auto", "ranks_per_node": 2},
    "evaluate": {**GENERATE, "generate": {"device": "auto"}},
}


def leases(directory, config):
    """Return the numbers of GPUs that the commands of a dry run lease, by rule; 0 without a lease."""
    result = snakemake(directory, config, "--dry-run", "--printshellcmds")
    assert result.returncode == 0, result.stdout
    found: dict[str, set[int]] = {}
    for line in result.stdout.splitlines():
        if command := re.search(r"python \S*/scripts/(\w+)\.py (?!--gpus)", line):
            lease = re.search(r"python \S*/scripts/gpu_lease\.py --gpus (\d+) -- python ", line)
            found.setdefault(command[1], set()).add(int(lease[1]) if lease else 0)
    return found


def test_what_computes_on_a_gpu_has_a_lease_and_nothing_else(tmp_path):
    config = merged(small_config(tmp_path), {"evaluate": GENERATE})
    on_gpu = leases(tmp_path, merged(config, AUTO))
    expected = {**{rule: {1} for rule in PASSES}, "train": {2}, "generate": {0, 1}}
    assert {rule: gpus for rule, gpus in on_gpu.items() if gpus != {0}} == expected
    text_models = {
        "models": {"embedder": str(TINY_PAIR / "short"), "reward": str(TINY_PAIR / "short")},
        "experiments": {"rewarded": {"method": "reward", "per_cluster": 1}},
    }
    started = {"models": {"started": str(TINY_PAIR / "long")}, "servers": {"started": {"start": "vllm", "gpus": 4}}}
    wider = {"scoring": {"gpus_per_job": 3}, "evaluate": {"generate": {"gpus_per_job": 2}, **started}}
    expected = {**on_gpu, **{rule: {3} for rule in (*PASSES, "rewards")}, "embeddings": {1}, "generate": {0, 2, 4}}
    assert leases(tmp_path, merged(config, AUTO, text_models, wider)) == expected
    several_nodes = leases(tmp_path, merged(config, AUTO, {"train": {"nodes": 2}}))
    assert several_nodes == {**on_gpu, "train": {0}}
    on_cpu = leases(tmp_path, merged(config, {"evaluate": {"generate": {"device": "cpu"}}}))
    assert on_cpu == {rule: {0} for rule in on_gpu}


def test_a_run_on_two_devices_uses_both(tmp_path):
    config = small_config(tmp_path, scoring={"device": "auto", "shards": 2})
    names = ("0000-of-0002", "0001-of-0002")
    command = snakemake_command(tmp_path, config, *[f"results/short_pass/{name}.parquet" for name in names])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"CUDA_VISIBLE_DEVICES": "0,1", "GATEAU_LEASE_DIR": str(tmp_path / "leases")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    used = set()
    for name in names:
        log = (tmp_path / f"results/logs/short_pass/{name}.log").read_text()
        (leased,) = re.findall(r"leased GPU (\S+) after", log)
        assert f"CUDA_VISIBLE_DEVICES {leased}\n" in log, "what the pass itself says"
        used.add(leased)
    assert used == {"0", "1"}
    # with more GPUs per job, the results are the same
    wider = merged(config, {"scoring": {"gpus_per_job": 2}})
    again = snakemake_command(tmp_path, wider, *[f"results/short_pass/{name}.parquet" for name in names], "--dry-run")
    planned = subprocess.run(again, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert "Nothing to be done" in planned.stdout + planned.stderr
