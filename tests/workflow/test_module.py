"""The workflow as a module of another workflow: by path, by a git tag with the package installed from its wheel."""

import json
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
import yaml

import warm
from helpers import ROOT, whole_config

pytestmark = pytest.mark.workflow

IMPORTING = """
module gateau:
    snakefile:
        {snakefile!r}
    config:
        config["study"]
    prefix:
        "study"


use rule * from gateau as gateau_*


rule everything:
    default_target: True
    input:
        rules.gateau_all.input,
    output:
        "count.txt",
    shell:
        "wc -l < study/results/selection/gateau/gateau_long.jsonl > {{output}}"
"""
FINAL = (
    "selection/gateau/gateau_long.jsonl", "export/gateau/model.safetensors", "score_needle/gateau/scores.json",
    "leaderboard/leaderboard.html", "train/gateau/history.jsonl",
)  # fmt: skip


def partial_config(directory):
    """Return what differs from the defaults: a selection, a short training and one benchmark on the tiny pair."""
    config = whole_config(directory, evaluate={"benchmarks": ["needle"], "judge": {"benchmarks": []}})
    config["data"] = {**config["data"], "long": "results/planted_rows/long.jsonl"}
    return config


def run_importing(directory, snakefile, python, *arguments, environment=None):
    """Run a workflow in ``directory`` that imports the Snakefile with a prefix; return the finished process."""
    (directory / "workflow").mkdir(parents=True)
    (directory / "workflow/Snakefile").write_text(textwrap.dedent(IMPORTING).format(snakefile=str(snakefile)))
    (directory / "config.yaml").write_text(yaml.safe_dump({"study": partial_config(directory)}))
    command = [python, "-m", "snakemake", "--cores", "2", "--configfile", "config.yaml", *arguments]
    return subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=600,
        env=environment,
    )  # fmt: skip


def check_finished(directory, result):
    """Assert that all stages wrote their files below the prefix and that nothing was written beside it."""
    assert result.returncode == 0, result.stdout[-6000:]
    for name in FINAL:
        assert (directory / "study/results" / name).is_file(), name
    assert (directory / "count.txt").read_text().strip() == "10"
    assert json.loads((directory / "study/results/score_needle/gateau/scores.json").read_text())["measures"]
    assert {"progress", "checkpoints"} <= {path.name for path in (directory / "study/results").iterdir()}
    visible = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    assert visible == {"workflow", "config.yaml", "study", "count.txt"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the Python of an environment that has the dependencies and this project's wheel, and no checkout."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip"]
    wheel = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(wheel, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env/bin/python"
    (package,) = folder.glob("*.whl")
    install = [*pip, "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(package)]
    subprocess.run(install, check=True, capture_output=True)
    # the dependencies of the environment that runs the tests; of that folder, .pth files do not count
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / f"env/lib/{version}/site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(python)


def installed_root(python):
    """Return the folder of the installed project."""
    code = "from gateau.places import ROOT; print(ROOT)"
    return Path(
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout.strip()
    )


def test_another_workflow_imports_this_one_by_path(tmp_path):
    snakefile, environment = ROOT / "workflow/Snakefile", warm.environment()
    result = run_importing(tmp_path / "run", snakefile, sys.executable, environment=environment)
    check_finished(tmp_path / "run", result)
    again = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "config.yaml", "--dry-run"],
        cwd=tmp_path / "run", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.long
def test_another_workflow_imports_a_git_tag_with_the_installed_wheel(tmp_path, installed):
    repository = tmp_path / "repository"
    repository.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "workflow", "config", "envs"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_bytes((ROOT / name).read_bytes())
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "v"], ["tag", "v1"]):
        subprocess.run(["git", *arguments], cwd=repository, check=True)
    result = run_importing(tmp_path / "run", f"git+file://{repository}/workflow/Snakefile@v1", installed)
    check_finished(tmp_path / "run", result)
    assert str(ROOT / "scripts") not in result.stdout


def test_the_installed_wheel_runs_its_own_snakefile(tmp_path, installed):
    root = installed_root(installed)
    assert ROOT not in root.parents
    result = run_importing(tmp_path / "run", root / "workflow/Snakefile", installed, "--dry-run", "--quiet", "rules")
    assert result.returncode == 0, result.stdout
    assert "gateau_score_needle" in result.stdout
    lint = [installed, "-m", "snakemake", "--lint", "--snakefile", str(root / "workflow/Snakefile")]
    assert subprocess.run(lint, cwd=tmp_path, capture_output=True, check=False).returncode == 0
