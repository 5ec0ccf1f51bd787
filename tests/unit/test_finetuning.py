"""Training for real, on CPU ranks: the same loss however it is spread, the same weights however it is stopped."""

import functools
import json
import re
import resource
import signal
import subprocess
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from gateau.model_files import ModelSpec
from gateau.schemas import MIXTURE
from gateau.tables import read_rows
from gateau.training.checkpoints import training_digest
from gateau.training.finetuning import _settings
from gateau.training.options import TrainFiles, TrainOptions
from gateau.training.plans import read_plan
from gateau.training.trainer import SequenceMeanTrainer

from training import OPTIONS, Problem

STEPS = 24
ZERO3 = {"ranks": 2, "deepspeed": "zero3", "save_steps": 6}


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem(tmp_path_factory.mktemp("training"), epochs=3)


def trained(problem, name, **settings):
    result = problem.train(name, **settings)
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def single(problem):
    trained(problem, "single")
    return problem.losses("single")


@pytest.fixture(scope="module")
def zero3(problem):
    """An undisturbed training on two ranks."""
    log = trained(problem, "zero3", **ZERO3)
    assert f"{STEPS} steps" in log
    return problem.weights("zero3")


def test_it_learns_and_records_what_it_did(problem, single):
    summary = json.loads((problem.folder / "single/summary.json").read_text())
    (checkpoints,) = (problem.folder / "single/checkpoints").iterdir()
    assert checkpoints.name.startswith("single-"), "equal trainings of two experiments must not share a folder"
    first, last = summary["losses"]["eval_loss"]
    assert len(single) == summary["steps"] == STEPS
    assert last < first
    assert sum(single[-6:]) < sum(single[:6])
    assert summary["sequences"] == {"long": 17, "short": 41}
    history = [json.loads(line) for line in (problem.folder / "single/history.jsonl").read_text().splitlines()]
    for entry in (e for e in history if "eval_loss" in e):
        assert entry["eval_loss"] == pytest.approx((3 * entry["eval_loss_long"] + 3 * entry["eval_loss_short"]) / 6)
    assert [e["epoch"] for e in history if "loss" in e][7] == pytest.approx(1.0)


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["ddp", pytest.param("zero2", marks=pytest.mark.long), "zero3"])
def test_spread_over_ranks_the_losses_are_the_same_to_five_digits(problem, single, zero3, name):
    if name != "zero3":
        trained(problem, name, ranks=2, deepspeed=None if name == "ddp" else name)
    assert problem.losses(name) == pytest.approx(single, rel=1e-5)


@pytest.mark.cluster
def test_a_full_disk_is_told_and_the_rest_goes_on_once_there_is_space(problem, single):
    """A limit of file sizes stands for it; the weights fit below it, the optimizer's state does not."""
    weights = (problem.folder / "single/model/model.safetensors").stat().st_size
    for limit in (weights - 1, weights + 1000):
        result = subprocess.run(
            problem.command("full", save_steps=6), capture_output=True, text=True, timeout=300,
            preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
        )  # fmt: skip
        assert result.returncode == 1, result.stderr
        assert "Traceback" not in result.stderr
        assert f"weights could not be written to {problem.folder}/full/checkpoints or" in result.stderr
    trained(problem, "full", save_steps=6)
    assert problem.losses("full") == single
    assert all(torch.equal(problem.weights("full")[key], value) for key, value in problem.weights("single").items())


def stopped(problem, name, stop, **settings):
    """Start a training, stop it once its second checkpoint stands, and return its exit code and log."""
    command = problem.command(name, **{**ZERO3, **settings})
    log = problem.folder / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=problem.environment())
        deadline = time.monotonic() + 120
        while not list((problem.folder / name).rglob("checkpoint-12/complete.json")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stop(psutil.Process(process.pid).children())
        return process.wait(timeout=120), log.read_text()


def same_as(problem, name, weights):
    found = problem.weights(name)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


@pytest.mark.cluster
def test_told_to_stop_it_saves_and_goes_on_to_the_same_weights(problem, zero3):
    code, log = stopped(problem, "told", lambda ranks: ranks[1].send_signal(signal.SIGUSR1))
    assert code == 75, log
    assert "run again to go on" in log
    assert not (problem.folder / "told/model").exists()
    log = trained(problem, "told", **ZERO3)
    assert re.search(r"checkpoints of this training: .* \(checkpoint-\d+\)", log)
    same_as(problem, "told", zero3)
    assert problem.losses("told") == problem.losses("zero3")


@pytest.mark.long
def test_with_a_rank_killed_it_fails_and_goes_on_to_the_same_weights(problem, zero3):
    code, log = stopped(problem, "killed", lambda ranks: ranks[1].kill())
    assert code == 1
    assert "rank 1 was killed by SIGKILL" in log
    trained(problem, "killed", **ZERO3)
    same_as(problem, "killed", zero3)


@pytest.mark.parametrize("change", [{"window": 512}, {"rope_parameters": {"rope_theta": 5e4}}])
def test_the_checkpoints_of_another_window_or_rotary_scaling_are_not_found(problem, change):
    files = {source: str(problem.folder / f"{source}.parquet") for source in ("long", "short")}
    plan, mixture = read_plan(problem.folder / "plan.parquet"), read_rows(problem.folder / "mixture.parquet", MIXTURE)
    one, other = (
        _settings(
            ModelSpec(str(problem.model), **options), TrainOptions(**OPTIONS), torch.float32, None, plan, mixture,
            TrainFiles("", "", files, "", "", ""),
        )
        for options in ({}, change)
    )  # fmt: skip
    assert training_digest(one) != training_digest(other)


@pytest.mark.cluster
def test_it_goes_on_with_another_number_of_ranks(problem, single, zero3):
    code, _ = stopped(problem, "moved", lambda ranks: [rank.send_signal(signal.SIGTERM) for rank in ranks])
    assert code == 75
    assert "converting" in trained(problem, "moved", **{**ZERO3, "ranks": 1})
    assert problem.losses("moved") == pytest.approx(single, rel=1e-5)


def test_steps_are_loaded_without_random_numbers_that_dropout_uses():
    """A training that continues restores their state first, and then asks for its steps."""
    trainer = SimpleNamespace(train_dataset=["first", "second", "third"], state=SimpleNamespace(global_step=1))
    before = torch.get_rng_state()
    assert list(SequenceMeanTrainer.get_train_dataloader(trainer)) == ["second", "third"]
    assert torch.equal(torch.get_rng_state(), before)


def test_adapters_train_alone_and_merge(problem):
    options = {"lora": {"r": 4, "alpha": 8, "target_modules": "all-linear"}}
    trained(problem, "lora", options=options)
    files = {file.name for file in (problem.folder / "lora/model").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= files
    assert "model.safetensors" not in files
    losses = problem.losses("lora")
    assert sum(losses[-6:]) < sum(losses[:6])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"learning_rate": 1e30}}, "lower train.learning_rate"),
        ({"options": {"device": "cuda"}}, "train.device is cuda"),
        ({"deepspeed": "absent", "ranks": 1}, "cannot read"),
        ({"nodes": 2}, "not a SLURM job"),
        ({"report_to": "wandb"}, "pip install wandb"),
        ({"options": {"optimizer": "adamw_8bit"}}, "pip install bitsandbytes"),
    ],
)
def test_what_cannot_work_says_so(problem, settings, message):
    result = problem.train("wrong", **settings)
    assert result.returncode != 0
    assert message in result.stdout


def test_sequences_beyond_the_window_are_refused(tmp_path):
    problem = Problem(tmp_path, max_position_embeddings=64, epochs=1)
    result = problem.train("short")
    assert result.returncode == 1
    assert "window of 64" in result.stdout
