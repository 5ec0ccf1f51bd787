"""What is stored is not computed again, and is found without torch: a pass's shard, a benchmark's answers."""

import json
import resource
import subprocess
import sys

import pytest

from helpers import ROOT, TINY_PAIR, run_script

SMALL_SETS = ROOT / "workflow/resources/small_benchmarks"
PROMPT = "### Input:{context}\n\n ### Instruction: {instruction}\n\n ### Response: {response}"


def traced(script, *arguments):
    """Run a script; return its log, the processor seconds that it took, and whether it imported torch."""
    command = [sys.executable, "-X", "importtime", str(ROOT / f"scripts/{script}.py"), *map(str, arguments)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr[-2000:]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    log = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    return "\n".join(log), seconds, any(line.endswith("| torch") for line in result.stderr.splitlines())


def logged(script, *arguments):
    """Run a script; return its log."""
    result = run_script(script, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexed")
    planted = {"rows": {"far": 3, "near": 2}, "duplicates": 0, "min_lines": 8, "max_lines": 10, "seed": 0}
    steps = [
        ("planted_rows", "--planted", json.dumps(planted), "--output", folder / "rows.jsonl"),
        ("samples", "--input", folder / "rows.jsonl", "--samples", folder / "samples.parquet",
         "--rejects", folder / "rejects.jsonl", "--summary", folder / "summary.json"),
        ("index", "--samples", folder / "samples.parquet", "--model", json.dumps({"path": str(TINY_PAIR / "long")}),
         "--prompt", PROMPT, "--max-length", 1024, "--shards", 1, "--output", folder / "index.parquet"),
    ]  # fmt: skip
    for name, *arguments in steps:
        logged(name, *arguments)
    return folder


def short_pass(folder, output, *more, run=traced):
    return run(
        "short_pass", "--samples", folder / "samples.parquet", "--index", folder / "index.parquet", "--shard", 0,
        "--max-length", 1024, "--model", json.dumps({"path": str(TINY_PAIR / "short")}),
        "--short-context", "truncate", "--device", "cpu", "--progress-dir", folder / "progress",
        "--output", folder / output, *more,
    )  # fmt: skip


def test_a_shard_whose_samples_are_stored_ends_at_once_and_without_torch(indexed):
    log, first_seconds, with_torch = short_pass(indexed, "first.parquet")
    assert with_torch
    assert "5 samples, 0 found" in log
    log, seconds, with_torch = short_pass(indexed, "second.parquet")
    assert not with_torch
    assert "5 samples, 5 found" in log
    assert seconds < first_seconds / 3  # measured: a tenth; both on one machine, however slow
    assert (indexed / "first.parquet").read_bytes() == (indexed / "second.parquet").read_bytes()
    # what is damaged is computed again
    for part in (indexed / "progress/short_pass").rglob("part-*.parquet"):
        part.unlink()
    assert "5 samples, 0 found" in short_pass(indexed, "third.parquet", run=logged)
    assert (indexed / "first.parquet").read_bytes() == (indexed / "third.parquet").read_bytes()


@pytest.mark.parametrize("change", [("--dtype", "bfloat16"), ("--max-length", 900)])
def test_another_setting_is_not_taken_for_stored(indexed, change):
    short_pass(indexed, "first.parquet", run=logged)
    assert "5 samples, 0 found" in short_pass(indexed, "other.parquet", *change, run=logged)


def generate(folder, benchmark, output, options, *more, run=traced):
    return run(
        "generate", "--benchmark", benchmark, "--assets", SMALL_SETS / benchmark, "--options", json.dumps(options),
        "--model", json.dumps({"path": str(TINY_PAIR / "long")}), "--device", "cpu",
        "--progress-dir", folder / "progress", "--output", folder / output, *more,
    )  # fmt: skip


def test_a_loaded_model_answers_the_next_benchmark_ahead(tmp_path):
    chat, bench = {"max_new_tokens": 2, "protocol": "gateau"}, {"max_new_tokens": 2}
    next_one = {"benchmark": "mt_bench", "assets": str(SMALL_SETS / "mt_bench"), "options": bench}
    absent = {"benchmark": "needle", "assets": str(tmp_path / "no assets yet"), "options": {}}
    log, first_seconds, with_torch = generate(
        tmp_path, "longbench_chat", "chat.jsonl", chat, "--ahead", json.dumps([absent, next_one])
    )
    assert with_torch
    assert "mt_bench: answered ahead" in log
    log, seconds, with_torch = generate(tmp_path, "mt_bench", "bench.jsonl", bench)
    assert "all answers were stored before" in log
    assert not with_torch
    assert seconds < first_seconds / 3
    # the same answers as those of a job of its own
    generate(tmp_path / "alone", "mt_bench", "bench.jsonl", bench, run=logged)
    assert (tmp_path / "bench.jsonl").read_bytes() == (tmp_path / "alone/bench.jsonl").read_bytes()
    # other options are other questions
    assert "stored before" not in generate(tmp_path, "mt_bench", "longer.jsonl", {"max_new_tokens": 3}, run=logged)


def test_a_benchmark_that_cannot_be_asked_fails_in_its_own_job_only(tmp_path):
    needle = {
        "lengths": [100000], "depths": [10], "needle": "Note falcon balor.", "question": "What?", "keys": ["balor"],
        "system": "", "prefix": "", "reserve": 60, "max_new_tokens": 2,
    }  # fmt: skip
    ahead = [{"benchmark": "needle", "assets": str(SMALL_SETS / "needle"), "options": needle}]
    log = generate(tmp_path, "mt_bench", "bench.jsonl", {"max_new_tokens": 2}, "--ahead", json.dumps(ahead), run=logged)
    assert "needle: not answered ahead" in log
    assert (tmp_path / "bench.jsonl").is_file()
