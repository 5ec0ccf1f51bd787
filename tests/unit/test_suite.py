"""The benchmark suite and the GPU's: a quick run of all parts, what is written, and comparisons of two runs."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import jsonschema
import pytest
import torch

from gateau.work import DecoderShape

import warm
from benchmark import gpu, gpu_cases, passes, released
from benchmark.harness import Row, alternate, in_child, measured
from benchmark.report import cells, compare
from helpers import ROOT

PARTS = ["released", "bound", "growth", "memory", "texts", "scale", "planning", "start", "page", "answers", "training"]
TEXT, NUMBER = {"type": "string", "minLength": 1}, {"type": "number", "exclusiveMinimum": 0}
ROW = {
    **dict.fromkeys(("part", "case", "way_a", "way_b", "unit", "bound"), TEXT),
    **dict.fromkeys(("a", "b", "ratio", "low", "high"), NUMBER),
    "rounds": {"type": "integer", "minimum": 1},
    "share": {"type": ["number", "null"]},
}
SCHEMA = {
    "type": "object", "required": ["date", "machine", "versions", "quick", "parts", "rows"],
    "properties": {
        "machine": {"required": ["cpu", "cores", "memory_bytes", "gpu"]},
        "versions": {"required": ["python", "torch", "transformers", "snakemake", "pandas", "pyarrow", "commit"]},
        "rows": {"items": {"properties": ROW, "required": list(ROW), "additionalProperties": False}},
    },
}  # fmt: skip


def test_a_quick_run_measures_all_parts_and_writes_json_table_and_picture(tmp_path):
    command = [sys.executable, ROOT / "tests/benchmark", "--quick", "--output", tmp_path]
    environment = {**os.environ, "BENCHMARK_PYTHON": warm.python()}
    subprocess.run(command, check=True, capture_output=True, timeout=600, env=environment)
    result = json.loads((tmp_path / "bench.json").read_text())
    jsonschema.validate(result, SCHEMA)
    assert sorted(result["parts"]) == sorted(PARTS)
    assert [name for name in PARTS if not any(row["part"] == name for row in result["rows"])] == []
    assert all(math.isfinite(row[key]) for row in result["rows"] for key in ("ratio", "low", "high"))
    table = (tmp_path / "bench.md").read_text()
    assert [line[4:].split("**")[0] for line in table.splitlines() if line.startswith("- **")] == PARTS
    assert all(cells(row)[6] in table for row in result["rows"])
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def row(a, b, **changes):
    return Row(**{"part": "p", "case": "c", "way_a": "x", "way_b": "y", "unit": "s", "bound": "none", **changes},
               a=a, b=b)  # fmt: skip


def test_a_figure_is_the_median_of_the_rounds_ratios_with_their_quartiles():
    found = row([2.0, 9.0, 8.0], [1.0, 3.0, 2.0], limit=4.0).record()
    assert (found["ratio"], found["low"], found["high"], found["rounds"]) == (3.0, 2.5, 3.5, 3)
    assert (found["a"], found["b"], found["share"]) == (8.0, 2.0, 0.75)
    assert row([3.0], [2.0], limit=None).record()["share"] is None


def test_ways_alternate_in_changing_order_and_may_return_their_own_number():
    order = []
    found = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b") or 7.0}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found["b"] == [7.0] * 3
    assert all(0 < seconds < 1 for seconds in found["a"])


def test_a_comparison_marks_what_lies_outside_the_spread():
    def run(commit, *rows):
        return {"versions": {"commit": commit}, "rows": [one.record() for one in rows]}

    before = run("old", row([2, 4, 3], [1, 1, 1]), row([5, 5], [1, 1], case="d"), row([4, 5], [1, 1], case="e"),
                 row([1], [1], case="f"))  # fmt: skip
    after = run("new", row([8, 9, 7], [1, 1, 1]), row([2, 3], [1, 1], case="d"), row([4.6, 4.6], [1, 1], case="e"),
                row([9], [1], case="f"))  # fmt: skip
    lines = compare(before, after).splitlines()[2:]
    assert [line.split("|")[-2].strip() for line in lines] == [
        "better", "worse", "within the spread", "unknown: one round",
    ]  # fmt: skip
    assert "2.67" in lines[0]


def test_a_command_that_fails_ends_the_measurement_with_its_output():
    with pytest.raises(RuntimeError, match="no such luck"):
        measured([sys.executable, "-c", "import sys; sys.exit('no such luck')"])
    assert measured([sys.executable, "-c", "print(3)"]).output == "3\n"
    assert in_child("math:sqrt", 9) == 3


def test_the_operations_of_the_released_algorithm_are_those_that_torch_counts():
    model = passes.scale_model(256, "eager", "cpu")
    sample = released.random_sample(100, 6, 6, 1024)
    counted = passes.count_flops(lambda: released.released_passes(model, model, sample, 256, 16, 512))
    shape = replace(DecoderShape.from_config(model.config), causal=False)
    assert released.released_flops(shape, 100, 12, 256, 16) == pytest.approx(counted, rel=1e-6)


def run_gpu(folder, *arguments):
    code = gpu.main(["--tiny", "--device", "cpu", "--output", str(folder), *arguments])
    return code, json.loads((folder / "gpu.json").read_text())


def test_everything_of_the_gpu_runs_on_tiny_shapes_and_lack_of_memory_costs_one_case(tmp_path, monkeypatch):
    def too_large(sizes, tokens, device):
        if tokens == 1024:
            raise torch.OutOfMemoryError("simulated")
        return whole(sizes, tokens, device)

    whole = gpu_cases.against_released
    monkeypatch.setattr(gpu_cases, "against_released", too_large)
    code, result = run_gpu(tmp_path)
    lost = [case for case in result["cases"] if case["status"] != "ok"]
    assert code == 0
    assert {(case["case"], case["tokens"], case["status"]) for case in lost} == {
        ("released / ours", 1024, "out of memory")
    }
    cases = {case["case"] for case in result["cases"]}
    assert cases == {"same numbers", "short_pass", "long_pass", "segment_pass", "training step", "released / ours"}
    assert {case["model"] for case in result["cases"]} == set(gpu.TINY)
    timed = [case for case in result["cases"] if "seconds" in case]
    assert len(timed) == len(gpu.TINY) * (3 * 2 + 2 + 1)
    assert all(case["seconds"] > 0 for case in timed)
    for name in gpu.TINY:
        hours = [plan["gpu_hours"] for plan in result["hours"] if plan["model"] == name]
        assert hours[0] > hours[1] > hours[2] > hours[3] > 0
        assert len(hours) == 5
    assert "| out of memory" in (tmp_path / "gpu.md").read_text()


def test_attention_weights_that_do_not_fit_are_those_of_fewer_layers(monkeypatch):
    def theirs(fast, *arguments):
        if fast.config.num_hidden_layers > 2:
            raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr(gpu_cases, "released_passes", theirs)
    assert gpu_cases.against_released(gpu.TINY["tiny"], 512, "cpu")["layers"] == 2


def test_cases_beyond_the_time_are_skipped_and_errors_are_results(tmp_path, monkeypatch):
    code, result = run_gpu(tmp_path, "--minutes", "0")
    assert code == 0
    assert {case["status"] for case in result["cases"]} == {"skipped: no time is left (--minutes)"}
    assert result["hours"] == []

    def wrong(*arguments):
        raise ValueError("the numbers differ")

    monkeypatch.setattr(gpu_cases, "same_numbers", wrong)
    monkeypatch.setattr(gpu_cases, "score", lambda *arguments: None)
    for name in ("train", "against_released"):
        monkeypatch.setattr(gpu_cases, name, lambda *arguments: {})
    code, result = run_gpu(tmp_path)
    assert code == 1
    assert result["cases"][0]["status"] == "failed: ValueError: the numbers differ"


def test_the_gpu_script_needs_neither_tables_nor_adapters(tmp_path):
    """In a process in which these packages cannot be imported."""
    absent = ["pyarrow", "pandas", "peft", "psutil", "matplotlib", "snakemake", "scipy"]
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"sys.argv = ['gpu.py', '--tiny', '--device', 'cpu', '--minutes', '0', '--output', {str(tmp_path)!r}]\n"
        f"runpy.run_path({str(ROOT / 'tests/benchmark/gpu.py')!r}, run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "gpu.json").read_text())["optional"]["bitsandbytes"] is None
