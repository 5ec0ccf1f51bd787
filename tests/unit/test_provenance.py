"""Manifests list every file and its origin, and verify finds every difference."""

import hashlib
import json

import pytest

from gateau import provenance
from gateau.errors import DataError

from helpers import ROOT, run_script


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results/scores"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.json").write_text("{}")
    (folder / "deep/b.bin").write_bytes(b"\0" * 10_000_000)
    (folder / ".c.tmp").write_text("unfinished")
    logs = tmp_path / "results/logs/scores"
    logs.mkdir(parents=True)
    (logs / "0.log").write_text(
        "2026-01-01 00:00:00 INFO running on host n1, GPUs 0\nother\n00 INFO answered by vllm 1.0\n"
    )
    (logs / "1.log").write_text("2026-01-01 00:00:00 INFO running on host n1, GPUs 0\n")
    raw = tmp_path / "raw.jsonl"
    raw.write_text("{}\n")
    result = run_script(
        "manifest", "--folder", folder, "--logs", logs, "--config", json.dumps({"plan": {"seed": 3}}), "--models",
        json.dumps({"long": {"weights": "w"}}), "--data", raw, "--output", folder / "manifest.json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return tmp_path / "results"


def test_a_manifest_says_what_there_is_and_where_it_comes_from(results):
    manifest = json.loads((results / "scores/manifest.json").read_text())
    assert manifest["files"] == {
        "a.json": {"n_bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
        "deep/b.bin": {"n_bytes": 10_000_000, "sha256": hashlib.sha256(b"\0" * 10_000_000).hexdigest()},
    }
    assert manifest["config"]["plan"]["seed"] == 3
    assert manifest["environments"] == ["host n1, GPUs 0"]
    assert manifest["servers"] == ["vllm 1.0"]
    assert manifest["models"] == {"long": {"weights": "w"}}
    assert [entry["n_bytes"] for entry in manifest["data"].values()] == [3]
    assert {"python", "torch", "transformers", "snakemake"} <= set(manifest["versions"])
    assert manifest["git"] is None or len(manifest["git"]["commit"]) == 40


def test_verify_is_silent_only_if_nothing_differs(results):
    clean = run_script("verify", results)
    assert (clean.returncode, clean.stdout) == (0, ""), clean.stderr
    assert run_script("verify", results / "scores").returncode == 0
    (results / "scores/a.json").write_text("[]")
    (results / "scores/deep/b.bin").unlink()
    (results / "scores/new").write_text("x")
    result = run_script("verify", results)
    assert result.returncode == 1
    findings = [line.removeprefix(f"{results}/scores/") for line in result.stdout.splitlines()]
    assert findings == [
        "a.json: same size, different content (SHA-256)",
        "deep/b.bin: missing",
        "new: not in the manifest",
    ]


def test_a_folder_without_manifests_is_an_error(tmp_path):
    result = run_script("verify", tmp_path)
    assert result.returncode == 1
    assert "no manifest.json" in result.stderr
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match=r"manifest\.json: not a manifest"):
        provenance.check_folder(tmp_path)


def test_all_manifests_make_one_table(results, tmp_path):
    result = run_script("provenance", "--manifests", results / "scores/manifest.json", "--output", tmp_path / "p.md")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "p.md").read_text()
    assert "| scores |" in text
    assert "10,000,002" in text
    assert "- vllm 1.0" in text
    assert "- host n1, GPUs 0" in text
    assert provenance.git_state(ROOT / "nowhere") is None
