"""A data set of the hub as input of the workflow: fetched, read as a local file is, and kept."""

import json
import os
import subprocess

import pytest

from helpers import (
    TINY_PAIR,
    parquet_content,
    planned_rules,
    row,
    run_script,
    snakemake,
    snakemake_command,
    write_jsonl,
)
from unit.file_servers import HubServer

pytestmark = pytest.mark.workflow

NAME, COMMIT, LATER = "owner/rows", "0123456789abcdef" * 2 + "01234567", "89abcdef" + "0123456789abcdef" * 2
NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
SAMPLES, MANIFESTS = "results/samples/samples.parquet", ("hub_data", "samples")


@pytest.fixture
def hub():
    server = HubServer()
    yield server
    server.close()


def configured(long):
    return {
        "results_dir": "results",
        "data": {"long": long},
        "models": {"short": str(TINY_PAIR / "short"), "long": str(TINY_PAIR / "long")},
        "scoring": {"max_length": 1024, "device": "cpu"},
    }


def run(directory, config, *arguments, environment):
    """Run the workflow in processes that import the hub's client anew, because it reads its settings at import."""
    return subprocess.run(
        snakemake_command(directory, config, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=600, env={**os.environ, **environment},
    )  # fmt: skip


def test_a_data_set_of_the_hub_is_read_as_its_files_are(tmp_path, hub, monkeypatch):
    rows = [row(f"Note {number} is here.\n\nWhat is here?", f"Note {number}.") for number in range(12)]
    local = write_jsonl(tmp_path / "rows.jsonl", rows)
    hub.commits[NAME] = {COMMIT: {"train.jsonl": local.read_bytes(), "test.jsonl": b"{}\n"}, LATER: {"x.jsonl": b"{}"}}
    hub.branches[NAME, "main"] = COMMIT
    place = tmp_path / "run"
    place.mkdir()
    entry = {"hub": NAME, "split": "train"}
    config = configured(entry)

    for name, value in NOWHERE.items():  # a plan asks no server
        monkeypatch.setenv(name, value)
    assert planned_rules(place, config, SAMPLES) == {"hub_data", "samples"}
    estimate = run_script("estimate", "--configfile", place / "test_config.yaml", cwd=place)
    assert estimate.returncode == 0, estimate.stderr
    assert "is not fetched yet; a run does so, or fetch it alone: snakemake results/hub_data/owner--" in estimate.stdout

    wanted = [SAMPLES, *(f"results/{folder}/manifest.json" for folder in MANIFESTS)]
    result = run(place, config, *wanted, environment=hub.environment(tmp_path / "cache"))
    assert result.returncode == 0, result.stdout
    assert "is not fetched yet" in result.stdout  # a warning before the first job
    log = "".join(path.read_text() for path in (place / "results/logs/hub_data").iterdir())
    assert f"the default branch is commit {COMMIT}" in log
    fetched = json.loads((place / "results/hub_data/manifest.json").read_text())["files"]
    assert sorted(name.rsplit(".", 1)[-1] for name in fetched) == ["json", "json", "jsonl"]
    read = json.loads((place / "results/samples/manifest.json").read_text())["data"]
    assert [name.endswith(".hub.json") for name in read] == [True]

    plain = tmp_path / "plain"
    arguments = {"--samples": plain / "s.parquet", "--rejects": plain / "r.jsonl", "--summary": plain / "s.json"}
    result = run_script("samples", "--input", local, *[word for pair in arguments.items() for word in pair])
    assert result.returncode == 0, result.stderr
    from_hub, from_file = parquet_content(place / SAMPLES), parquet_content(plain / "s.parquet")
    assert from_hub.pop("file") == [f"{NAME}/train.jsonl"] * 12
    assert from_file.pop("file") == [str(local)] * 12
    assert from_hub == from_file

    hub.branches[NAME, "main"] = LATER
    assert planned_rules(place, config, SAMPLES) == set()
    assert planned_rules(place, configured({**entry, "revision": COMMIT}), SAMPLES) == set()
    assert planned_rules(place, configured({**entry, "revision": LATER}), SAMPLES) == {"hub_data", "samples"}
    assert not [path for path in hub.listed if LATER in path]


def test_a_module_puts_its_prefix_before_the_list_of_files(tmp_path, monkeypatch):
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    config = configured([{"hub": NAME, "revision": COMMIT}, {"hub": "owner/other", "revision": COMMIT}])
    (tmp_path / "workflow").mkdir()
    snakefile = snakemake_command(tmp_path, {}, "--dry-run")[4]
    (tmp_path / "workflow/Snakefile").write_text(
        f"module gateau:\n    snakefile:\n        {snakefile!r}\n    config:\n        config\n    prefix:\n"
        '        "study"\n\nuse rule * from gateau as gateau_*\n'
    )
    fetched = tmp_path / "study/results/hub_data/owner--rows@main.hub.json"  # under the name of a branch
    fetched.parent.mkdir(parents=True)
    fetched.write_text(json.dumps({"hub": NAME, "commit": COMMIT, "files": []}))
    result = snakemake(tmp_path, config, "study/results/samples/manifest.json", "--dry-run")
    assert result.returncode == 0, result.stdout
    listings = [f"study/results/hub_data/owner--{name}.hub.json" for name in ("rows@main", f"other@{COMMIT}")]
    assert f"input: {', '.join(listings)}\n" in result.stdout
    assert listings[1].replace(".hub.json", ", ") + listings[1] in result.stdout


@pytest.mark.parametrize("target", ["all", "selected"])
def test_every_target_can_be_planned_with_hub_data_for_both_kinds_of_rows(tmp_path, target):
    config = configured([{"hub": NAME, "revision": COMMIT}]) | {"train": {"experiments": "all", "device": "cpu"}}
    config["data"]["short"] = {"hub": "owner/chats", "revision": COMMIT}
    rules = planned_rules(tmp_path, config, target)
    assert {"hub_data", "samples"} <= rules
    assert ("chats" in rules) == (target == "all")
