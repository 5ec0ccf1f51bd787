"""The files of config/presets as a newcomer uses them: copied, with data and models of their own, planned and run."""

import json

import pytest
import yaml

from gateau.schemas import RANKING
from gateau.tables import read_rows

from helpers import ROOT, TINY_PAIR, merged, parquet_content, planned_rules, run_script, small_config, snakemake

pytestmark = pytest.mark.workflow
PRESETS = sorted(path.stem for path in (ROOT / "config/presets").glob("*.yaml"))
SELECTS = {
    "samples", "index", "short_pass", "long_pass", "segment_pass", "scores", "selection", "plot_selection", "overview",
    "scored", "dataset",
}  # fmt: skip
TRAINS = {"chats", "tokens", "mixture", "plan", "train", "export", "plot_train"}
EVALUATES = {"assets", "generate", "predictions", "score_longbench", "score_needle", "leaderboard", "answers"}
RULES = {
    "select": SELECTS,
    "one_model": SELECTS,
    "one_gpu": SELECTS | TRAINS | EVALUATES,
    "cluster": SELECTS | TRAINS | EVALUATES,
    "evaluate": EVALUATES,
    "paper": SELECTS | TRAINS | EVALUATES | {"judge", "score_longbench_chat", "score_mt_bench"},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A working directory with the data files that the presets name."""
    directory = tmp_path_factory.mktemp("presets")
    (directory / "data").mkdir()
    planted = {
        "rows": {"far": 4, "near": 4, "wrong": 2},
        "duplicates": 0,
        "seed": 0,
        "chats": 5,
        "min_lines": 20,
        "max_lines": 40,
    }
    result = run_script(
        "planted_rows", "--planted", json.dumps(planted), "--output", directory / "data/long.jsonl",
        "--chats", directory / "data/chats.jsonl",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (directory / "data/sharegpt.jsonl").write_bytes((directory / "data/chats.jsonl").read_bytes())
    return directory


def preset(name):
    """Return the preset. Its own model folder, which a user has to replace, is replaced by a hub name."""
    return yaml.safe_load((ROOT / f"config/presets/{name}.yaml").read_text().replace("/models/my-long", "me/my-long"))


def test_every_preset_is_expected_here():
    assert set(PRESETS) == set(RULES)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_plans_what_it_promises_and_nothing_else(directory, name):
    assert planned_rules(directory, preset(name)) == RULES[name]


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "paper"])
def test_presets_ask_no_judge(name):
    assert "judge" not in preset(name).get("evaluate", {})


def small(name, models):
    """Return the preset for the tiny pair, whose windows are 256 and 1024."""
    scoring = {"shards": 1, "max_length": 1024, "device": "cpu", "short_window": 256}
    experiments = {"gateau_robust": {"n_long": 5}, "gateau": {"n_long": 5}}
    change = {"models": models, "scoring": scoring, "cam": {"segment_length": 32}, "experiments": experiments}
    return merged(preset(name), change)


def test_select_and_one_model_really_select(directory):
    pair = {"short": str(TINY_PAIR / "short"), "long": str(TINY_PAIR / "long")}
    lines = (directory / "data/long.jsonl").read_text().splitlines()
    kinds = {row["id"]: row["dataset"] for row in map(json.loads, lines)}
    perplexities = {}
    for name, models in (("select", pair), ("one_model", {"long": pair["long"]})):
        config = merged(small(name, models), {"results_dir": name})
        result = snakemake(directory, config)
        assert result.returncode == 0, result.stdout
        for experiment in ("gateau_robust", "gateau"):
            selected = directory / name / "selection" / experiment / "gateau_long.jsonl"
            assert len(selected.read_text().splitlines()) == 5
        rows = read_rows(directory / name / "selection/gateau_robust/ranking.parquet", RANKING)
        assert len(rows) == 10
        assert {kinds[row["id"]] for row in rows if row["rank"] <= 3} == {"planted/far"}
        perplexities[name] = {row["id"]: row["hmp"] for row in rows}
        assert not (directory / name / "train").exists()
    assert perplexities["select"] != perplexities["one_model"]


def test_the_defaults_with_data_and_two_models_rank_and_do_nothing_else(directory):
    config = {"data": {"long": "data/long.jsonl"}, "models": {"short": "hub/short", "long": "hub/long"}}
    assert planned_rules(directory, config) == SELECTS


def test_one_model_s_short_view_is_the_model_itself_cut(directory):
    """The short pass of one model equals that of the method one_model, which cuts to the short sibling's window."""
    pair = {"short": str(TINY_PAIR / "short"), "long": str(TINY_PAIR / "long")}
    config = small_config(
        directory, data={"long": "data/long.jsonl", "short": "none", "planted": None}, train={"experiments": "none"}
    )
    config |= {"models": pair, "experiments": {"one": {"method": "one_model"}}, "results_dir": "contrast"}
    assert snakemake(directory, config, "contrast/contrast/one_model.parquet").returncode == 0
    contrast = parquet_content(directory / "contrast/contrast/one_model.parquet", ["id", "nll"])
    short = parquet_content(directory / "one_model/short_pass/0000-of-0001.parquet", ["id", "token_nll"])
    means = {key: sum(values) / len(values) for key, values in zip(short["id"], short["token_nll"], strict=True)}
    assert means == pytest.approx(dict(zip(contrast["id"], contrast["nll"], strict=True)), abs=1e-6)
