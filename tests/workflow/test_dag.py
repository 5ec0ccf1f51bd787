"""The workflow as a user runs it: idempotent, the same for any sharding, truthful about what reruns."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file, save_file

from gateau.schemas import RANKING, SCORES
from gateau.tables import read_rows

from helpers import (
    ROOT,
    TINY_PAIR,
    kill_tree,
    merged,
    other_weights,
    parquet_content,
    planned_rules,
    row,
    run_script,
    small_config,
    snakemake,
    snakemake_command,
    touch_all,
    whole_config,
    write_jsonl,
)

pytestmark = pytest.mark.workflow
SELECTION = "results/selection/gateau"
AFTER_TRAINING = {"export", "plot_train"}
AFTER_PLAN = {"train"} | AFTER_TRAINING
AFTER_TOKENS = {"mixture", "plan"} | AFTER_PLAN
AFTER_SELECTION = {"scored", "dataset"} | AFTER_TOKENS
AFTER_SCORES = {"selection", "plot_selection", "overview"} | AFTER_SELECTION
PASSES = {"short_pass", "long_pass", "segment_pass"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run; tests may only dry-run in it. Returns (directory, config)."""
    directory = tmp_path_factory.mktemp("finished")
    for name in ("workflow", "config", "scripts", "profiles", "envs"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    config = small_config(directory)
    result = snakemake(directory, config)
    assert result.returncode == 0, result.stdout
    other_weights(TINY_PAIR / "long", directory / "other_long")
    return directory, config


def trained_weights(directory):
    """The exported weights, as bytes."""
    return (directory / "results/export/gateau/model.safetensors").read_bytes()


def final_files(directory):
    """What a selection stands for, as values: scores and ranking to the last bit, selected rows to the last byte."""
    return (
        parquet_content(directory / "results/scores/scores.parquet"),
        parquet_content(directory / SELECTION / "ranking.parquet"),
        (directory / SELECTION / "gateau_long.jsonl").read_bytes(),
    )


def test_a_run_gives_what_it_promises(finished):
    directory, _ = finished
    scores = read_rows(directory / "results/scores/scores.parquet", SCORES)
    ranking = read_rows(directory / SELECTION / "ranking.parquet", RANKING)
    selected = [json.loads(line) for line in (directory / SELECTION / "gateau_long.jsonl").read_text().splitlines()]
    raw = {
        r["id"]: r for r in map(json.loads, (directory / "results/planted_rows/long.jsonl").read_text().splitlines())
    }
    assert len(scores) == len(ranking) == 10
    assert [r["rank"] for r in ranking] == list(range(1, 11))
    assert [r["id"] for r in selected] == [r["id"] for r in ranking]
    assert all(r == raw[r["id"]] for r in selected)
    for score in scores:
        assert score["status"] == "ok"
        assert len(score["segment_nll"]) == len(score["segment_attention"]) == -(-score["n_context"] // 64)
        assert 0 < sum(score["segment_attention"]) * 64 < 1.2
    assert {s["id"]: s["cas"] for s in scores} == {r["id"]: r["cas"] for r in ranking}
    summary = json.loads((directory / SELECTION / "summary.json").read_text())
    assert summary["samples_by_status"] == {"ok": 10}
    assert (directory / SELECTION / "distributions.png").stat().st_size > 10_000
    assert "duplicate_content 1" in (directory / "results/selection/overview.md").read_text()


def test_a_second_run_has_nothing_to_do_and_touching_changes_nothing(finished):
    directory, config = finished
    assert planned_rules(directory, config) == set()
    touch_all(directory)
    assert planned_rules(directory, config) == set()


def test_a_copy_has_nothing_to_do(finished, tmp_path):
    """``cp -r`` gives all files new times, in the order that the file system lists them."""
    directory, config = finished
    subprocess.run(["cp", "-r", directory, tmp_path / "copy"], check=True)
    assert planned_rules(tmp_path / "copy", config) == set()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"selection": {"alpha": 0.5}}, AFTER_SCORES),
        ({"selection": {"orientation": "aligned"}}, AFTER_SCORES),
        ({"selection": {"importance": "inverse_ppl"}}, AFTER_SCORES),
        ({"selection": {"hmp_norm": "log", "score_norm": "rank"}}, AFTER_SCORES),
        ({"selection": {"method": "gateau_robust"}}, AFTER_SCORES),
        ({"selection": {"method": "key_tokens"}}, AFTER_SCORES),
        ({"selection": {"method": "one_model"}}, {"contrast_pass", "contrast"} | AFTER_SCORES),
        ({"selection": {"near_duplicates": 0.8}}, {"minhash"} | AFTER_SCORES),
        (
            {"selection": {"per_cluster": 1}, "models": {"embedder": str(TINY_PAIR / "short")}},
            {"embeddings"} | AFTER_SCORES,
        ),
        ({"selection": {"method": "reward"}, "models": {"reward": "other_long"}}, {"rewards"} | AFTER_SCORES),
        ({"selection": {"method": "random", "n_long": 3}}, AFTER_SELECTION),
        ({"data": {"max_rejected_share": 0.9}, "scoring": {"max_non_finite_share": 0.9}}, set()),
        ({"tokens": {"max_rejected_share": 0.9, "preview": 9}}, set()),
        ({"comparison": {"positive": ["planted/far"]}}, {"comparison", "choices", "sensitivity"}),
        ({"experiments": {"second": {"alpha": 1}}}, AFTER_SCORES),
        ({"cam": {"segment_length": 32}}, {"segment_pass", "scores"} | AFTER_SCORES),
        ({"scoring": {"attention_block": 32}}, {"long_pass", "scores"} | AFTER_SCORES),
        ({"scoring": {"screen": 0.5}}, {"screen", "segment_pass", "scores"} | AFTER_SCORES),
        ({"scoring": {"short_context": "truncate"}}, {"short_pass", "scores"} | AFTER_SCORES),
        (
            {"models": {"short": {"path": str(TINY_PAIR / "short"), "window": 128}}},
            {"short_pass", "scores"} | AFTER_SCORES,
        ),
        ({"models": {"long": "other_long"}}, {"long_pass", "segment_pass", "scores"} | AFTER_SCORES),
        ({"scoring": {"max_length": 700}}, {"index", "scores"} | PASSES | AFTER_SCORES),
        ({"scoring": {"prompt": "{context} {instruction} {response}"}}, {"index", "scores"} | PASSES | AFTER_SCORES),
        ({"scoring": {"format": "chat_template"}}, {"index", "scores"} | PASSES | AFTER_SCORES),
        ({"scoring": {"template_options": {"a": False}}}, {"index", "scores"} | PASSES | AFTER_SCORES),
        ({"scoring": {"shards": 2}}, {"index", "scores"} | PASSES | AFTER_SCORES),
        (
            {"data": {"planted": {"seed": 1}}},
            {"planted_rows", "samples", "chats", "tokens", "index", "scores"} | PASSES | AFTER_SCORES,
        ),
        ({"tokens": {"max_length": 900}}, {"tokens", "dataset"} | AFTER_TOKENS),
        ({"tokens": {"turns": "last"}}, {"tokens", "dataset"} | AFTER_TOKENS),
        ({"mixture": {"n_short": 4}}, {"dataset"} | AFTER_TOKENS),
        ({"mixture": {"held_out": 1}}, AFTER_SCORES),
        ({"plan": {"token_budget": 2000}}, {"plan"} | AFTER_PLAN),
        ({"train": {"learning_rate": 5e-4}}, {"dataset"} | AFTER_PLAN),
        ({"models": {"base": "other_long"}}, {"dataset"} | AFTER_PLAN),
        ({"models": {"base": {"path": str(TINY_PAIR / "long"), "window": 2048}}}, {"dataset"} | AFTER_PLAN),
        (
            {"models": {"base": {"path": str(TINY_PAIR / "long"), "rope_parameters": {"rope_theta": 5e4}}}},
            {"dataset"} | AFTER_PLAN,
        ),
        ({"export": {"data_hub_repository": "me/rows"}}, {"dataset"}),
        ({"train": {"nodes": 2, "ranks_per_node": 4, "save_steps": 9, "report_to": "wandb", "threads": 3}}, set()),
        ({"train": {"deepspeed": "config/deepspeed/zero2.json", "gradient_checkpointing": False}}, set()),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_change_reruns_what_depends_on_it(finished, change, expected):
    directory, config = finished
    assert planned_rules(directory, merged(config, change)) == expected


def test_an_added_experiment_leaves_the_others_alone(finished):
    directory, config = finished
    result = snakemake(directory, merged(config, {"experiments": {"second": {"alpha": 1}}}), "--dry-run")
    assert "selection/second/ranking.parquet" in result.stdout
    assert f"output: {SELECTION}/ranking.parquet" not in result.stdout


def test_every_folder_has_a_manifest_that_verifies_and_follows_a_change(finished):
    directory, config = finished
    folders = {path.parent.name for path in (directory / "results").glob("*/manifest.json")}
    expected = {
        "planted_rows", "samples", "chats", "index", *PASSES, "scores", "selection", "tokens", "mixture", "plan",
        "train", "plot_train", "export", "report_page", "scored", "dataset",
    }  # fmt: skip
    assert folders == expected
    result = run_script("verify", directory / "results")
    assert result.returncode == 0, result.stdout
    assert "| export  " in (directory / "results/provenance/provenance.md").read_text()
    changed = snakemake(directory, merged(config, {"train": {"learning_rate": 5e-4}}), "--dry-run")
    planned = set(re.findall(r"results/(\w+)/manifest\.json$", changed.stdout, re.M))
    assert planned == {"train", "plot_train", "export", "report_page", "dataset"}


def test_a_user_s_experiments_take_the_place_of_the_default_ones(finished):
    directory, config = finished
    result = snakemake(directory, config, "--dry-run", "--forceall")
    assert "selection/gateau/" in result.stdout
    assert "selection/gateau_robust/" not in result.stdout


def test_experiments_without_scores_run_no_pass(finished):
    directory, config = finished
    experiments = {"full": {"method": "full"}, "random": {"method": "random", "n_long": 4}, "none": {"n_long": 0}}
    rules = planned_rules(directory, {**config, "experiments": experiments, "results_dir": "elsewhere"})
    assert rules == {
        "samples",
        "chats",
        "tokens",
        "mixture",
        "plan",
        "train",
        "export",
        "plot_train",
        "scored",
        "dataset",
    }
    untrained = {**config, "experiments": experiments, "results_dir": "elsewhere", "train": {"experiments": "none"}}
    assert planned_rules(directory, untrained, "selected") == {"samples", "chats", "tokens", "scored", "dataset"}
    assert planned_rules(directory, {**untrained, "mixture": {}}, "selected") == {"samples", "scored", "dataset"}


def test_training_runs_only_for_the_experiments_that_the_file_names(finished):
    directory, config = finished
    change = {"experiments": {"a": {}, "b": {}}, "results_dir": "elsewhere"}
    only = snakemake(directory, merged(config, change, {"train": {"experiments": ["b"]}}), "--dry-run")
    assert "elsewhere/export/b" in only.stdout
    assert "elsewhere/export/a" not in only.stdout
    untrained = merged(config, change, {"train": {"experiments": "none"}, "mixture": {"n_short": 0}})
    assert not planned_rules(directory, untrained) & {"chats", "tokens", *AFTER_TOKENS}


def test_models_that_the_run_does_not_need_may_be_missing(finished):
    directory, config = finished
    gone = dict.fromkeys(("short", "long", "base", "reward", "embedder", "non_homologous"), "/gone/model")
    evaluate = {"benchmarks": ["needle"], "assets": {"source": "own"}, "models": {"mine": str(TINY_PAIR / "long")}}
    evaluating = {**config, "models": gone, "experiments": {}, "train": {}, "evaluate": evaluate}
    assert "generate" in planned_rules(directory, {**evaluating, "results_dir": "elsewhere"}, "evaluated")
    further = {role: path for role, path in gone.items() if role not in ("short", "long", "base")}
    assert planned_rules(directory, merged(config, {"models": further})) == set()
    for change in ({"models": {**config["models"], "long": "/gone/model"}}, {"models": {**config["models"], **gone}}):
        stopped = snakemake(directory, {**config, **change}, "--dry-run")
        assert "/gone/model: no such model directory; set models.short" in stopped.stdout
    drawn = {**evaluating, "experiments": {"full": {"method": "full"}}}
    assert "/gone/model: no such model directory" in snakemake(directory, drawn, "--dry-run").stdout
    counted = merged(drawn, {"models": {"base": str(TINY_PAIR / "long")}, "data": {"min_tokens": 5}})
    assert "/gone/model: no such model directory" in snakemake(directory, counted, "--dry-run").stdout


def test_a_training_asks_for_its_signal_whatever_resources_are_set(tmp_path):
    arguments = ["--dry-run", "--set-resources", "train:mem_mb=9"]
    planned = snakemake(tmp_path, merged(small_config(tmp_path), {"train": {"experiments": "all"}}), *arguments).stdout
    (resources,) = (line for line in planned.splitlines() if "slurm_extra" in line)
    assert "mem_mb=9" in resources
    assert "slurm_extra=--signal=USR1@600" in resources


def test_resources_follow_what_a_selection_compares(tmp_path):
    config = merged(small_config(tmp_path), {"selection": {"near_duplicates": 0.8}})
    for changed, memory in ((config, 32000), (small_config(tmp_path), 8000)):
        planned = snakemake(tmp_path, changed, "selected", "--dry-run").stdout.split("\nrule selection:")[1]
        assert f"mem_mb={memory}," in planned.split("resources:")[1].splitlines()[0]


def test_nothing_to_do_is_told(finished):
    directory, config = finished
    result = snakemake(directory, {**config, "experiments": {}}, "--dry-run")
    assert result.returncode != 0
    assert "nothing to do: no experiment is ranked or trained, and no benchmark is run" in result.stdout


def test_the_trained_model_is_whole_and_answers(finished):
    directory, _ = finished
    exported = directory / "results/export/gateau"
    names = {file.name for file in exported.iterdir()}
    expected = {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "generation_config.json",
        "README.md",
        "gateau.json",
    }
    assert expected <= names
    mixture = json.loads((directory / "results/mixture/gateau/summary.json").read_text())
    assert (mixture["long"], mixture["short"]) == (10, 8)
    result = run_script("chat", "--model", exported, "--prompt", "Recite fact one.", "--max-new-tokens", 12)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_other_resources_rerun_nothing(finished):
    directory, config = finished
    assert planned_rules(directory, config, "--set-resources", "long_pass:gpu=4", "long_pass:mem_mb=9") == set()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("gateau/selection/fusion.py", AFTER_SCORES),
        ("gateau/training/objective.py", AFTER_PLAN),
        ("gateau/training/batching.py", {"plan"} | AFTER_PLAN),
        ("gateau/training/tokenization.py", {"tokens", "dataset"} | AFTER_TOKENS),
        ("gateau/training/exporting.py", {"export"}),
        ("gateau/scoring/attention.py", PASSES | {"scores"} | AFTER_SCORES),
        ("plot_selection.py", {"plot_selection", "dataset"}),
        ("gateau/delivery/card.py", {"dataset"}),
        ("gateau/data/whole.py", {"scored"}),
    ],
)
def test_an_edited_module_reruns_the_rules_that_stand_on_it(finished, module, expected):
    directory, config = finished
    path = directory / "scripts" / module
    original = path.read_text()
    try:
        path.write_text(original + "\n# a remark\n")
        assert planned_rules(directory, config) == expected
    finally:
        path.write_text(original)


def test_after_a_remark_in_the_code_no_model_is_loaded(finished, tmp_path):
    """The rules run again, find every sample in the progress store and end with identical files."""
    directory, config = finished
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    path = copy / "scripts/gateau/scoring/attention.py"
    path.write_text(path.read_text() + "\n# a remark\n")
    result = snakemake(copy, config)
    assert result.returncode == 0, result.stdout
    log = "".join(p.read_text() for rule in PASSES for p in (copy / f"results/logs/{rule}").iterdir())
    assert log.count("10 found in") == 3
    assert "loading " not in log
    assert final_files(copy) == final_files(directory)


def test_a_moved_repository_and_run_directory_rerun_nothing(finished, tmp_path):
    directory, config = finished
    moved = tmp_path / "moved"
    shutil.copytree(directory, moved)
    for role in ("short", "long"):
        shutil.copytree(TINY_PAIR / role, moved / f"models/{role}")
    config = merged(config, {"models": {"short": "models/short", "long": "models/long"}})
    assert planned_rules(moved, config) == set()


def test_another_number_of_shards_and_other_files_give_the_same_selection(finished, tmp_path):
    """The rows come from Parquet and CSV files with columns of other names, and three jobs score them."""
    directory, config = finished
    names = {"context": "document", "instruction": "ask", "response": "reply", "id": "key", "dataset": "kind",
             "length": "n"}  # fmt: skip
    rows = []
    for line in (directory / "results/planted_rows/long.jsonl").read_text().splitlines():
        one = json.loads(line)
        context, _, instruction = one["messages"][0]["content"].rpartition("\n\n")
        parts = one | {"context": context, "instruction": instruction, "response": one["messages"][1]["content"]}
        rows.append({own: parts[name] for name, own in names.items()})
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:6]), tmp_path / "rows/1.parquet", row_group_size=4)
    pa.csv.write_csv(pa.Table.from_pylist(rows[6:]), tmp_path / "rows/2.csv")
    change = {"data": {"long": "rows", "columns": names, "planted": None}, "scoring": {"shards": 3}}
    config = merged(config, change, {"data": {"short": str(directory / config["data"]["short"])}})
    result = snakemake(tmp_path, config, f"{SELECTION}/ranking.parquet")
    assert result.returncode == 0, result.stdout
    assert len(list((tmp_path / "results/long_pass").iterdir())) == 3
    assert final_files(tmp_path) == final_files(directory)


@pytest.mark.long
def test_a_training_told_to_stop_is_finished_by_the_rule_s_own_retry(finished, tmp_path):
    """SIGUSR1 to the training under Snakemake: it saves and ends, and the retry goes on to the same weights."""
    directory, config = finished
    config = merged(config, {"plan": {"epochs": 10}})
    runs = []
    for name in ("undisturbed", "told"):
        run = tmp_path / name
        shutil.copytree(directory, run)
        shutil.rmtree(run / "results/checkpoints")
        with open(run / "run.log", "wb") as log:
            process = subprocess.Popen(
                snakemake_command(run, config, "results/export/gateau"), stdout=log, stderr=log, cwd=ROOT
            )
            deadline = time.monotonic() + 120
            while name == "told" and not list((run / "results/checkpoints").rglob("checkpoint-4/complete.json")):
                assert process.poll() is None, (run / "run.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if name == "told":
                family = psutil.Process(process.pid).children(recursive=True)
                (training,) = [
                    p for p in family if p.name().startswith("python") and "train.py" in " ".join(p.cmdline())
                ]
                training.send_signal(signal.SIGUSR1)
            assert process.wait(timeout=300) == 0, (run / "run.log").read_text()
        runs.append(run)
    assert "Trying to restart job" in (runs[1] / "run.log").read_text()
    summary = json.loads((runs[1] / "results/train/gateau/summary.json").read_text())
    assert 4 <= summary["resumed_from_step"] < summary["steps"]
    assert trained_weights(runs[1]) == trained_weights(runs[0])


@pytest.mark.cluster
def test_killed_inside_a_shard_only_the_rest_is_computed(tmp_path):
    """The kill comes when some samples of the shard are in the store and others are not."""
    rows = {"data": {"planted": {"rows": {"far": 60}, "duplicates": 0}}, "scoring": {"progress_seconds": 0}}
    config = small_config(tmp_path, **rows, cam={"segment_length": 16})
    target = "results/segment_pass/0000-of-0001.parquet"
    store = tmp_path / "results/progress/segment_pass"
    with open(tmp_path / "killed.log", "wb") as log:
        command = snakemake_command(tmp_path, config, target)
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        deadline = time.monotonic() + 120
        while not list(store.glob("*/part-*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.01)
        kill_tree(process)
    finished_before = len(list(store.glob("*/part-*.parquet")))
    assert finished_before > 0
    assert not (tmp_path / target).exists()
    assert snakemake(tmp_path, config, "--unlock").returncode == 0
    result = snakemake(tmp_path, config, target)
    assert result.returncode == 0, result.stdout
    (log_file,) = (tmp_path / "results/logs/segment_pass").iterdir()
    counts = re.search(r"(\d+) samples, (\d+) found in .*, (\d+) to compute", log_file.read_text())
    total, found, computed = map(int, counts.groups())
    assert finished_before <= found < total
    assert found + computed == total
    interrupted = parquet_content(tmp_path / target)
    shutil.rmtree(tmp_path / "results")
    assert snakemake(tmp_path, config, target).returncode == 0
    assert parquet_content(tmp_path / target) == interrupted


# --- what a user can get wrong ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scoring": {"shard": 2}}, "\nscoring.shard: this key does not exist; did you mean scoring.shards?\n"),
        ({"models": {"long": None}}, "\nmodels.long must be set in your configuration file; start from a file of"),
        ({"models": {"long": "/no/such/model"}}, "/no/such/model: no such model directory"),
        ({"models": {"short": {"path": "./nowhere"}}}, "./nowhere: no such model directory"),
        ({"scoring": {"max_length": 64000}}, "has a window of 1024 tokens: lower it"),
        (
            {"data": {"long": "absent.jsonl", "planted": None}},
            "\nabsent.jsonl: no such file; set data.long to files, folders or globs of your own rows (relative paths "
            "start at the working directory), or try the embedded data with --configfile config/demo.yaml\n",
        ),
        (
            {"data": {"long": "absent/*.jsonl", "planted": None}},
            "\nabsent/*.jsonl: the glob matches no file; correct it in",
        ),
        ({"models": {"short": str(TINY_PAIR / "long")}}, "set scoring.short_context: truncate"),
        ({"experiments": {0.8: {"alpha": 0.8}}}, "names must be text, and YAML reads 0.8 as another type"),
        ({"data": {"short": "none"}}, "experiment gateau mixes short chats (n_short), but data.short is none"),
        ({"models": {"base": "/no/such/base"}}, "/no/such/base: no such model directory"),
        (
            {"experiments": {"gateau": {"method": "guess"}}},
            "experiment gateau: method 'guess' does not exist; choose one of",
        ),
        ({"experiments": {"gateau": {"method": "hmg", "alpha": 0.5}}}, "method hmg does not read alpha; remove"),
        ({"selection": {"method": "non_homologous"}}, "method non_homologous needs a model; set models.non_homologous"),
        ({"selection": {"method": "reward"}}, "method reward needs a model; set models.reward"),
        ({"selection": {"per_cluster": 1}}, "experiment gateau: per_cluster needs a model; set models.embedder"),
        ({"selection": {"clusters": 9}}, "clusters has no effect without per_cluster"),
        (
            {"experiments": {"gateau": {"method": "full", "near_duplicates": 0.8}}},
            "near_duplicates needs a method that",
        ),
        ({"experiments": {"gateau": {"method": "random", "per_cluster": 1}}}, "per_cluster needs a method that ranks"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_told_before_anything_runs(tmp_path, change, message):
    result = snakemake(tmp_path, merged(small_config(tmp_path), change), "--dry-run")
    assert result.returncode != 0
    assert message in result.stdout
    assert "Traceback" not in result.stdout


def odd_rows():
    """Rows at every edge that must not stop a run, and the status each ends with."""
    note = "Note otter balor kemin."
    return {
        "plain": (row(f"{note}\n\nWhat does note otter say?", note), "ok"),
        "one token": (row("a\n\nWhat?", note), "ok"),
        "no blank line": (row("What does note otter say?", note), "no_context"),
        "marker": (row(f"{note} ### Response: no\n\nWhat?", note), "ok"),
        "control tokens": (row(f"<s> {note} </s> <pad>\n\nWhat?", "</s>"), "ok"),
        "long question": (row(f"{note}\n\nWhat {'otter ' * 400}", note), "too_long"),
        "long answer": (row(f"{note}\n\nWhat?", "balor " * 400), "too_long"),
        "longer than the window": (row("falcon " * 700 + "\n\nWhat?", note), "ok"),
        "one-token answer": (row(f"{note}\n\nWhat?", "."), "ok"),
        "other scripts": (row("长文本 zwölf Boxkämpfer 🦊\n\nWhat?", note), "ok"),
    }


def test_odd_rows_get_a_status_and_the_rest_is_ranked(tmp_path):
    cases = odd_rows()
    rows = [{**value, "id": key} for key, (value, _) in cases.items()]
    write_jsonl(tmp_path / "raw.jsonl", [*rows, "not json", {"messages": []}, row("x\n\ny", "", id="empty")])
    config = small_config(
        tmp_path, data={"long": "raw.jsonl", "planted": None, "short": "raw.jsonl"}, scoring={"max_length": 300}
    )
    result = snakemake(tmp_path, config, "selected")
    assert result.returncode == 0, result.stdout
    scores = {r["id"]: r for r in read_rows(tmp_path / "results/scores/scores.parquet", SCORES)}
    assert {key: r["status"] for key, r in scores.items()} == {key: status for key, (_, status) in cases.items()}
    assert scores["no blank line"]["nll_long"] > 0
    assert scores["no blank line"]["cas"] is None
    assert scores["long answer"]["nll_long"] is None
    assert scores["longer than the window"]["truncated_tokens"] > 400
    ranked = {r["id"] for r in read_rows(tmp_path / SELECTION / "ranking.parquet", RANKING)}
    assert ranked == {key for key, (_, status) in cases.items() if status == "ok"}
    rejects = [json.loads(line) for line in (tmp_path / "results/samples/rejects.jsonl").read_text().splitlines()]
    assert [r["reason"] for r in rejects] == ["not_json", "empty_messages", "empty_response"]


def test_truncation_to_a_short_window_has_its_own_limit(tmp_path):
    """In truncate mode a question that θ_S's window cannot hold is too long, whatever max_length says."""
    note = "Note otter balor."
    rows = [row(f"{note}\n\nWhat?", note, id="fits"), row(f"{note}\n\nWhat {'otter ' * 300}", note, id="long")]
    write_jsonl(tmp_path / "raw.jsonl", rows)
    config = small_config(
        tmp_path,
        data={"long": "raw.jsonl", "planted": None, "short": "raw.jsonl"},
        scoring={"short_context": "truncate"},
    )
    result = snakemake(tmp_path, config, "results/scores/scores.parquet")
    assert result.returncode == 0, result.stdout
    scores = read_rows(tmp_path / "results/scores/scores.parquet", SCORES)
    assert {r["id"]: r["status"] for r in scores} == {"fits": "ok", "long": "too_long"}


def broken_model(tmp_path, change):
    """The long model with its weights changed."""
    path = shutil.copytree(TINY_PAIR / "long", tmp_path / "broken")
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_nan_from_a_model_is_counted_and_stops_the_run_with_advice(tmp_path):
    path = broken_model(tmp_path, lambda weights: weights["model.norm.weight"].fill_(float("nan")))
    result = snakemake(tmp_path, small_config(tmp_path, models={"long": str(path)}), "selected")
    assert result.returncode != 0
    assert "10 of 10 samples have NaN or infinite scores" in result.stdout
    assert "set scoring.dtype to bfloat16" in result.stdout
    lenient = small_config(tmp_path, models={"short": str(path)}, scoring={"max_non_finite_share": 1.0})
    result = snakemake(tmp_path, lenient, "selected")
    assert result.returncode != 0
    assert "no sample can be ranked" in result.stdout


def test_tokenizers_that_differ_are_refused(tmp_path):
    path = shutil.copytree(TINY_PAIR / "short", tmp_path / "other")
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["Ġfalcon"], vocabulary["Ġbadger"] = vocabulary["Ġbadger"], vocabulary["Ġfalcon"]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = small_config(tmp_path, models={"short": str(path)})
    result = snakemake(tmp_path, config, "results/scores/scores.parquet")
    assert result.returncode != 0
    assert "its tokenizer differs from that of models.long" in result.stdout


def test_the_report_is_built_and_lint_is_clean(finished):
    directory, config = finished
    result = snakemake(directory, config, "--report", "report.html")
    assert result.returncode == 0, result.stdout
    html = (directory / "report.html").read_text()
    assert "score distributions" in html
    assert "overview" in html
    assert "rendered rows" in html
    assert "losses" in html
    lint = snakemake(directory, config, "--lint")
    assert lint.returncode == 0, lint.stdout
    assert "Congratulations" in lint.stdout


def test_commands_stay_short_however_many_shards(tmp_path):
    """The system refuses one argument of more than 128 KB, and a shell command is one argument."""
    config = small_config(tmp_path, scoring={"shards": 1500})
    result = snakemake(tmp_path, config, "results/scores/scores.parquet", "--dry-run", "--printshellcmds")
    assert result.returncode == 0, result.stdout
    commands = [line for line in result.stdout.splitlines() if "scores.py" in line]
    assert commands
    assert max(map(len, commands)) < 10_000


@pytest.mark.parametrize("results", ["results", "train/judge"])
def test_names_of_rules_are_names_of_experiments_and_models_too(tmp_path, results):
    """The folder of results is found whatever experiments and models are called."""
    models = {name: str(TINY_PAIR / "short") for name in ("judge", "generate")}
    experiments = {"train": {"n_long": 4}, "ablation": {"method": "no_extended_window", "n_long": 4}}
    change = {"results_dir": results, "experiments": experiments, "evaluate": {"models": models}}
    rows = {source: f"{results}/planted_rows/{source}.jsonl" for source in ("long", "short")}
    train = {"train": {"experiments": ["train"]}}
    config = merged(whole_config(tmp_path), change, train, {"data": rows})
    del config["experiments"]["gateau"]
    result = snakemake(tmp_path, config, "--dry-run", "--printshellcmds")
    assert result.returncode == 0, result.stdout[-3000:]
    assert "contrast_pass.py" in result.stdout
    for option in ("checkpoint_dir", "log_dir"):
        (found,) = set(re.findall(f'"{option}": "([^"]*)"', result.stdout))
        assert found.startswith((f"{results}/checkpoints", f"{results}/logs/train/train.tensorboard")), found
    found = set(re.findall(r"--(?:progress-dir|cache) (\S*/progress\S*)", result.stdout))
    assert found == {f"{results}/progress{below}" for below in ("", "/generate", "/judge")}


@pytest.mark.parametrize("how", ["workflow-profile by name", "profile by path", "profile by link"])
def test_the_slurm_profile_is_found_each_documented_way(tmp_path, how):
    """A dry run of the whole DAG; no cluster is asked."""
    arguments = {
        "workflow-profile by name": ["--workflow-profile", "slurm"],
        "profile by path": ["--profile", "profiles/slurm"],
        "profile by link": ["--profile", "slurm"],
    }[how]
    (tmp_path / "snakemake").mkdir()
    (tmp_path / "snakemake/slurm").symlink_to(ROOT / "profiles/slurm")
    config = small_config(
        tmp_path,
        results_dir=f"{tmp_path}/results",
        data={name: f"{tmp_path}/results/planted_rows/{name}.jsonl" for name in ("long", "short")},
    )
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--dry-run", *arguments, "--configfile", str(tmp_path / "my.yaml")]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "long_pass" in result.stdout
    assert "nodes=1" in result.stdout
