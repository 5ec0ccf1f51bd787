"""What surrounds a run goes wrong: rights, space, models, other runs, clocks.

Each time an error names the file and what to do, nothing is damaged, and once mended the same command ends with the
results of an undisturbed run.
"""

import ctypes
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from helpers import (
    ROOT,
    TINY_PAIR,
    parquet_content,
    planned_rules,
    row,
    run_script,
    small_config,
    snakemake,
    snakemake_command,
    write_jsonl,
)

pytestmark = [pytest.mark.workflow, pytest.mark.cluster]

SAMPLES = "results/samples/samples.parquet"
INDEX = "results/index/index.parquet"
SHARD = "results/short_pass/0000-of-0001.parquet"
PROMPT = yaml.safe_load((ROOT / "config/config.yaml").read_text())["scoring"]["prompt"]
AGAIN = "then run the same command again; what is finished is kept"

# what a pass does before it loads a model
OPEN_STORE = """
import json, sys
from gateau.command import run
from gateau.schemas import SHORT_RESULT
from gateau.scoring.store import ProgressStore
run(lambda: ProgressStore(sys.argv[1], "short_pass", json.load(open(sys.argv[2])), SHORT_RESULT))
"""


def raw_rows(path):
    """Two dozen rows of some hundred tokens."""
    user = "Note otter balor kemin. {}\n\nWhat does note otter say?"
    return write_jsonl(path, [row(user.format("falcon " * (9 + n)), f"Balor {n}.", id=f"r{n}") for n in range(24)])


def config_of(directory):
    """Raw rows to the short pass."""
    return small_config(directory, data={"long": "raw.jsonl", "planted": None, "short": "raw.jsonl"})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A directory in which the short pass has run; tests only read it."""
    directory = tmp_path_factory.mktemp("undisturbed")
    raw_rows(directory / "raw.jsonl")
    result = snakemake(directory, config_of(directory), SHARD)
    assert result.returncode == 0, result.stdout
    return directory


def pass_arguments(undisturbed, folder, model=TINY_PAIR / "short"):
    """Arguments of the short pass, with results and progress under ``folder``."""
    return (
        "--samples", undisturbed / SAMPLES,
        "--index", undisturbed / INDEX, "--shard", 0,
        "--model", json.dumps({"path": str(model)}), "--max-length", 1024, "--device", "cpu",
        "--short-context", "ntk", "--progress-dir", folder / "progress", "--progress-seconds", 0,
        "--output", folder / "results/shard.parquet",
    )  # fmt: skip


def samples_arguments(undisturbed, folder):
    """Arguments of the samples script, with results under ``folder``."""
    results = folder / "results/samples"
    return (
        "--input", undisturbed / "raw.jsonl", "--samples", results / "samples.parquet",
        "--rejects", results / "rejects.jsonl", "--summary", results / "summary.json",
        "--duplicate-content", "reject", "--max-rejected-share", 0.5,
    )  # fmt: skip


def assert_as_undisturbed(undisturbed, folder):
    """The shard, to the last bit, and nothing half written."""
    assert parquet_content(folder / "results/shard.parquet") == parquet_content(undisturbed / SHARD)
    assert not list(folder.rglob("*.tmp"))
    assert not list(folder.rglob("*.damaged"))


def assert_samples_as_undisturbed(undisturbed, folder):
    """The same samples; the raw file's path stands beside them."""
    columns = ["id", "context", "instruction", "response", "digest"]
    assert parquet_content(folder / SAMPLES, columns) == parquet_content(undisturbed / SAMPLES, columns)


def told(result, *parts):
    """Whether a script ended with one plain message that has these parts."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    (message,) = [line for line in result.stderr.splitlines() if " ERROR " in line]
    for part in parts:
        assert str(part) in message
    return True


@pytest.fixture
def bound():
    """What makes a child heed permissions, as root does not."""
    if os.geteuid():
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    bounding_set_read, bounding_set_drop, override, search = 23, 24, 1, 2
    if any(prctl(bounding_set_read, capability, 0, 0, 0) < 0 for capability in (override, search)):
        pytest.skip("this kernel does not tell root's capabilities, so permissions cannot be made to bind root")

    def drop():
        for capability in (override, search):
            if prctl(bounding_set_drop, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "cannot drop a capability")

    try:
        subprocess.run([sys.executable, "-c", ""], preexec_fn=drop, check=True)
    except subprocess.SubprocessError:
        pytest.skip("root may not give up its right to ignore permissions here (CAP_SETPCAP)")
    return drop


def test_a_read_only_results_folder(undisturbed, tmp_path, bound):
    results = tmp_path / "results/samples"
    results.mkdir(parents=True)
    results.chmod(0o555)
    arguments = samples_arguments(undisturbed, tmp_path)
    result = run_script("samples", *arguments, preexec_fn=bound)
    assert told(result, f"Permission denied: '{results}/", "give this user the right", AGAIN)
    assert not list(results.iterdir())
    results.chmod(0o755)
    assert run_script("samples", *arguments, preexec_fn=bound).returncode == 0
    assert_samples_as_undisturbed(undisturbed, tmp_path)


def test_a_read_only_results_folder_under_snakemake(tmp_path, bound):
    raw_rows(tmp_path / "raw.jsonl")
    (tmp_path / "results").mkdir(mode=0o555)
    command = snakemake_command(tmp_path, config_of(tmp_path), SAMPLES)
    run = functools.partial(subprocess.run, command, capture_output=True, text=True, cwd=ROOT, preexec_fn=bound)
    result = run()
    assert result.returncode != 0
    assert "check: error: results_dir: results cannot be written; choose another folder" in result.stderr
    assert "stopped before the first job" in result.stderr
    assert "Traceback" not in result.stderr
    (tmp_path / "results").chmod(0o755)
    result = run()
    assert result.returncode == 0, result.stderr


def test_a_progress_store_that_may_not_be_written_or_read(undisturbed, tmp_path, bound):
    shutil.copytree(undisturbed / "results/progress", tmp_path / "progress")
    (store,) = [path for path in (tmp_path / "progress/short_pass").iterdir() if path.is_dir()]
    (part,) = store.glob("part-*")
    kept = part.read_bytes()
    part.unlink()
    store.chmod(0o555)
    arguments = pass_arguments(undisturbed, tmp_path)
    result = run_script("short_pass", *arguments, preexec_fn=bound)
    assert told(result, "Permission denied", f"{store}/part-", "give this user the right", AGAIN)
    store.chmod(0o755)
    part.write_bytes(kept)
    part.chmod(0)
    command = [sys.executable, "-c", OPEN_STORE, str(tmp_path / "progress"), str(store / "settings.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=bound)
    assert told(result, "Permission denied", part, "give this user the right", AGAIN)
    assert [path.name for path in store.glob("part-*")] == [part.name]  # not taken for damaged
    part.chmod(0o644)
    result = run_script("short_pass", *arguments, preexec_fn=bound)
    assert "24 found" in result.stderr
    assert_as_undisturbed(undisturbed, tmp_path)


def small_disk(folder, command):
    """A command that runs ``command`` on a full disk, and then again with more space; results are copied aside."""
    script = """
        mount -t tmpfs -o size=16k none "$1" || exit 77
        folder="$1"; shift
        "$@"; [ $? = 1 ] || exit 3
        find "$folder" -name '*.tmp' | grep . && exit 4
        find "$folder" -name 'part-*' | grep . || exit 5
        mount -o remount,size=50m "$folder" && "$@" && cp -r "$folder"/. "$folder.kept"
    """
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--mount", "sh", "-c", script, "sh", folder, *command]


def test_a_full_disk(undisturbed, tmp_path):
    """A real one, of 16 KB: some samples are in the progress store before it is full, and are not computed again."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare (util-linux) here, so no small disk can be mounted")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, str(ROOT / "scripts/short_pass.py"), *map(str, pass_arguments(undisturbed, disk))]
    result = subprocess.run(small_disk(disk, command), capture_output=True, text=True, timeout=300)
    if result.returncode == 77 or result.stderr.startswith("unshare:"):
        pytest.skip(f"may not mount a small disk here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert f"No space left on device: '{disk}/" in result.stderr
    assert f": free some space there, {AGAIN}" in result.stderr
    assert "Traceback" not in result.stderr
    first, second = [line for line in result.stderr.splitlines() if " found in " in line]
    assert " 0 found" in first
    assert " 0 found" not in second
    assert_as_undisturbed(undisturbed, tmp_path / "disk.kept")


def test_a_limit_of_file_sizes(undisturbed, tmp_path):
    """Fails as a full disk does, wherever tests run."""
    arguments = samples_arguments(undisturbed, tmp_path)
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1000, 1000))
    result = run_script("samples", *arguments, preexec_fn=limit)
    assert told(result, "File too large", f"'{tmp_path}/results/samples/", "ulimit -f", AGAIN)
    assert not list((tmp_path / "results/samples").iterdir())
    assert run_script("samples", *arguments).returncode == 0
    assert_samples_as_undisturbed(undisturbed, tmp_path)


def test_a_model_that_cannot_be_fetched(undisturbed, tmp_path):
    """A name on the hub, without network. A path that is not there is told at planning: see test_dag.py."""
    arguments = pass_arguments(undisturbed, tmp_path, "nobody/nothing")
    result = run_script("short_pass", *arguments, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert told(result, "nobody/nothing: cannot load", "give a local directory", "cached or reachable")
    assert not list(tmp_path.iterdir())


def test_two_runs_in_one_directory(undisturbed, tmp_path):
    raw_rows(tmp_path / "raw.jsonl")
    config = config_of(tmp_path)
    with open(tmp_path / "first.log", "wb") as log:
        first = subprocess.Popen(snakemake_command(tmp_path, config, INDEX), stdout=log, stderr=log, cwd=ROOT)
        while not list(tmp_path.glob(SAMPLES)):
            assert first.poll() is None, (tmp_path / "first.log").read_text()
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGSTOP)  # or it would end before the second one begins
        second = snakemake(tmp_path, config, INDEX)
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait(timeout=300) == 0, (tmp_path / "first.log").read_text()
    assert second.returncode != 0
    assert "LockException" in second.stdout
    assert "If you are sure that no other instances of snakemake are running" in " ".join(second.stdout.split())
    assert "It can be removed with the --unlock argument" in second.stdout
    assert parquet_content(tmp_path / INDEX) == parquet_content(undisturbed / INDEX)
    assert planned_rules(tmp_path, config, INDEX) == set()


def test_two_runs_that_share_a_progress_store(undisturbed, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    (tmp_path / "progress").mkdir()
    running = []
    for folder in folders:
        (folder / "results").mkdir(parents=True)
        (folder / "progress").symlink_to(tmp_path / "progress")
        arguments = map(str, pass_arguments(undisturbed, folder))
        command = [sys.executable, str(ROOT / "scripts/short_pass.py"), *arguments]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, log = process.communicate(timeout=300)
        assert process.returncode == 0, log
    for folder in folders:
        assert_as_undisturbed(undisturbed, folder)


def test_clocks_that_disagree(undisturbed, tmp_path):
    """Results, progress and data from a machine whose clock is ahead, or from before this one was put back."""
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    config, samples = config_of(directory), directory / SAMPLES
    set_time(directory / "results", time.time() + 3600)
    set_time(samples, time.time() + 7200)
    assert planned_rules(directory, config, SHARD) == set()  # contents are the same
    (directory / "progress").symlink_to(directory / "results/progress")
    result = run_script("short_pass", *pass_arguments(directory, directory))
    assert "24 found" in result.stderr
    assert parquet_content(directory / "results/shard.parquet") == parquet_content(undisturbed / SHARD)

    samples.unlink()
    set_time(directory / "raw.jsonl", time.time() + 3600)
    result = snakemake(directory, config, SAMPLES)
    assert result.returncode != 0
    assert f"Output {SAMPLES} has older modification time" in result.stdout
    assert "than input raw.jsonl" in result.stdout
    assert "clock skew" in result.stdout
    set_time(directory / "raw.jsonl", time.time())  # as docs/reruns.md says
    result = snakemake(directory, config, SAMPLES)
    assert result.returncode == 0, result.stdout
    assert_samples_as_undisturbed(undisturbed, directory)


def set_time(place, seconds):
    """Give a file, or all in a folder, this time."""
    for path in [place, *place.rglob("*")]:
        os.utime(path, (seconds, seconds))
