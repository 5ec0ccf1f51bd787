"""What a configuration means."""

import json
import re

import pytest
import yaml

from gateau.config_files import completed, read_configuration, with_defaults
from gateau.errors import SettingsError
from gateau.experiments import TRAIN_OPTIONS, Configuration
from gateau.methods import METHODS, UNRANKED
from gateau.selection.method_scores import SCORES

from helpers import ROOT, TINY_PAIR, merged, small_config


@pytest.fixture
def configured(tmp_path):
    """Return a function: the small test configuration with changes, defaults laid under."""
    return lambda *changes: Configuration(with_defaults(merged(small_config(tmp_path), *changes)))


def test_defaults_are_laid_under_key_by_key():
    defaults = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = with_defaults({"scoring": {"shards": 3}})
    assert config["scoring"] == {**defaults["scoring"], "shards": 3}
    assert {name: value for name, value in config.items() if name != "scoring"} == {
        name: value for name, value in defaults.items() if name != "scoring"
    }


def test_a_user_s_experiments_take_the_place_of_the_default_ones():
    own = {"mine": {"alpha": 0.5}}
    assert with_defaults({"experiments": own})["experiments"] == own
    assert with_defaults({"experiments": {}})["experiments"] == {}
    assert list(with_defaults({})["experiments"]) == ["gateau_robust", "gateau"]
    assert with_defaults({"evaluate": {"experiments": []}})["evaluate"]["experiments"] == []


def test_later_files_win_and_the_schema_is_checked(tmp_path):
    (tmp_path / "a.yaml").write_text("scoring: {shards: 2, threads: 3}\nexperiments: {a: {}}\n")
    (tmp_path / "b.yaml").write_text("scoring: {shards: 5}\nexperiments: {b: {}}\n")
    config = read_configuration([str(tmp_path / name) for name in ("a.yaml", "b.yaml")])
    assert (config["scoring"]["shards"], config["scoring"]["threads"]) == (5, 3)
    assert list(config["experiments"]) == ["a", "b"]
    (tmp_path / "b.yaml").write_text("scorring: {}\n")
    with pytest.raises(SettingsError, match="scorring: this key does not exist; did you mean scoring"):
        read_configuration([str(tmp_path / "b.yaml")])
    with pytest.raises(SettingsError, match=r"c\.yaml: cannot be read \(No such file"):
        read_configuration([str(tmp_path / "c.yaml")])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"scoring": {"shard": 3}}, "scoring.shard: this key does not exist; did you mean scoring.shards?"),
        (
            {"experiments": {"best": {"selection": {"method": "cam", "alpha": 0.5}}}},
            "experiments.best.selection: this key does not exist; write its keys directly under experiments.best: m",
        ),
        ({"shards": 3}, "shards: this key does not exist; did you mean scoring.shards or evaluate.generate.shards?"),
        (
            {"models": {"long": {"pat": "x"}}},
            "models.long.pat: this key does not exist; did you mean models.long.path?",
        ),
        (
            {"train": {"lora": {"rank": 3}}},
            "train.lora.rank: this key does not exist; known keys of train.lora: r, alph",
        ),
        (
            {"scoring": {"short_context": "trunc"}},
            "trunc is not allowed; allowed: ntk, truncate, none (did you mean trun",
        ),
        ({"scoring": None}, "scoring: null is not allowed; allowed: a mapping of keys (default: {})"),
        ({"models": {"long": 3}}, "models.long: 3 is not allowed; allowed: text, a mapping of keys"),
        ({"train": {"deepspeed": None}}, "train.deepspeed: null is not allowed; allowed: text (default: none)"),
        ({"tokens": {"max_length": 3}}, "tokens.max_length: 3 is not allowed; allowed: a whole number at least 16"),
        (
            {"experiments": {"a": {"n_long": -1}}},
            "experiments.a.n_long: -1 is not allowed; allowed: a whole number at le",
        ),
        ({"experiments": {"a b": {}}}, "experiments: a b is not allowed as a name; use letters, digits"),
        (
            {"data": {"long": [], "short": 1}},
            "data.long: [] is not allowed; allowed: a list with at least 1 entry (and 1 ",
        ),
        (
            {"data": {"columns": {"respons": "a"}}},
            "data.columns.respons: this key does not exist; did you mean data.columns.response?",
        ),
        (
            {"train": {"learning_rate": "1e-5"}},
            "train.learning_rate: YAML reads 1e-5 as text, not as a number; write 0.00001 without quotes",
        ),
        (
            {"train": {"learning_rate": "2.5E5"}},
            "train.learning_rate: YAML reads 2.5E5 as text, not as a number; write 250000 without quotes",
        ),
        (
            {"train": {"lora": {"r": 8, "alpha": "16"}}},
            "alpha: YAML reads 16 as text, not as a number; write 16 without quo",
        ),
        (
            {"tokens": {"max_length": "64000"}},
            "YAML reads 64000 as text, not as a number; write 64000 without quotes",
        ),
        ({"tokens": {"max_length": "1e5"}}, "tokens.max_length: YAML reads 1e5 as text, not as a number; write 100000"),
        ({"experiments": {"a": {"n_long": "1e4"}}}, "a.n_long: YAML reads 1e4 as text, not as a number; write 10000"),
        (
            {"experiments": {"a": {"alpha": "high"}}},
            "alpha: high is not allowed; allowed: a number at least 0 and at mo",
        ),
        (
            {"evaluate": {"generate": {"attention": "flash"}}},
            "evaluate.generate.attention: flash is not allowed; allowed: auto, flash_attention_2",
        ),
        (
            {"evaluate": {"models": {1: "/models/x"}}},
            "evaluate.models: names must be text, and YAML reads 1 as another type; put numbers, and words such as no "
            "and on, in quotes",
        ),
        (
            {"evaluate": {"servers": {False: {"start": "vllm"}}}},
            "evaluate.servers: names must be text, and YAML reads f",
        ),
        (
            {"evaluate": {"generate": {"shards": {True: 2}}}},
            "evaluate.generate.shards: names must be text, and YAML re",
        ),
        ({"experiments": {0.8: {}}}, "experiments: names must be text, and YAML reads 0.8 as another type"),
        ({"train": {2: 3}}, "train.2: this key does not exist; known keys of train: experiments"),
        ({"train": {False: 3, "x": 4}}, "train.False: this key does not exist; known keys of train: experiments"),
        ({"train": {"learning_rate": "nan"}}, "train.learning_rate: nan is not allowed; allowed: a number above 0"),
        (
            {"data": {"split": "last_blank"}},
            "data.split: last_blank is not allowed; allowed: last_blank_line, first_blan",
        ),
    ],
)
def test_what_does_not_follow_the_schema_is_told_in_one_line(config, message):
    with pytest.raises(SettingsError, match=re.escape(message)) as raised:
        completed(config)
    assert "\n" not in str(raised.value)


def test_a_tilde_is_the_home_directory_in_all_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    hub = {"hub": "owner/name", "files": "~/a"}
    given = {
        "results_dir": "~/results/",
        "progress_dir": "~/progress",
        "data": {"long": ["~/rows/*.parquet", hub, "rows~.jsonl"], "short": "~/chats.jsonl", "hub_mirror": "~/hub"},
        "train": {"checkpoint_dir": "~/checkpoints", "deepspeed": "~/zero.json"},
        "evaluate": {
            "assets": {"root": "~/assets", "cache": "~/cache"},
            "harness": {"cache": "~/cache", "include_path": ["~/tasks"]},
        },
    }
    (tmp_path / "my.yaml").write_text(json.dumps(given))
    read = read_configuration([str(tmp_path / "my.yaml")])
    for config in (completed(given), read):
        first, data_set, second = config["data"]["long"]
        assert (first, data_set["files"], second) == ("/home/me/rows/*.parquet", "~/a", "rows~.jsonl")
        found = json.dumps([config["results_dir"], config["progress_dir"], config["data"], config["train"]])
        assert found.count("/home/me/") == 7
        assert config["results_dir"] == "/home/me/results/"
        assert config["evaluate"]["assets"] == {
            "source": "pinned",
            "root": "/home/me/assets",
            "cache": "/home/me/cache",
        }
        harness = config["evaluate"]["harness"]
        assert (harness["cache"], harness["include_path"]) == ("/home/me/cache", ["/home/me/tasks"])
    assert given["results_dir"] == "~/results/"
    assert completed({"data": {"long": hub}})["data"]["long"] == hub


def test_the_default_configuration_selects_and_does_nothing_else(tmp_path):
    one = Configuration(completed({}))
    assert one.unset == ["data.long", "models.long"]
    one = Configuration(completed({"data": {"long": "rows.jsonl"}, "models": {"short": "hub/a", "long": "hub/b"}}))
    one.check()
    assert (one.unset, one.ranked, one.trained, one.roles) == ([], ["gateau_robust", "gateau"], [], ["short", "long"])


@pytest.mark.parametrize(("value", "expected"), [("none", []), ("all", ["a", "b"]), (["b"], ["b"])])
def test_trained_experiments_are_none_or_all_or_named(configured, value, expected):
    change = {"experiments": {"a": {}, "b": {}}, "train": {"experiments": value}}
    config = merged(small_config(ROOT), change)
    config["experiments"].pop("gateau")
    assert Configuration(with_defaults(config)).trained == expected


def test_one_model_has_a_short_view_of_its_own(configured):
    models = {"models": {"short": None}, "scoring": {"short_context": "truncate", "short_window": 256}}
    one = configured(models)
    assert (one.model("short"), one.short_window) == (one.model("long"), 256)
    one.check()
    for change, message in (
        ({"scoring": {"short_context": "ntk"}}, "so its short view can only be cut"),
        ({"scoring": {"short_window": 1024}}, r"scoring.short_window \(1024\) must be below scoring.max_length"),
        (
            {"experiments": {"gateau": {"method": "one_model"}}},
            "method one_model is the same as gateau if models.short",
        ),
    ):
        with pytest.raises(SettingsError, match=message):
            configured(models, change).check()


def test_templates_that_cannot_be_used_are_refused(configured):
    with pytest.raises(SettingsError, match="have no effect with the format longalign"):
        configured({"tokens": {"chat_template": "chatml"}}).check()
    one = configured({"tokens": {"format": "tokenizer_template", "chat_template": "chatml"}})
    one.check()
    assert "im_start" in one.format_settings["chat_template"]
    with pytest.raises(SettingsError, match=r"'no\.jinja' is neither one of chatml"):
        configured({"tokens": {"format": "tokenizer_template", "chat_template": "no.jinja"}}).check()


def test_8_bit_adam_is_refused_with_deepspeed(configured):
    train = {"optimizer": "adamw_8bit", "deepspeed": "config/deepspeed/zero2.json"}
    with pytest.raises(SettingsError, match="cannot be used with DeepSpeed"):
        configured({"train": train}).check()


def test_an_experiment_has_the_shared_options_and_its_own(configured):
    found = configured({"selection": {"alpha": 0.3}, "experiments": {"own": {"alpha": 0.9, "n_short": 1}}}).experiments
    assert (found["gateau"].options["alpha"], found["gateau"].options["n_short"]) == (0.3, 8)
    assert (found["own"].options["alpha"], found["own"].options["n_short"]) == (0.9, 1)
    assert found["own"].selection_options()["alpha"] == 0.9
    assert "n_short" not in found["own"].selection_options()


@pytest.mark.parametrize(
    ("own", "is_ranked"),
    [({}, True), ({"n_long": 0}, False), ({"method": "full"}, False), ({"method": "random", "n_long": 3}, False)],
)
def test_no_pass_runs_for_experiments_without_scores(configured, own, is_ranked):
    assert configured({"experiments": {"gateau": own}}).ranked == ["gateau"] * is_ranked


def test_contrasts_are_those_that_ranked_experiments_need(configured):
    methods = {"a": {"method": "one_model"}, "b": {"method": "no_extended_window", "n_long": 0}}
    one = configured({"experiments": methods})
    assert list(one.contrasts) == ["one_model"]


def test_models_are_those_that_are_named(configured):
    assert configured().roles == ["short", "long", "base"]
    assert configured().model("base") == {"path": str(TINY_PAIR / "long")}
    reward = {"path": "hub/reward", "revision": None, "window": 8}
    assert configured({"models": {"reward": reward}}).model("reward") == {"path": "hub/reward", "window": 8}


def test_rows_come_from_one_file_or_several(configured):
    one = configured({"data": {"long": "a.jsonl", "short": "none"}, "mixture": {"n_short": 0}})
    assert (one.raw_files("long"), one.raw_files("short"), one.sources) == (["a.jsonl"], [], ["long"])
    assert configured({"train": {"experiments": "none"}}).sources == ["short"]  # a data set has the chats of a mixture
    assert configured({"train": {"experiments": "none"}, "mixture": {"n_short": 0}}).sources == []
    by_tokens = {"x": {"method": "random", "n_long": {"tokens": 9}, "n_short": 0}}
    drawing = {"train": {"experiments": "none"}, "mixture": {"n_short": 0}, "experiments": by_tokens}
    assert configured(drawing).sources == ["long"]
    assert configured({"data": {"long": ["a", "b"]}}).raw_files("long") == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"split": {"regex": "(?P<context>"}},
            "data.split.regex: not a regular expression of Python (missing ), unterm",
        ),
        (
            {"split": {"regex": "(?P<context>.*)"}},
            "data.split.regex: the group instruction is missing; write (?P<context>",
        ),
        ({"min_tokens": 5, "max_tokens": 4}, "data.min_tokens is above data.max_tokens"),
    ],
)
def test_options_of_the_data_that_cannot_work_are_refused(configured, data, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        configured({"data": data}).check()


def test_segments_consist_of_whole_blocks_of_attention(configured):
    with pytest.raises(SettingsError, match=r"must be a multiple of scoring[.]attention_block"):
        configured({"cam": {"segment_length": 40}}).check()
    configured({"cam": {"segment_length": 40}, "scoring": {"attention_block": 8}}).check()


def test_options_of_the_data_reach_the_rows_that_they_concern(configured):
    one = configured({"data": {"columns": {"context": "doc", "id": None}, "limit": 3, "min_tokens": 5}})
    assert one.intake_options("long") == {
        "columns": {"context": "doc"}, "split": "last_blank_line", "system": "context", "limit": 3, "seed": 0,
        "min_tokens": 5, "max_tokens": None,
    }  # fmt: skip
    assert one.intake_options("short") == {"columns": {}}
    assert one.counts_tokens
    unranked = {
        "experiments": {"gateau": {"method": "full"}},
        "models": {"long": None, "base": str(TINY_PAIR / "long")},
    }
    assert configured(unranked).unset == []
    assert configured({**unranked, "data": {"max_tokens": 9}}).unset == ["models.long"]


def test_every_method_has_a_function_and_known_options(configured):
    assert set(SCORES) == set(METHODS)
    assert not set(UNRANKED) & set(METHODS)
    options = configured().experiments["gateau"].options
    assert all(set(method.reads) <= set(options) for method in METHODS.values())
    assert all(method.contrast is None or method.contrast in configured().all_contrasts for method in METHODS.values())


def test_train_options_are_keys_of_the_configuration(configured):
    assert set(TRAIN_OPTIONS) <= set(configured().config["train"])


def test_a_whole_configuration_passes_its_checks(configured):
    configured().check()
