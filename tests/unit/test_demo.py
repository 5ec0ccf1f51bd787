"""The demo's summary: the table, the sentence about it, and the columns that are left out."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import run_script, write_jsonl

MODELS = ("before", "gateau_robust", "gateau", "random")
KINDS = ("far", "near", "wrong")


@pytest.fixture
def results(tmp_path):
    """Make a run with six rows per kind and 20 questions; of these, the models recall 8, 16, 2 and 8."""
    folder = tmp_path / "results"
    for name in ("leaderboard", "planted_rows"):
        (folder / name).mkdir(parents=True)
    rows = [{"id": f"{kind}-{n}", "dataset": f"planted/{kind}"} for kind in KINDS for n in range(6)]
    write_jsonl(folder / "planted_rows/long.jsonl", rows)
    measures = []
    for model, n_right, rating in zip(MODELS, (8, 16, 2, 8), (3, 5, 2, 3), strict=True):
        write(folder, model, n_right)
        measures += [
            measure(model, "recall", "far", 5 * n_right, "%", ""),
            measure(model, "mt_bench", "all", rating, "1-10", "stand-in, no language model"),
            measure(model, "needle", "all", 0, "%", ""),
        ]
    measures.append({**measures[0], "source": "a paper", "score": 99})
    with (folder / "leaderboard/leaderboard.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(measures[0]))
        writer.writeheader()
        writer.writerows(measures)
    return folder


def measure(model, benchmark, name, score, unit, judge):
    return {
        "model": model, "source": "measured", "benchmark": benchmark, "name": name, "unit": unit, "score": score,
        "low": score - 4, "high": score + 4, "n": 20, "judge": judge, "headline": True,
    }  # fmt: skip


def write(folder, model, n_right):
    (folder / "score_recall" / model).mkdir(parents=True)
    items = [{"item": str(n), "score": 100.0 * (n < n_right)} for n in range(20)]
    write_jsonl(folder / "score_recall" / model / "items.jsonl", items)
    if model == "before":
        return
    (folder / "mixture" / model).mkdir(parents=True)
    ids = [f"{kind}-{n}" for n in range(2) for kind in (["far"] if model == "gateau_robust" else KINDS)]
    chosen = [(row_id, "long", "train") for row_id in ids]
    chosen += [("chat", "short", "train"), ("far-5", "long", "held_out")]
    columns = dict(zip(("id", "source", "split"), map(list, zip(*chosen, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "mixture" / model / "mixture.parquet")
    if model != "random":
        (folder / "selection" / model).mkdir(parents=True)
        summary = {"by_dataset": {"planted/far": {"auroc": 0.991 if model == "gateau_robust" else 0.4}}}
        (folder / "selection" / model / "summary.json").write_text(json.dumps(summary))


def test_the_last_screen_shows_recall_before_and_after_and_no_constant_column(results, tmp_path):
    result = run_script("demo_summary", results, "--picture", tmp_path / "demo.png")
    assert result.returncode == 0, result.stderr
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines() if "|" in line]
    assert ["best 2 by gateau_robust", "0.99", "2", "40 % [36, 44]", "80 % [76, 84]"] in lines
    assert ["best 6 by gateau (the paper's)", "0.40", "2", "40 % [36, 44]", "10 % [6, 14]"] in lines
    assert ["6 random rows", "0.50 (chance)", "2", "40 % [36, 44]", "40 % [36, 44]"] in lines
    assert ["MT-Bench all (1-10, stand-in, no language model)", "3.00", "5.00", "2.00", "3.00"] in lines
    assert "Needle" not in result.stdout, "this column is 0 for all models"
    said = " ".join(result.stdout.split())
    assert "recalls 40 points [18, 62] more far notes than before training" in said
    assert "not clearly above zero" not in said
    assert "recalls 40 points" in (results / "demo.md").read_text()
    assert (tmp_path / "demo.png").stat().st_size > 10_000


def test_a_difference_within_the_noise_is_called_so(results):
    items = [{"item": str(n), "score": 100.0 * (n in (0, 1, 2, 9, *range(10, 15)))} for n in range(20)]
    write_jsonl(results / "score_recall/gateau_robust/items.jsonl", items)
    result = run_script("demo_summary", results)
    said = " ".join(result.stdout.split())
    assert "The first difference is not clearly above zero. The second difference is not clearly above zero." in said


def test_several_runs_make_one_table_and_a_missing_result_is_named(results, tmp_path):
    result = run_script("demo_summary", results, results)
    assert [line.count("40 % [36, 44]") for line in result.stdout.splitlines()] == [0, 0, 2, 2]
    (results / "score_recall/random/items.jsonl").unlink()
    result = run_script("demo_summary", results)
    assert result.returncode == 1
    assert "random/items.jsonl: no such file; run make demo first" in result.stderr
