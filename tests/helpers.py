"""What tests build on: paths, rows, and ways to run the scripts and the workflow as a user does."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

import warm

ROOT = Path(__file__).resolve().parents[1]
TINY_PAIR = ROOT / "workflow/resources/tiny_pair"


def row(user: str, response: str = "An answer.", **fields: Any) -> dict[str, Any]:
    """A LongAlign row of one turn."""
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": response}], **fields}


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Rows as jsonl; a string or bytes is written as a line as it is."""
    lines = [
        item if isinstance(item, bytes) else (item if isinstance(item, str) else json.dumps(item)).encode()
        for item in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def run_script(name: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``scripts/<name>.py``, in a process that has the imports already unless limits are set for it."""
    python = sys.executable if "preexec_fn" in options else warm.python()
    command = [python, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def make_reward_model(folder: Path) -> Path:
    """A reward model: the tiny short model with a head of random, fixed values in place of the vocabulary's."""
    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    base = LlamaForCausalLM.from_pretrained(TINY_PAIR / "short")
    base.config.num_labels = 1
    model = LlamaForSequenceClassification(base.config)
    model.model.load_state_dict(base.model.state_dict())
    model.save_pretrained(folder)
    for file in (TINY_PAIR / "short").glob("token*"):
        shutil.copy(file, folder)
    return folder


def merged(*configs: Mapping[str, Any]) -> dict[str, Any]:
    """Later mappings laid over earlier ones, key by key."""
    result: dict[str, Any] = {}
    for config in configs:
        for key, value in config.items():
            old = result.get(key)
            result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result


def small_config(directory: Path, **overrides: Any) -> dict[str, Any]:
    """A run of a minute or less: eleven planted rows, a few chats, the tiny pair, one experiment of five steps."""
    base = {
        "results_dir": "results",
        "data": {
            "long": "results/planted_rows/long.jsonl",
            "short": "results/planted_rows/short.jsonl",
            "planted": {
                "rows": {"far": 3, "near": 3, "parametric": 2, "wrong": 1, "distractor": 1},
                "duplicates": 1,
                "chats": 12,
                "min_lines": 20,
                "max_lines": 40,
            },
        },
        "models": {"short": str(TINY_PAIR / "short"), "long": str(TINY_PAIR / "long")},
        "scoring": {"shards": 1, "short_context": "ntk", "max_length": 1024, "device": "cpu"},
        "cam": {"segment_length": 64},
        "mixture": {"n_short": 8, "held_out": 0},
        "plan": {"epochs": 1, "sequences_per_step": 4, "token_budget": 1024},
        "train": {
            "experiments": "all",
            "learning_rate": 1e-3,
            "device": "cpu",
            "threads": 1,
            "report_to": "none",
            "save_steps": 2,
        },
        "experiments": {"gateau": {}},
    }
    return merged(base, overrides)


def whole_config(directory: Path, **overrides: Any) -> dict[str, Any]:
    """Every stage: planted rows, scores, selection, training, export, answers, ratings, leaderboard."""
    evaluate = {
        "benchmarks": ["longbench_chat", "needle"],
        "experiments": "all",
        "assets": {"source": "own"},
        "generate": {"device": "cpu"},
        "judge": {"benchmarks": ["longbench_chat", "needle"], "model": "stand-in-judge", "stand_in": True},
        "longbench_chat": {"max_new_tokens": 16},
        "needle": {
            "lengths": [300, 500], "depths": [10, 50, 90], "needle": "Note falcon balor detek mosar rigas tunut.",
            "question": "What does note falcon say?", "keys": ["balor detek"], "system": "", "prefix": "",
            "reserve": 60, "max_new_tokens": 12,
        },
    }  # fmt: skip
    return merged(small_config(directory), {"evaluate": evaluate}, overrides)


def other_weights(model: Path, copy: Path) -> Path:
    """A copy of a model whose weights differ a little."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] *= 1.1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def snakemake_command(directory: Path, config: Mapping[str, Any], *arguments: str) -> list[str]:
    """Write the config into ``directory`` and return the command that runs the workflow there."""
    file = directory / "test_config.yaml"
    file.write_text(yaml.safe_dump(dict(config)))
    snakefile = directory / "workflow/Snakefile"
    snakefile = snakefile if snakefile.exists() else ROOT / "workflow/Snakefile"
    profile = ROOT / "profiles/local"
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(directory),
        *arguments, "--profile", str(profile), "--workflow-profile", "none", "--cores", "2", "--configfile", str(file),
    ]  # fmt: skip


def snakemake(directory: Path, config: Mapping[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow to its end; output and errors come together in ``stdout``."""
    command = snakemake_command(directory, config, *arguments)
    if "--dry-run" in arguments:
        return plan(command)
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
        cwd=ROOT,
        env=warm.environment(),
    )


def plan(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a Snakemake command that only plans, in a fork of a process that has imported Snakemake already.

    The suite plans some hundred times, and the imports are most of what planning a small run costs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["snakemake.cli", "pandas"])
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        process = context.Process(target=_plan, args=(command[3:], dict(os.environ), str(output)))
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
        text = output.read_text()
    return subprocess.CompletedProcess(command, -1 if process.exitcode is None else process.exitcode, text)


def _plan(arguments: Sequence[str], environment: Mapping[str, str], output: str) -> None:
    with open(output, "wb", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = ["snakemake", *arguments]
    from snakemake.cli import main

    main()


def planned_rules(directory: Path, config: Mapping[str, Any], *arguments: str) -> set[str]:
    """Names of the rules that a dry run would execute, targets left out.

    Manifests and the page follow whatever changes, so they are named only where they would be all.
    """
    result = snakemake(directory, config, *arguments, "--dry-run", "--quiet", "rules")
    assert result.returncode == 0, result.stdout
    if "Nothing to be done" in result.stdout:
        return set()
    table = result.stdout.split("Job stats:")[1].split("\n\n")[0].splitlines()
    rules = {line.split()[0] for line in table if len(line.split()) == 2 and line.split()[1].isdigit()}
    rules -= {"all", "selected", "evaluated", "planted", "miniature", "total"}
    return rules - {"manifest", "provenance", "report_page"} or rules


def touch_all(directory: Path, seed: int = 0) -> None:
    """Give every file and folder a time of its own within the last days, in no order; Snakemake's notes excepted."""
    generator = random.Random(seed)
    now = time.time()
    for path in directory.rglob("*"):
        if ".snakemake" not in path.parts:
            moment = now - generator.uniform(0, 10**6)
            os.utime(path, (moment, moment), follow_symlinks=False)


def kill_tree(process: subprocess.Popen[Any]) -> None:
    """``kill -9`` a process and everything that descends from it."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def parquet_content(path: Path, columns: Sequence[str] | None = None) -> Any:
    """The table's values, for comparison to the last bit."""
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=list(columns) if columns else None).to_pydict()
