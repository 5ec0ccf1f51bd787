"""What a configuration means."""

import pytest
import yaml

from gateau.errors import SettingsError
from gateau.experiments import TRAIN_OPTIONS, Configuration, read_configuration, with_defaults
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
    assert "gateau_1k_10k" in with_defaults({})["experiments"]
    assert with_defaults({"evaluate": {"experiments": []}})["evaluate"]["experiments"] == []


def test_later_files_win_and_the_schema_is_checked(tmp_path):
    (tmp_path / "a.yaml").write_text("scoring: {shards: 2, threads: 3}\nexperiments: {a: {}}\n")
    (tmp_path / "b.yaml").write_text("scoring: {shards: 5}\nexperiments: {b: {}}\n")
    config = read_configuration([str(tmp_path / name) for name in ("a.yaml", "b.yaml")])
    assert (config["scoring"]["shards"], config["scoring"]["threads"], list(config["experiments"])) == (5, 3, ["b"])
    (tmp_path / "b.yaml").write_text("scorring: {}\n")
    with pytest.raises(SettingsError, match="scorring"):
        read_configuration([str(tmp_path / "b.yaml")])


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
    assert not one.repeats_short_pass(one.contrasts["one_model"])
    cut = configured({"experiments": {"a": {"method": "no_extended_window"}}, "scoring": {"short_context": "truncate"}})
    assert cut.repeats_short_pass(cut.contrasts["no_extended_window"])


def test_models_are_those_that_are_named(configured):
    assert configured().roles == ["short", "long", "base"]
    assert configured().model("base") == {"path": str(TINY_PAIR / "long")}
    reward = {"path": "hub/reward", "revision": None, "window": 8}
    assert configured({"models": {"reward": reward}}).model("reward") == {"path": "hub/reward", "window": 8}


def test_rows_come_from_one_file_or_several(configured):
    one = configured({"data": {"long": "a.jsonl", "short": None}, "mixture": {"n_short": 0}})
    assert (one.raw_files("long"), one.raw_files("short"), one.sources) == (["a.jsonl"], [], ["long"])
    assert configured({"data": {"long": ["a", "b"]}}).raw_files("long") == ["a", "b"]


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
