"""Methods, near duplicates, the comparison and the miniature study, run for real on a few rows."""

import json
import re

import pandas as pd
import pytest
import torch
import yaml

from gateau.model_files import ModelSpec
from gateau.models import Runtime, load_config, load_model, load_tokenizer
from gateau.prompts import PromptEncoder
from gateau.schemas import CONTRAST, EMBEDDINGS, RANKING, REWARDS, SAMPLES
from gateau.tables import read_rows

from helpers import ROOT, TINY_PAIR, make_reward_model, merged, planned_rules, run_script, small_config, snakemake

pytestmark = pytest.mark.workflow

MINIATURE = {
    "shares": [0.9], "seeds": 2, "steps": 3, "rows_per_step": 2, "learning_rate": 3e-4, "evaluated_rows": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("methods")
    study = yaml.safe_load((ROOT / "config/miniature.yaml").read_text())
    base = {**study["models"]["base"], "path": str(TINY_PAIR / "short")}
    planted = {
        "rows": {"far": 5, "far_chain": 3, "near": 5, "parametric": 3, "wrong": 3, "distractor": 0},
        "near_duplicates": 4,
    }
    config = merged(
        small_config(directory),
        {
            "data": {"planted": {**planted, "duplicates": 0, "chats": 0, "min_lines": 24}, "short": "none"},
            "models": {
                "base": base,
                "reward": str(make_reward_model(tmp_path_factory.mktemp("reward"))),
                "embedder": {"path": str(TINY_PAIR / "short"), "window": 64},
            },
            "mixture": {"n_short": 0},
            "cam": {"segment_length": 32},
            "comparison": {"positive": ["planted/far", "planted/far_chain"], "resamples": 10},
            "miniature": MINIATURE,
        },
    )
    config["experiments"] = {
        "robust": {"method": "gateau_robust", "near_duplicates": 0.6},
        "one_model": {"method": "one_model", "n_long": 5},
        "car": {"method": "reward", "near_duplicates": 0.6, "per_cluster": 1, "clusters": 4, "n_long": 6},
    }
    result = snakemake(directory, config, "planted", "miniature")
    assert result.returncode == 0, result.stdout
    return directory / "results", directory, config


def test_the_robust_method_finds_the_far_rows(finished):
    results, *_ = finished
    table = pd.read_csv(results / "comparison/methods.csv").set_index("experiment")
    assert table.loc["robust", "auroc"] >= 0.9
    assert {"one_model", "(random)"} <= set(table.index)
    assert (results / "comparison/methods.png").stat().st_size > 10_000
    assert "gateau_robust" in (results / "choices/choices.md").read_text()
    assert "most attended to" in (results / "sensitivity/sensitivity.md").read_text()


def test_near_duplicates_are_ranked_but_not_taken(finished):
    results, *_ = finished
    ranking = read_rows(results / "selection/robust/ranking.parquet", RANKING)
    left_out = {row["id"]: row["duplicate_of"] for row in ranking if row["duplicate_of"] is not None}
    assert len(ranking) == 23
    texts = {row["id"]: row["response"] for row in read_rows(results / "samples/samples.parquet", SAMPLES)}
    assert len(left_out) == 4
    for row_id, better in left_out.items():
        assert texts[row_id] == texts[better]
        assert better not in left_out
    taken = [json.loads(line)["id"] for line in (results / "selection/robust/gateau_long.jsonl").open()]
    assert taken == [row["id"] for row in ranking if row["id"] not in left_out]
    summary = json.loads((results / "selection/robust/summary.json").read_text())
    assert (summary["ranked"], summary["near_duplicates"], summary["selected"]) == (23, 4, 19)


def test_car_takes_the_best_rewarded_of_each_cluster_first(finished):
    results, *_ = finished
    rewards = {row["id"]: row["reward"] for row in read_rows(results / "rewards/rewards.parquet", REWARDS)}
    ranking = read_rows(results / "selection/car/ranking.parquet", RANKING)
    assert {row["id"]: row["score"] for row in ranking} == rewards
    distinct = [row for row in ranking if row["duplicate_of"] is None]
    by_score = sorted(distinct, key=lambda row: -row["score"])
    best = {}
    for row in by_score:
        best.setdefault(row["cluster"], row["id"])
    assert len(best) == 4
    taken = [json.loads(line)["id"] for line in (results / "selection/car/gateau_long.jsonl").open()]
    assert taken == [*best.values(), *(row["id"] for row in by_score if row["id"] not in best.values())][:6]
    embeddings = read_rows(results / "embeddings/embeddings.parquet", EMBEDDINGS)
    assert sorted(row["id"] for row in embeddings) == sorted(rewards)
    overview = re.sub(r" +", " ", (results / "selection/overview.md").read_text())
    assert "| car | reward | 23 | 4 | 6 | 4 of 4 |" in overview
    assert "| robust | gateau_robust | 23 | 4 | 19 | – |" in overview


def test_one_model_is_the_long_model_with_the_context_cut_to_the_short_window(finished):
    """By definition: the last tokens of the context, frame, instruction and response within 256 tokens."""
    results, *_ = finished
    spec = ModelSpec.from_config({"path": str(TINY_PAIR / "long")})
    model = load_model(spec, load_config(spec), Runtime("cpu", "float32", "sdpa"))
    prompt = yaml.safe_load((ROOT / "config/config.yaml").read_text())["scoring"]["prompt"]
    encoder = PromptEncoder(load_tokenizer(spec), prompt)
    samples = read_rows(results / "samples/samples.parquet", SAMPLES)
    contrast = {row["id"]: row["nll"] for row in read_rows(results / "contrast/one_model.parquet", CONTRAST)}
    assert sorted(contrast) == sorted(row["id"] for row in samples)
    for row in samples[:6]:
        (whole,) = encoder.encode([row["context"]], [row["instruction"]], [row["response"]])
        cut = len(whole.sequence()) - 256
        head = len(whole.head)
        ids = torch.tensor([whole.sequence()[:head] + whole.sequence()[head + max(cut, 0) :]])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].log_softmax(-1)
        nll = -logits.gather(1, ids[0, 1:, None])[-len(whole.response) :].mean().item()
        assert contrast[row["id"]] == pytest.approx(nll, abs=1e-4)
        assert cut > 0


def test_the_miniature_trains_every_method_on_equal_terms_and_on_no_near_duplicate(finished):
    results, *_ = finished
    table = pd.read_csv(results / "miniature_summary/miniature.csv").set_index(["experiment", "share"])
    # nine tenths of 23 rows are 21; without four near duplicates 19 are left
    assert table["rows"].to_dict() == {
        ("_before", 0.0): 0, ("robust", 0.9): 19, ("one_model", 0.9): 21, ("car", 0.9): 19, ("_random", 0.9): 21,
        ("_full", 1.0): 23,
    }  # fmt: skip
    assert table.loc[("robust", 0.9), "seeds"] == 2
    runs = json.loads((results / "miniature_runs/_random-0.9.json").read_text())
    assert table.loc[("_random", 0.9), "far_recall"] == sum(sum(run["far"]["recalled"]) for run in runs) / 16


def test_nothing_is_left_to_do_and_a_longer_study_repeats_no_pass(finished):
    _, directory, config = finished
    result = snakemake(directory, config, "planted", "miniature", "--dry-run")
    assert "Nothing to be done" in result.stdout
    longer = merged(config, {"miniature": {"steps": 4}})
    planned = snakemake(directory, longer, "miniature", "--dry-run", "--quiet", "rules").stdout
    assert "miniature_runs" in planned
    assert "_pass" not in planned


def test_every_folder_has_a_manifest_that_verifies_and_follows_a_change(finished):
    results, directory, config = finished
    folders = {path.name for path in results.iterdir()} - {"logs", "benchmarks", "progress"}
    assert folders > {"comparison", "choices", "sensitivity", "contrast_pass", "contrast", "minhash", "embeddings",
                      "rewards", "miniature_runs", "miniature_summary"}  # fmt: skip
    manifests = {path.parent.name: json.loads(path.read_text()) for path in results.glob("*/manifest.json")}
    assert manifests.keys() == folders
    assert not [folder for folder, manifest in manifests.items() if not manifest["environments"]]
    assert "_random-0.9.json" in manifests["miniature_runs"]["files"]
    verified = run_script("verify", results)
    assert verified.returncode == 0, verified.stdout
    longer = merged(config, {"miniature": {"steps": 4}})
    changed = snakemake(directory, longer, "planted", "miniature", "--dry-run").stdout
    assert set(re.findall(r"results/(\w+)/manifest\.json$", changed, re.M)) == {"miniature_runs", "miniature_summary"}


def test_comparison_and_study_do_not_start_each_other(finished):
    _, directory, config = finished
    config = {**config, "results_dir": "elsewhere"}
    compared, study = {"comparison", "choices", "sensitivity"}, {"miniature_runs", "miniature_summary"}
    selected, planted, miniature, everything = (
        planned_rules(directory, config, target) for target in ("selected", "planted", "miniature", "all")
    )
    trained = {"tokens", "mixture", "plan", "train", "export", "plot_train"}
    assert compared < planted == selected - {"scored", "dataset"}
    assert selected == everything - trained
    assert miniature == (planted - compared) | study


def test_one_model_follows_the_window_of_the_short_model(finished):
    _, directory, config = finished
    other = merged(config, {"models": {"short": {"path": str(TINY_PAIR / "short"), "window": 128}}})
    planned = snakemake(directory, other, "results/contrast/one_model.parquet", "--dry-run", "--quiet", "rules").stdout
    assert "contrast_pass" in planned
    assert "long_pass" not in planned


def test_a_comparison_of_nothing_says_what_to_set(finished):
    _, directory, config = finished
    result = snakemake(directory, merged(config, {"comparison": {"positive": []}}), "planted", "--dry-run")
    assert result.returncode != 0
    assert "comparison.positive names no label" in result.stdout


def test_a_run_tells_at_its_start_what_its_contrast_costs(finished):
    _, directory, config = finished
    result = snakemake(directory, config, "results/contrast/one_model.parquet", "--forcerun", "contrast")
    assert result.returncode == 0, result.stdout
    assert re.search(r"estimate: 23 long rows .* segment_pass \S+, contrast_pass one_model \d", result.stdout)
