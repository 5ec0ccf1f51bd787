"""What section evaluate means, and that the benchmarks are known by their records alone."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from gateau import digests
from gateau.config_files import with_defaults
from gateau.costs.generation import turns_of
from gateau.errors import ModelError, SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.configured import Evaluation
from gateau.experiments import Configuration
from gateau.places import PACKAGE, SCRIPTS

from helpers import ROOT, TINY_PAIR, merged

NAMES = ("longbench", "longbench_chat", "mt_bench", "needle", "recall")
JUDGE = {"start": "vllm", "gpus": 4, "model": str(TINY_PAIR / "long"), "budget_tokens": None}
SERVER = {"base_url": "http://localhost:1/v1", "model": "served"}


def evaluation(**evaluate):
    models = {"short": str(TINY_PAIR / "short"), "long": str(TINY_PAIR / "long")}
    every = {"benchmarks": [*NAMES], "experiments": "all", "judge": {"benchmarks": [*NAMES], "budget_tokens": 1000}}
    experiments = {"one": {}, "two": {"alpha": 0.5}}
    train = {"experiments": "all"}
    config = with_defaults({"models": models, "train": train, "experiments": experiments, "evaluate": every})
    return Evaluation(Configuration(merged(config, {"evaluate": evaluate})))


def test_models_are_the_given_ones_then_the_experiments():
    section = {"path": str(TINY_PAIR / "short"), "window": 512, "revision": None}
    found = evaluation(models={"base": "base", "other": section, "plain": "hub/name"})
    assert found.models == ["base", "other", "plain", "one", "two"]
    assert found.given == {
        "base": {"path": str(TINY_PAIR / "long")},
        "other": {"path": str(TINY_PAIR / "short"), "window": 512},
        "plain": {"path": "hub/name"},
    }
    assert found.baseline == "base"
    assert evaluation(experiments=["two"]).models == ["two"]
    assert evaluation(baseline="two").baseline == "two"
    assert evaluation(experiments=[]).baseline is None


def test_gpus_are_taken_in_process_only():
    found = evaluation(servers={"one": SERVER})
    assert [found.gpus(name) for name in found.models] == [0, 1]
    assert found.server("one") == SERVER
    assert found.server("two") is None
    started = evaluation(servers={"one": {"start": "vllm", "gpus": 4}, "two": {"start": "sglang"}})
    assert [started.gpus(name) for name in ("one", "two")] == [4, 1]
    assert evaluation(generate={"device": "cpu"}).gpus("two") == 0
    assert {found.shards(name) for name in NAMES} == {1}
    assert evaluation(generate={"shards": {"needle": 3}}).shards("needle") == 3


def test_identity_follows_files_and_options_but_not_the_place(tmp_path):
    link = tmp_path / "elsewhere"
    link.symlink_to(TINY_PAIR / "long")
    models = {"here": "base", "there": str(link), "window": {"path": str(link), "window": 512}}
    found = evaluation(models=models)
    here, there, window = (json.loads(found.identity(name)) for name in models)
    assert here == there
    assert (window[:2], window[2][0], here[2][0]) == (here[:2], 512, None)
    assert found.given["there"]["path"] == str(link)


@pytest.mark.parametrize(
    ("evaluate", "judged", "scored"),
    [
        ({"benchmarks": [*NAMES]}, [name for name in NAMES if name != "recall"], [*NAMES]),
        ({"judge": {"benchmarks": []}}, [], ["longbench", "needle", "recall"]),
        ({"longbench": {"data_sets": ["trec", "lcc"]}, "benchmarks": ["longbench", "mt_bench"]}, ["mt_bench"],
         ["longbench", "mt_bench"]),
        ({"longbench": {"data_sets": ["trec", "vcsum"]}, "benchmarks": ["longbench"]}, ["longbench"], ["longbench"]),
        ({"longbench": {"extended": "only"}, "benchmarks": ["longbench"]}, [], ["longbench"]),
        ({"longbench": {"extended": True}, "benchmarks": ["longbench"]}, ["longbench"], ["longbench"]),
        ({"benchmarks": ["mt_bench"], "judge": {"benchmarks": ["needle"]}}, [], []),
    ],
)  # fmt: skip
def test_judged_and_scored_benchmarks(evaluate, judged, scored):
    found = evaluation(**evaluate)
    assert (found.judged, found.scored) == (judged, scored)


def test_options_that_decide_scores_or_assets_are_known():
    found = evaluation()
    assert "protocol" not in found.question_options("longbench")
    assert "keys" not in found.question_options("needle")
    assert found.question_options("longbench_chat") == {
        "protocol": "gateau", "language": "all", "max_new_tokens": 1024,
    }  # fmt: skip
    needles = [{"needle": "A b.", "question": "A?", "keys": ["b"]}]
    asked = evaluation(needle={"needles": needles}).question_options("needle")
    assert asked["needles"] == [{"needle": "A b.", "question": "A?"}]
    assert found.asset_options("longbench_chat") == {"protocol": "gateau"}
    assert found.asset_options("needle") == {}


@pytest.mark.parametrize(
    ("evaluate", "error", "message"),
    [
        ({"benchmarks": ["algebra"]}, SettingsError, "evaluate.benchmarks: algebra does not exist; choose from longb"),
        ({"judge": {"benchmarks": ["algebra"]}}, SettingsError, "evaluate.judge.benchmarks: algebra does not exist"),
        ({"generate": {"shards": {"algebra": 1}}}, SettingsError, "evaluate.generate.shards: algebra does not exist"),
        ({"experiments": ["three"]}, SettingsError, "three is not one of train.experiments; choose from one, two"),
        ({"experiments": "none"}, SettingsError, "evaluate.benchmarks: no model is evaluated; set evaluate.models"),
        ({"judge": {"budget_tokens": None}}, SettingsError, "the judge gpt-4 may cost money, so a budget is needed"),
        ({"judge": {**JUDGE, "model": "gpt-4"}}, SettingsError, "evaluate.judge.model: gpt-4 is neither a folder nor"),
        ({"judge": {**JUDGE, "model": "/no/judge"}}, ModelError, "no such model directory"),
        ({"judge": {**JUDGE, "start": "serve"}}, SettingsError, "evaluate.judge.start is 'serve'; write vllm"),
        ({"judge": {**JUDGE, "stand_in": True}}, SettingsError, "stand_in and start exclude each other"),
        ({"judge": {**JUDGE, "base_url": "http://j/v1"}}, SettingsError, "started has no base_url of its own"),
        ({"models": {"one": "base"}}, SettingsError, "one is also the name of an experiment"),
        ({"baseline": "three"}, SettingsError, "evaluate.baseline: three is not evaluated; choose from one, two"),
        ({"servers": {"three": SERVER}}, SettingsError, "evaluate.servers: three is not evaluated"),
        ({"servers": {"one": {"model": "m"}}}, SettingsError, "set base_url and model of a running server, or start"),
        (
            {"servers": {"one": {**SERVER, "start": "vllm"}}},
            SettingsError,
            "evaluate.servers.one: a server that is starte",
        ),
        ({"servers": {"one": {"start": "serve"}}}, SettingsError, "a command that contains {model} and {port}"),
        (
            {"models": {"m": {"path": "p", "window": 9}}, "servers": {"m": {"start": "vllm"}}},
            SettingsError,
            "evaluate.servers.m: a server does not know window of the model",
        ),
        ({"needle": {"keys": ["a picnic"]}}, SettingsError, "'a picnic' is not in the needle"),
        ({"needle": {"keys": ["San Francisco"]}}, SettingsError, "the question contains every key"),
        ({"needle": {"lengths": [100]}}, SettingsError, "less than the shortest length"),
        ({"models": {"base": "/no/such/model"}}, ModelError, "no such model directory"),
    ],
)
def test_what_cannot_run_is_refused(evaluate, error, message):
    with pytest.raises(error, match=re.escape(message)):
        evaluation(**evaluate).check()


@pytest.mark.parametrize(
    "evaluate",
    [{}, {"judge": {"budget_tokens": "unlimited"}}, {"judge": {"budget_tokens": None, "stand_in": True}},
     {"judge": JUDGE}, {"judge": {**JUDGE, "model": "owner/judge"}}],
)  # fmt: skip
def test_what_can_run_is_accepted(evaluate):
    evaluation(**evaluate).check()


def test_a_job_that_only_calls_a_server_needs_little_memory():
    found = evaluation(models={"there": "base", "here": "base"}, servers={"there": SERVER, "here": {"start": "vllm"}})
    assert [found.memory_mb(name) for name in ("there", "here", "one")] == [8000, 64000, 64000]


def test_a_judge_that_is_started_takes_gpus_and_is_named_after_its_folder():
    assert evaluation(judge=JUDGE).judge_gpus == 4
    assert evaluation(judge=JUDGE).judge_name == "long"
    assert evaluation(judge={**JUDGE, "model": "owner/judge"}).judge_name == "owner/judge"
    assert evaluation().judge_gpus == 0
    assert evaluation().judge_name == "gpt-4"


def test_ratings_follow_the_files_of_a_judge_that_is_started(tmp_path):
    for name in ("moved", "edited"):
        shutil.copytree(TINY_PAIR / "long", tmp_path / name)
    (tmp_path / "edited/chat_template.jinja").write_text("{{ messages }}")
    moved, edited = (
        evaluation(judge={**JUDGE, "model": str(tmp_path / name)}).judge_served for name in ("moved", "edited")
    )
    assert moved == evaluation(judge=JUDGE).judge_served != edited
    assert evaluation().judge_served == "elsewhere"


def test_planned_turns_of_the_needle_follow_from_its_options():
    options = evaluation(needle={"lengths": [300, 500], "depths": [10, 90], "reserve": 60}).options("needle")
    turns = benchmarks.load("needle").planned_turns(options)
    assert [(one.least_prompt, one.most_prompt, one.most_new) for one in turns] == [
        (240, 300, 128), (240, 300, 128), (440, 500, 128), (440, 500, 128),
    ]  # fmt: skip


def test_records_are_found_by_their_files_and_know_their_own_name():
    assert benchmarks.names() == NAMES
    assert [benchmarks.load(name).name for name in NAMES] == list(NAMES)
    assert all(name in benchmarks.load(name).titles for name in NAMES)
    assert benchmarks.of_measure("longbench_e").name == "longbench"
    with pytest.raises(SettingsError, match="benchmark 'algebra' does not exist"):
        benchmarks.load("algebra")


def test_records_import_nothing_heavy():
    code = "from gateau.evaluation import benchmarks, configured; benchmarks.ratings(); import sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    heavy = {"numpy", "pandas", "torch", "transformers", "openai", "httpx", "matplotlib", "yaml", "jieba"}
    assert heavy.isdisjoint(result.stdout.split())


@pytest.mark.parametrize("script", ["assets", "generate", "predictions", "judge", "leaderboard"])
def test_a_rule_of_all_benchmarks_follows_the_benchmark_that_it_runs(script):
    """Editing one benchmark does not rerun another."""
    folder = PACKAGE / "evaluation/benchmarks"
    own = {path for path in digests.imported_sources(SCRIPTS / f"{script}.py") if folder in path.parents}
    assert own <= {folder / "__init__.py", folder / "base.py"}
    assert digests.code_digest(f"{script}.py", benchmarks.module_of("needle")) not in (
        digests.code_digest(f"{script}.py"),
        digests.code_digest(f"{script}.py", benchmarks.module_of("mt_bench")),
    )


def test_no_other_file_knows_a_benchmark_by_name():
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "workflow/rules").glob("*.smk")]
    files += [SCRIPTS / f"{name}.py" for name in ("assets", "generate", "predictions", "judge", "leaderboard")]
    named = re.compile(rf"""["']({"|".join(NAMES)})["']""")
    knowing = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if PACKAGE / "evaluation/benchmarks" not in path.parents and named.search(path.read_text())
    }
    assert knowing == {"workflow/rules/evaluate.smk"}


def test_the_estimate_counts_the_room_for_reasoning(tmp_path):
    marks = {"start": "<think>", "end": "</think>", "max_tokens": 100}
    plain, reasoned = (
        turns_of(evaluation(assets={"source": "own"}, generate={"reasoning": one}), "mt_bench", tmp_path, None)
        for one in ("none", marks)
    )
    assert plain
    assert [(prompt, new + 100) for prompt, new in plain] == reasoned
