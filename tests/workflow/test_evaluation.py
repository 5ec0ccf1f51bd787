"""Evaluation as a user runs it: four benchmarks, a judge, a leaderboard; nothing asked twice, whatever happens."""

import csv
import json
import shutil
import subprocess

import pytest

from gateau.schemas import ANSWERS
from gateau.tables import read_rows

from helpers import ROOT, TINY_PAIR, merged, planned_rules, small_config, snakemake, touch_all

pytestmark = pytest.mark.workflow

BENCHMARKS = ["longbench", "longbench_chat", "needle", "mt_bench"]
SCORES = ("score_longbench", "score_longbench_chat", "score_needle", "score_mt_bench")
AFTER_ANSWERS = {"predictions", "judge", *SCORES, "leaderboard", "answers"}


def evaluation_config(directory, **overrides):
    """The tiny long model as it is on the own small sets, rated by the stand-in."""
    evaluate = {
        "benchmarks": BENCHMARKS,
        "models": {"base": "base"},
        "assets": {"source": "own"},
        "generate": {"device": "cpu"},
        "judge": {"benchmarks": BENCHMARKS, "model": "stand-in-judge", "stand_in": True},
        "longbench": {"data_sets": ["qasper", "gov_report", "dureader", "trec", "lcc"]},
        "longbench_chat": {"max_new_tokens": 24},
        "needle": {
            "lengths": [300, 500],
            "depths": [10, 50, 90],
            "needle": "Note falcon balor detek mosar rigas tunut.",
            "question": "What does note falcon say?",
            "keys": ["balor detek mosar"],
            "system": "",
            "prefix": "",
            "reserve": 60,
            "max_new_tokens": 16,
        },
        "mt_bench": {"max_new_tokens": 24},
    }
    return merged(small_config(directory), {"evaluate": evaluate}, overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished evaluation; tests may only dry-run in it."""
    directory = tmp_path_factory.mktemp("evaluated")
    for name in ("workflow", "config", "scripts", "profiles", "envs"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    config = evaluation_config(directory)
    result = snakemake(directory, config, "evaluated")
    assert result.returncode == 0, result.stdout
    return directory, config


def test_every_number_says_whose_items_and_whose_judgment_it_is(finished):
    directory, _ = finished
    rows = list(csv.DictReader((directory / "results/leaderboard/leaderboard.csv").open()))
    measured = [row for row in rows if row["source"] == "measured"]
    assert {row["benchmark"] for row in measured} == {"longbench", "longbench_chat", "needle", "mt_bench"}
    assert all(row["data"].startswith("own small set in the format of") for row in measured)
    judged = [row for row in measured if row["judge"]]
    assert {row["benchmark"] for row in judged} == {"longbench", "longbench_chat", "needle", "mt_bench"}
    assert all(row["judge"] == "stand-in, no language model" for row in judged)
    text = (directory / "results/leaderboard/leaderboard.md").read_text()
    published = next(part for part in text.split("\n## ") if "GATEAU-5k-100k (published)" in part)
    assert "published only, no model of this run was measured so" in published
    for line in (directory / "results/judge/base/mt_bench/judgments.jsonl").open():
        assert "no language model" in json.loads(line)["text"]
    assert (directory / "results/score_needle/base/heatmap.png").stat().st_size > 5000
    assert (directory / "results/score_needle/base/judge_heatmap.png").stat().st_size > 5000


def test_all_answers_are_published_with_the_digests_of_their_prompts(finished):
    results = finished[0] / "results"
    rows = read_rows(results / "answers/answers.parquet", ANSWERS)
    assert {row["benchmark"] for row in rows} == set(BENCHMARKS)
    asked = [json.loads(line) for path in results.glob("generate/base/*/*.jsonl") for line in path.open()]
    assert len(rows) == sum(len(one["turns"]) for one in asked)
    assert {row["prompt_sha256"] for row in rows} == {turn["prompt_sha256"] for one in asked for turn in one["turns"]}
    assert all(row["rating"] is not None for row in rows if row["benchmark"] in ("longbench_chat", "mt_bench"))
    assert all(row["score"] is not None for row in rows if row["benchmark"] in ("longbench", "needle"))
    assert list(json.loads((results / "answers/manifest.json").read_text())["files"]) == ["answers.parquet"]


def test_a_second_run_a_touched_and_a_copied_one_have_nothing_to_do(finished, tmp_path):
    directory, config = finished
    assert planned_rules(directory, config, "evaluated") == set()
    touch_all(directory)
    assert planned_rules(directory, config, "evaluated") == set()
    subprocess.run(["cp", "-r", directory, tmp_path / "copy"], check=True)
    assert planned_rules(tmp_path / "copy", config, "evaluated") == set()


def test_of_folders_the_contents_count(finished, tmp_path):
    directory, config = finished
    shutil.copytree(directory, tmp_path / "copy")
    directory, results = tmp_path / "copy", tmp_path / "copy/results"
    after_needle = {"generate", "predictions", "judge", "score_needle", "leaderboard", "answers"}
    made_again = snakemake(directory, config, "results/assets/needle.contents.json", "--forcerun", "assets")
    assert made_again.returncode == 0, made_again.stdout
    assert planned_rules(directory, config, "evaluated") == set()

    haystack = directory / "workflow/resources/small_benchmarks/needle/haystack/first.txt"
    haystack.write_text(haystack.read_text() + "One more line.\n")
    changed = snakemake(directory, config, "results/assets/needle.contents.json")
    assert changed.returncode == 0, changed.stdout
    assert planned_rules(directory, config, "evaluated") == after_needle

    shutil.rmtree(results / "assets/needle")
    assert planned_rules(directory, config, "evaluated") == {"assets"} | after_needle


def test_a_deleted_folder_is_made_again_once_it_is_needed(finished, tmp_path):
    directory, config = finished
    shutil.copytree(directory, tmp_path / "copy")
    directory, results = tmp_path / "copy", tmp_path / "copy/results"
    shutil.rmtree(results / "assets/mt_bench")
    assert planned_rules(directory, config, "evaluated") == set()
    shutil.rmtree(results / "predictions/base/mt_bench")
    after_predictions = {"judge", "score_mt_bench", "leaderboard", "answers"}
    # the judge reads the assets too; made again, they count as changed
    assert planned_rules(directory, config, "evaluated") == {"assets", "generate", "predictions"} | after_predictions


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"longbench": {"protocol": "fixed"}}, {"score_longbench", "leaderboard", "answers"}),
        ({"needle": {"keys": ["balor"]}}, {"score_needle", "leaderboard", "answers"}),
        ({"judge": {"concurrency": 3, "budget_tokens": 10**6, "tries": 2, "prompt_price": 1}}, set()),
        ({"judge": {"temperature": 0.5}}, {"judge", *SCORES, "leaderboard", "answers"}),
        ({"judge": {"max_null_share": 0.5}}, {"judge", *SCORES, "leaderboard", "answers"}),
        ({"judge": {"benchmarks": []}}, {"score_longbench", "score_needle", "leaderboard", "answers"}),
        ({"generate": {"threads": 2}}, set()),
        ({"generate": {"shards": {"needle": 2}}},
         {"generate", "predictions", "judge", "score_needle", "leaderboard", "answers"}),
        ({"longbench": {"data_sets": ["qasper"]}},
         {"generate", "predictions", "judge", "score_longbench", "leaderboard", "answers"}),
        ({"longbench_chat": {"protocol": "longalign"}},
         {"assets", "generate", "predictions", "judge", "score_longbench_chat", "leaderboard", "answers"}),
        ({"generate": {"max_length": 500}}, {"generate"} | AFTER_ANSWERS),
        ({"models": {"again": "base"}}, {"generate"} | AFTER_ANSWERS),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_change_reruns_what_depends_on_it(finished, change, expected):
    directory, config = finished
    assert planned_rules(directory, merged(config, {"evaluate": change}), "evaluated") == expected


def test_other_weights_are_asked_anew(finished):
    directory, config = finished
    other = merged(config, {"evaluate": {"models": {"base": str(TINY_PAIR / "short")}}})
    assert planned_rules(directory, other, "evaluated") == {"generate"} | AFTER_ANSWERS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiments": ["nobody"]}, "nobody is not one of train.experiments; choose from gateau"),
        ({"models": {"gateau": "base"}}, "gateau is also the name of an experiment"),
        ({"baseline": "nobody"}, "nobody is not evaluated; choose from base"),
        ({"servers": {"other": {"base_url": "http://localhost/v1", "model": "m"}}}, "other is not evaluated"),
        (
            {"judge": {"max_null_share": 2}},
            "judge.max_null_share: 2 is not allowed; allowed: a number at least 0 and at most 1",
        ),
        ({"needle": {"needle": "Note otter."}}, "'balor detek mosar' is not in the needle"),
        ({"longbench": {"data_sets": ["trivia"]}}, "data_sets.0: trivia is not allowed; allowed: narrativeqa, "),
        ({"models": {"base": "/no/such/model"}}, "/no/such/model: no such model directory"),
        (
            {"judge": {"base_url": "https://me:secret@host/v1"}},
            "https://me:secret@host/v1 is not allowed; allowed: text of the form",
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_named_before_anything_runs(tmp_path, change, message):
    result = snakemake(tmp_path, evaluation_config(tmp_path, evaluate=change), "evaluated", "--dry-run")
    assert result.returncode != 0
    assert message in result.stdout
