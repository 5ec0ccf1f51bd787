"""Progress of a run where output is no terminal: one line per finished job, and failures with their logs."""

import subprocess
import sys

import pytest

from helpers import ROOT

WORKFLOW = """
rule all:
    input:
        expand("{name}.txt", name=["a", "b"]),


rule copy:
    output:
        "{name}.txt",
    log:
        "{name}.log",
    shell:
        "echo why > {log}; COMMAND > {output}"
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the small workflow with a command; it returns the exit code and the lines."""

    def run_with(command, *arguments):
        (tmp_path / "Snakefile").write_text(WORKFLOW.replace("COMMAND", command))
        # the plugin is found in the folder of the scripts, which an installation puts on Python's path
        code = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); from snakemake.cli import main; main()"
        result = subprocess.run(
            [sys.executable, "-c", code, "--cores", "1", "--logger", "lines", "--show-failed-logs", *arguments],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return result.returncode, result.stdout.splitlines()

    return run_with


def test_each_finished_job_is_one_line(run):
    code, lines = run("true")
    assert code == 0
    jobs = sorted(line.split("  ", 1)[1] for line in lines if "/3  " in line)
    assert [job.split(",")[0] for job in jobs] in (
        ["1/3  copy a", "2/3  copy b", "3/3  all"], ["1/3  copy b", "2/3  copy a", "3/3  all"],
    )  # fmt: skip
    assert len(lines) < 8


def test_a_failed_job_is_told_with_its_log(run):
    code, lines = run("false")
    assert code == 1
    assert any(line.startswith("Error in rule copy") for line in lines)
    assert "why" in lines


def test_a_dry_run_lists_its_jobs(run):
    code, lines = run("true", "--dry-run")
    assert code == 0
    assert "rule copy:" in lines
