"""Servers that a job starts: ready when asked, ended with all their processes, and clear about failures."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata

import psutil
import pytest

from gateau.errors import ServerError, SettingsError
from gateau.evaluation.client.calls import CHAT, AnswerCache, Call
from gateau.evaluation.client.jobs import Job, run_jobs
from gateau.evaluation.client.server import ServerSettings
from gateau.evaluation.client.start import Start
from gateau.evaluation.client.started import StartedServer
from gateau.files import read_jsonl, write_jsonl
from gateau.provenance import ANSWERED_BY

from helpers import ROOT, TINY_PAIR, run_script

FAKE = ROOT / "tests/unit/fake_server.py"


class Place:
    """A folder with a model, its servers and its answers."""

    def __init__(self, folder):
        self.folder, self.model = folder, str(folder / "the model")

    def server(self, mode="", seconds=60.0):
        start = Start(f"{sys.executable} {FAKE} {{model}} {{port}} '{mode}'", seconds=seconds)
        return StartedServer(start, self.model, self.folder / "logs/server.log")

    def ask(self, mode="", questions=("a", "b", "c", "d"), **settings):
        with self.server(mode) as server:
            given = {"concurrency": 1, "tries": 2, "backoff_seconds": 0.01, **settings}
            return run_jobs(
                [Job(one, lambda ask, one=one: ask(call(one))) for one in questions],
                ServerSettings("any", **given),
                AnswerCache(self.folder / "calls"),
                started=server,
            )

    @property
    def starts(self):
        return (self.folder / "the model.started").read_text().count("started")

    def processes(self):
        """Return all processes whose command names the model: servers, their workers, and guardians."""
        found = []
        for process in psutil.process_iter():
            try:
                if self.model in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


def call(text):
    return Call(CHAT, {"messages": [{"role": "user", "content": text}], "max_tokens": 5})


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    assert place.processes() == [], "a process stayed behind"


def test_a_server_starts_when_it_is_needed_and_ends_with_its_workers(place):
    outcome = place.ask()
    assert [answer.text for answer in outcome.results] == ["fine"] * 4
    assert place.ask().cached == 4
    assert place.starts == 1, "what is cached needs no server"
    assert place.ask(questions=("a", "e")).calls == 1
    assert place.starts == 2


@pytest.mark.parametrize(
    ("mode", "message"),
    [("dies at start", r"ended before it was ready[\s\S]*server\.log:[\s\S]*CUDA out of memory"),
     ("dies when asked", r"ended while it was asked[\s\S]*segmentation fault[\s\S]*2 of 4 requests are answered"),
     ("hangs", r"no longer answers"),
     ("garbage", "the answer is not a completion"),
     ("out of memory", "answered in 2 tries|has not answered 3 requests in a row"),
     ("wrong name", "no model '.*the model' there"),
     ("port taken", r"ended before it was ready[\s\S]*Address already in use")],
)  # fmt: skip
def test_failures_say_what_happened_and_lose_nothing(place, mode, message):
    with pytest.raises(ServerError, match=message) as error:
        place.ask(mode, timeout_seconds=1 if mode == "hangs" else 60)
    assert str(place.folder / "logs/server.log") in str(error.value)
    assert place.starts == (3 if mode == "port taken" else 1), "it is not started again and again"
    stored = place.ask(questions=("a", "b")).cached
    assert stored == (2 if mode == "dies when asked" else 0)


def test_a_server_that_is_not_ready_in_time_is_ended(place):
    with (
        place.server("never ready", seconds=1.5) as server,
        pytest.raises(ServerError, match=r"not ready after 1\.5 s"),
    ):
        server.base_url()


def test_a_port_that_is_taken_meanwhile_is_replaced(place):
    assert place.ask("port taken once").calls == 4
    assert place.starts == 2


def test_the_server_s_name_and_version_are_known(place, caplog):
    assert Start("transformers").backend == f"transformers {metadata.version('transformers')}"
    assert "transformers" in Start("transformers").key
    caplog.set_level("INFO")
    with place.server() as server:
        assert server.backend == server.start.start, "of an unknown package"
        server.base_url()
        assert server.backend == f"{server.start.start}, version 1.5", "as the server says"
        assert f"{ANSWERED_BY}{server.backend}" in caplog.text


def test_two_jobs_on_one_machine_do_not_collide(place):
    with place.server() as one, place.server() as two:
        assert one.base_url() != two.base_url()


def test_a_judge_s_job_starts_its_judge_and_ends_it(place, tmp_path):
    """Ratings are known by the judge's weights and its server, wherever the folder lies."""
    requests = [
        {"id": str(n), "messages": [{"role": "user", "content": f"rate {n}"}], "rating": "mt_bench"} for n in "abc"
    ]
    write_jsonl(tmp_path / "requests.jsonl", requests)

    def judge(model, mode):
        start = {
            "start": f"{sys.executable} {FAKE} {{model}} {{port}} '{mode}'",
            "options": {},
            "gpus": 0,
            "seconds": 60,
        }
        result = run_script(
            "judge", "--requests", tmp_path / "requests.jsonl", "--model", model, "--name", "small", "--start",
            json.dumps(start), "--server-log", tmp_path / "judge.log", "--cache", tmp_path / "cache", "--tries", 1,
            "--output", tmp_path / "judgments.jsonl", "--summary", tmp_path / "summary.json",
        )  # fmt: skip
        return result, json.loads((tmp_path / "summary.json").read_text()) if result.returncode == 0 else {}

    shutil.copytree(TINY_PAIR / "long", place.model)
    result, summary = judge(place.model, "judges")
    assert result.returncode == 0, result.stderr
    assert (summary["judge"], summary["calls"], summary["cached"]) == ("small", 3, 0)
    assert summary["server"].endswith("version 1.5")
    assert [row["rating"] for _, row in read_jsonl(tmp_path / "judgments.jsonl")] == [5, 5, 5]
    assert place.processes() == []
    moved = shutil.move(place.model, tmp_path / "moved")
    assert judge(moved, "judges")[1]["cached"] == 3
    result, _ = judge(moved, "dies when asked")
    assert result.returncode == 1, "another command is another judge"
    assert "ended while it was asked" in result.stderr
    assert "segmentation fault" in result.stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_the_server_ends_when_its_job_is_killed(place, sent):
    code = (
        "import signal, sys; sys.path[:0] = sys.argv[1:3]\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it\n"
        "from pathlib import Path\n"
        "from unit.test_started_server import Place\n"
        "Place(Path(sys.argv[3])).ask('waits')\n"
    )
    paths = [str(ROOT / name) for name in ("scripts", "tests")]
    job = subprocess.Popen([sys.executable, "-c", code, *paths, str(place.folder)], stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list((place.folder / "calls").glob("*/*.json"))) == 2)
    assert len(place.processes()) == 3, "server, worker and guardian"
    job.send_signal(sent)
    job.wait(timeout=60)
    wait_until(lambda: not place.processes())
    assert place.ask().cached == 2


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_lease_of_a_job_lasts_until_its_server_has_ended(place, tmp_path):
    def is_leased():
        with (tmp_path / "lease").open() as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    lease = (tmp_path / "lease").open("w")
    os.set_inheritable(lease.fileno(), True)
    fcntl.flock(lease, fcntl.LOCK_EX)
    with place.server() as server:
        server.base_url()
        lease.close()  # as when the job is killed
        assert is_leased()
    assert not is_leased()


def test_commands():
    program = str(psutil.Process().exe())
    found = Start(f"{program} serve {{model}} -p {{port}}", {"dtype": "auto", "eager": True, "x": None}, gpus=2)
    assert found.command("/a b", 7) == [program, "serve", "/a b", "-p", "7", "--dtype", "auto", "--eager"]
    with pytest.raises(SettingsError, match=r"there is no program vllm; install it"):
        Start("vllm").command("m", 1)
    with pytest.raises(SettingsError, match=r"s\.start is 'serve \{model\}'; write vllm, sglang, .* contains \{port\}"):
        Start("serve {model}").check("s")


def test_a_known_server_spreads_its_model_over_its_gpus(tmp_path, monkeypatch):
    (tmp_path / "vllm").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Start("vllm", gpus=4).command("m", 1)[-2:] == ["--tensor-parallel-size", "4"]
    assert Start("vllm", {"tensor-parallel-size": 2}, gpus=4).command("m", 1)[-2:] == ["--tensor-parallel-size", "2"]
    assert "--tensor-parallel-size" not in Start("vllm").command("m", 1)
