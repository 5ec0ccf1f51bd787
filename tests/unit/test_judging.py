"""The judge client with a real server on this machine: no answer is lost, repeated, or over the budget."""

import json
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from gateau.errors import DataError, ServerError, SettingsError
from gateau.evaluation.benchmarks import ratings
from gateau.evaluation.client.calls import AnswerCache, Usage
from gateau.evaluation.judging.judge import (
    JudgeSettings,
    Judgment,
    judge,
    judge_call,
    read_judgments,
    read_requests,
    write_judgments,
)

from helpers import ROOT, write_jsonl
from unit.scripted_server import KEY, ScriptedServer, status

ZEROS = {"prompt_tokens": 0, "completion_tokens": 0}  # of a server that does not count
FAST = ("--backoff-seconds", 0.02, "--tries", 4, "--max-tokens", 16)


@pytest.fixture
def server():
    server = ScriptedServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def questions(directory, *texts):
    rows = [
        {
            "id": f"row-{n}",
            "messages": [{"role": "system", "content": "You rate."}, {"role": "user", "content": text}],
        }
        for n, text in enumerate(texts)
    ]
    return write_jsonl(directory / "requests.jsonl", rows)


def numbered(n):
    return [f"question {i:04d}" for i in range(n)]


def command(directory, server, *arguments):
    return [
        sys.executable, str(ROOT / "scripts/judge.py"), "--requests", str(directory / "requests.jsonl"),
        "--rating", "longbench_qa", "--model", "judge", "--base-url", server.url, "--cache", str(directory / "cache"),
        "--output", str(directory / "judgments.jsonl"), *map(str, FAST), *map(str, arguments),
    ]  # fmt: skip


def run_judge(directory, server, *arguments):
    result = subprocess.run(
        command(directory, server, *arguments), capture_output=True, text=True, check=False, timeout=60
    )
    (directory / "log.txt").open("a").write(result.stdout + result.stderr)
    return result


def judgments(directory):
    return [json.loads(line) for line in (directory / "judgments.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "text", "rating"),
    [
        ("longbench_qa", "[[1]] no, rather [[2]]", 2),
        ("longbench_qa", "[[Rating: 2.5 of 3]]", 2.5),
        ("longbench_qa", "[[ open and never closed 2 [[3]]", 3),
        ("longbench_qa", "[[3]], so [[none]]", None),
        ("longbench_qa", "[[4]]", None),
        ("longbench_qa", "[[0]]", None),
        ("longbench_qa", "[[-1]]", None),
        ("longbench_qa", "rating 3", None),
        ("longbench_qa", "", None),
        ("longbench_summary", "评分：[[5]]", 5),
        ("longbench_summary", "[[6]]", None),
        ("longbench_chat", "[[1]] … [[10]]", 10),
        ("longbench_chat", "[[11]]", None),
        ("needle", "[[7]] then [[1]]", 7),
        ("needle", "[[Rating: 7]]", None),
        ("needle", "[7]", None),
        ("mt_bench", "[[8]] or [[2]]", 8),
        ("mt_bench", "[4] but [[8.5]]", 8.5),
        ("mt_bench", "Rating: [4]", 4),
        ("mt_bench", "[[0]]", None),
        ("mt_bench", "Rating: 4", None),
        ("mt_bench", '<think>The format is "[[rating]]", e.g. "[[5]]".</think> Rating: [[8]]', 8),
        ("mt_bench", "it begins in the prompt, e.g. [[5]] </think>\n[[8]]", 8),
        ("longbench_qa", "<think>[[3]] or rather [[2]]", None),
        ("longbench_qa", "[[3]] as <think> is no reasoning here", 3),
    ],
)
def test_ratings_are_read_as_each_benchmark_reads_them(name, text, rating):
    assert ratings()[name].read(text) == rating


def test_every_misbehaviour_ends_in_one_judgment_per_request_in_order(tmp_path, server):
    server.script = {
        "slow": [{"kind": "slow", "seconds": 0.3, "text": "[[1]]"}],
        "too slow once": [{"kind": "slow", "seconds": 3.0, "text": "[[1]]"}, "[[2]]"],
        "429": [status(429, headers={"Retry-After": "0.2"}), "[[2]]"],
        "429 without a time": [status(429), "[[2]]"],
        "500": [status(500), status(503), "[[2]]"],
        "dropped": [{"kind": "dropped"}, "[[2]]"],
        "truncated": [{"kind": "truncated"}, {"kind": "cut short"}, "[[2]]"],
        "no choices": [{"kind": "body", "body": {"choices": [], "usage": {}}}, "[[2]]"],
        "not an object": [{"kind": "body", "body": ["no"]}, "[[2]]"],
        "out of scale once": ["[[9]]", "[[2]]"],
        "wrong form": ["3 of 3"],
        "half a character": ["\ud83d [[3]]"],
        "tells the key": [f"{KEY} [[2]]"],
    }
    expected = {"slow": 1, "wrong form": None, "plain": 3, "plain too": 3, "half a character": 3}
    texts = [*server.script, "plain", "plain too", "plain"]
    questions(tmp_path, *texts)
    result = run_judge(tmp_path, server, "--timeout-seconds", 1.0, "--max-null-share", 0.1)
    assert result.returncode == 0, result.stderr
    rows = judgments(tmp_path)
    assert [row["id"] for row in rows] == [f"row-{n}" for n in range(len(texts))]
    assert [row["rating"] for row in rows] == [expected.get(text, 2) for text in texts]
    attempts = {"wrong form": 3, "out of scale once": 2}
    assert [row["attempts"] for row in rows] == [attempts.get(text, 1) for text in texts]
    assert rows[texts.index("wrong form")]["text"] == "3 of 3"
    assert rows[texts.index("wrong form")]["usage"] == {
        "prompt_tokens": 21, "completion_tokens": 15, "estimated": False,
    }  # fmt: skip
    tries = {text: len(steps) for text, steps in server.script.items()} | {"wrong form": 3, "plain": 1, "plain too": 1}
    assert server.asked() == tries
    before = (tmp_path / "judgments.jsonl").read_bytes()
    assert run_judge(tmp_path, server, "--max-null-share", 0.1).returncode == 0
    assert server.asked() == tries, "a rerun asks nothing"
    assert (tmp_path / "judgments.jsonl").read_bytes() == before
    assert server.keys == {f"Bearer {KEY}"}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_a_call_carries_what_was_asked_and_its_key_leaves_out_who_is_asked(tmp_path, server):
    requests = read_requests(questions(tmp_path, "q"), "needle")
    settings = JudgeSettings("judge", server.url, temperature=0.5, seed=40, max_tokens=9, null_retries=1)
    server.default = "no rating"
    [judgment] = judge(requests, settings, AnswerCache(tmp_path / "cache")).results
    assert (judgment.rating, judgment.attempts) == (None, 2)
    messages = [{"role": "system", "content": "You rate."}, {"role": "user", "content": "q"}]
    assert server.calls == [
        {"model": "judge", "messages": messages, "temperature": 0.5, "seed": seed, "max_tokens": 9} for seed in (40, 41)
    ]
    elsewhere = JudgeSettings("judge", "http://other/v1", temperature=0.5, seed=40, max_tokens=9)

    def key(settings, attempt):
        return judge_call(requests[0], settings, attempt).key(settings.model)

    assert key(elsewhere, 1) == key(settings, 1)
    different = JudgeSettings("judge", server.url, temperature=0.0, seed=40, max_tokens=9)
    assert len({key(s, a) for s in (settings, different) for a in (0, 1)}) == 4


def test_each_request_may_name_its_rating_and_the_summary_counts_by_rating(tmp_path, server):
    server.script = {"two": ["[[2]] of 3, [[9]] of 10"], "none": ["[[none]]"]}
    server.usage = {"prompt_tokens": 100, "completion_tokens": 10}
    asked = [("two", "longbench_chat"), ("two", None), ("none", "mt_bench"), ("two", "mt_bench")]
    rows = [
        {"id": f"{n}", "messages": [{"role": "user", "content": text}], **({"rating": rating} if rating else {})}
        for n, (text, rating) in enumerate(asked)
    ]
    write_jsonl(tmp_path / "requests.jsonl", rows)
    arguments = (
        "--summary", tmp_path / "summary.json", "--max-null-share", 0.5, "--null-retries", 1,
        "--extra-body", '{"max_tokens": null, "temperature": null, "max_completion_tokens": 16}',
        "--prompt-price", 10, "--completion-price", 100,
    )  # fmt: skip
    assert run_judge(tmp_path, server, *arguments).returncode == 0
    assert [row["rating"] for row in judgments(tmp_path)] == [9, None, None, 2]
    assert {tuple(sorted(call)) for call in server.calls} == {("max_completion_tokens", "messages", "model")}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == {
        "judge": "judge",
        "base_url": server.url,
        "ratings": {
            "longbench_chat": {"n": 1, "nulls": 0},
            "longbench_qa": {"n": 0, "nulls": 1},
            "mt_bench": {"n": 1, "nulls": 1},
        },
        "usage": {"prompt_tokens": 600, "completion_tokens": 60, "estimated": False},
        "cost": (600 * 10 + 60 * 100) / 1e6,
        "calls": 4,
        "cached": 2,
    }
    assert run_judge(tmp_path, server, *arguments[:-4]).returncode == 0
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again == {**summary, "cost": None, "calls": 0, "cached": 6}


def test_predictions_of_a_benchmark_are_rated_each_data_set_as_its_own(tmp_path, server):
    predictions, assets = tmp_path / "predictions", tmp_path / "assets"
    predictions.mkdir()
    assets.mkdir()
    row = {"pred": "a\nprediction", "answers": ["gold"], "all_classes": None, "length": 9, "query": "why?"}
    write_jsonl(predictions / "qasper.jsonl", [{**row, "_id": "x"}])
    write_jsonl(predictions / "gov_report.jsonl", [row])
    write_jsonl(predictions / "trec.jsonl", [row])
    (assets / "prompt_for_qa.txt").write_text("Q {} {} {}")
    (assets / "prompt_for_sum.txt").write_text("S {} {}")
    server.script = {"Q why? ['gold'] a prediction": ["[[3]]"], "S ['gold'] a prediction": ["[[5]]"]}
    server.default = "[[none]]"
    arguments = command(tmp_path, server, "--summary", tmp_path / "summary.json")
    for name in ("--requests", "--rating"):
        del arguments[arguments.index(name) : arguments.index(name) + 2]
    arguments += ["--benchmark", "longbench", "--predictions", str(predictions), "--assets", str(assets)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert {row["id"]: row["rating"] for row in judgments(tmp_path)} == {"qasper/x": 3, "gov_report/1": 5}
    counts = {"longbench_qa": {"n": 1, "nulls": 0}, "longbench_summary": {"n": 1, "nulls": 0}}
    assert json.loads((tmp_path / "summary.json").read_text())["ratings"] == counts
    result = subprocess.run([*arguments, "--rating", "needle"], capture_output=True, text=True, check=False, timeout=60)
    assert "--rating is for --requests" in result.stderr


def test_judgments_are_read_as_they_were_written(tmp_path):
    written = [
        Judgment("a", 2.5, "first\u2028line [[2.5]]", 1, Usage(7, 5), "stop"),
        Judgment("b", None, "", 3, Usage(21, 15, estimated=True), None),
    ]
    path = tmp_path / "judgments.jsonl"
    write_judgments(path, written)
    assert read_judgments(path) == {"a": written[0], "b": written[1]}
    line = path.read_text().split("\n")[0]
    for lines, message in (
        ([line, line], ", line 2: id 'a' appears twice"),
        ([line.replace('"attempts"', '"tries"')], ", line 1: not a judgment"),
        ([line, "[]"], ", line 2: not a JSON object"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            read_judgments(write_jsonl(path, lines))


def test_retry_after_holds_back_every_worker(tmp_path, server):
    server.script = {"question 0000": [status(429, headers={"Retry-After": "1"}), "[[1]]"]}
    server.delay = 0.05
    questions(tmp_path, *numbered(40))
    assert run_judge(tmp_path, server, "--concurrency", 4).returncode == 0
    assert set(server.asked().values()) == {1, 2}
    times = [moment - server.times[0] for moment in server.times]
    assert sum(moment < 1.0 for moment in times) <= 8, "calls in flight, and those sent while the answer arrived"
    assert len(times) == 41


@pytest.mark.parametrize("wait", ["0", format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)])
def test_a_server_that_asks_for_no_pause_gets_one(tmp_path, server, wait):
    server.script = {"question 0000": [status(429, headers={"Retry-After": wait})] * 3 + ["[[1]]"]}
    questions(tmp_path, *numbered(1))
    assert run_judge(tmp_path, server, "--backoff-seconds", 0.2).returncode == 0
    assert server.times[-1] - server.times[0] >= (0.2 + 0.4 + 0.8) / 2


def test_retry_after_may_be_a_date_but_not_a_day_off(tmp_path, server):
    def in_two_seconds():
        return {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)}

    server.script = {
        "dated": [status(429, headers=in_two_seconds), "[[1]]"],
        "tomorrow": [status(429, headers={"Retry-After": "86400"})],
    }
    questions(tmp_path, "dated")
    assert run_judge(tmp_path, server).returncode == 0
    assert 0.9 < server.times[1] - server.times[0] < 4, "a date has whole seconds"
    questions(tmp_path, "tomorrow")
    result = run_judge(tmp_path, server)
    assert result.returncode == 1
    assert "asks to wait 86400 s; rerun later" in result.stderr


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        (status(401), "the key in the environment variable OPENAI_API_KEY is refused"),
        (status(403), "use another key or model"),
        (status(404), "no model 'judge' there, or a wrong address"),
        (status(429, code="insufficient_quota"), "add credit"),
        (status(400), "correct the request, or change the settings"),
    ],
)
def test_a_permanent_refusal_stops_all_calls_at_once(tmp_path, server, refusal, advice, caplog):
    server.script = {text: [refusal] for text in numbered(200)}
    requests = read_requests(questions(tmp_path, *numbered(200)), "needle")
    with pytest.raises(ServerError, match=re.escape(advice)) as error:
        judge(requests, JudgeSettings("judge", server.url), AnswerCache(tmp_path / "cache"))
    assert len(server.calls) <= 8, "no more than were in flight"
    assert KEY not in str(error.value) + caplog.text
    assert "0 of 200 requests are judged" in str(error.value)


def test_a_missing_key_is_named(tmp_path, server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server.script = {"q": [status(401)]}
    questions(tmp_path, "q")
    result = run_judge(tmp_path, server, "--key-variable", "JUDGE_KEY")
    assert result.returncode == 1
    assert "the key in the environment variable JUDGE_KEY is not set" in result.stderr
    assert "Traceback" not in result.stderr
    assert server.keys == {"Bearer none"}


def test_a_request_without_an_answer_fails_the_run_but_not_the_others(tmp_path, server):
    server.script = {"poison": [status(500)]}
    questions(tmp_path, "poison", *numbered(20))
    result = run_judge(tmp_path, server)
    assert result.returncode == 1
    assert "1 requests got no answer in 4 tries, 'row-0': 500" in result.stderr
    assert "20 of 21 requests are judged" in result.stderr
    assert KEY not in result.stderr
    assert not (tmp_path / "judgments.jsonl").exists()
    assert server.asked()["poison"] == 4
    server.script = {}
    assert run_judge(tmp_path, server).returncode == 0
    assert set(server.asked().values()) == {1, 5}


def test_a_dead_server_is_not_asked_for_every_request(tmp_path, server):
    server.script = {text: [{"kind": "dropped"}] for text in numbered(100)}
    questions(tmp_path, *numbered(100))
    result = run_judge(tmp_path, server, "--concurrency", 2)
    assert result.returncode == 1
    assert "has not answered 3 requests in a row" in result.stderr
    assert len(server.calls) <= 4 * 4


def test_too_many_nulls_are_an_error_and_a_rerun_can_still_write_them(tmp_path, server):
    server.script = {text: ["no idea"] for text in numbered(3)}
    questions(tmp_path, *numbered(20))
    result = run_judge(tmp_path, server)
    assert result.returncode == 1
    assert "3 of 20 judgments have no rating" in result.stderr
    assert "row-0, row-1, row-2" in result.stderr
    assert not (tmp_path / "judgments.jsonl").exists()
    calls = len(server.calls)
    assert calls == 17 + 3 * 3
    assert run_judge(tmp_path, server, "--max-null-share", 1).returncode == 0
    assert len(server.calls) == calls
    assert [row["rating"] for row in judgments(tmp_path)] == [None] * 3 + [3] * 17


def test_a_refused_connection_costs_nothing(tmp_path, server):
    server.shutdown()
    server.server_close()
    questions(tmp_path, "q")
    result = run_judge(tmp_path, server, "--budget-tokens", 130)
    assert result.returncode == 1
    assert "(ConnectError)" in result.stderr
    assert "raise the budget" not in result.stderr


@pytest.mark.parametrize("counted", [True, False, "zeros"])
def test_a_budget_is_never_exceeded_and_what_is_done_stays(tmp_path, server, counted):
    server.usage = {True: {"prompt_tokens": 60, "completion_tokens": 16}, "zeros": ZEROS}.get(counted)
    server.delay = 0.02
    budget = 2000
    questions(tmp_path, *numbered(40))
    result = run_judge(tmp_path, server, "--budget-tokens", budget)
    assert result.returncode == 1
    assert "raise the budget" in result.stderr
    done = len(server.calls)
    bound = 9 + 13 + 2 * 16 + 64 + 16  # bytes of both messages, what a template may add, the answer
    if counted is True:
        assert budget - bound < done * 76 <= budget, "calls that settle below their bound make room for others"
    else:
        assert budget - bound < done * bound <= budget
        assert "estimated" in result.stderr
    assert not (tmp_path / "judgments.jsonl").exists()
    server.usage = {"prompt_tokens": 60, "completion_tokens": 16}
    assert run_judge(tmp_path, server).returncode == 0
    assert set(server.asked().values()) == {1}
    assert len(server.calls) == 40


def test_tries_of_unknown_price_count_in_full(tmp_path, server):
    server.script = {"q": [{"kind": "truncated"}]}
    questions(tmp_path, "q")
    result = run_judge(tmp_path, server, "--budget-tokens", 300)
    assert result.returncode == 1
    assert "raise the budget" in result.stderr
    assert len(server.calls) == 2  # of 9 + 1 + 2 × 16 + 64 + 16 = 122 tokens each


def test_a_dry_run_calls_nothing_and_says_what_would_be_called(tmp_path, server):
    questions(tmp_path, *numbered(4))
    assert run_judge(tmp_path, server).returncode == 0
    questions(tmp_path, *numbered(10), "question 0009")
    result = run_judge(tmp_path, server, "--dry-run", "--prompt-price", 10, "--completion-price", 100)
    assert result.returncode == 0
    assert len(server.calls) == 4
    lines = dict(line.split(": ") for line in result.stdout.splitlines())
    assert lines["requests"] == "11"
    assert lines["cached calls"] == "4"
    assert lines["calls to make"].startswith("6,")
    assert lines["completion tokens, at most"] == "96"
    prompt = 6 * (3 + 4 + 8)  # a quarter of 9 and of 13 bytes, rounded up, and 4 a message
    assert lines["prompt tokens, estimated"] == str(prompt)
    assert lines["cost, estimated"] == f"{(prompt * 10 + 96 * 100) / 1e6:.4f}"


def test_a_killed_run_repeats_only_calls_that_were_on_their_way(tmp_path, server):
    server.delay = 0.05
    questions(tmp_path, *numbered(60))
    process = subprocess.Popen(command(tmp_path, server, "--concurrency", 4), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while len(server.calls) < 20 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    before = len(server.calls)
    kept = len(list((tmp_path / "cache").rglob("*.json")))
    assert 20 <= before < 60
    assert before - 4 - 4 <= kept <= before  # less the calls in flight and the answers that are not on the disk yet
    assert run_judge(tmp_path, server).returncode == 0
    assert len(server.calls) == before + 60 - kept
    assert [row["id"] for row in judgments(tmp_path)] == [f"row-{n}" for n in range(60)]


def test_a_damaged_cache_file_is_asked_for_again(tmp_path, server):
    questions(tmp_path, *numbered(3))
    assert run_judge(tmp_path, server).returncode == 0
    damaged = next((tmp_path / "cache").rglob("*.json"))
    damaged.write_text('{"text": ')
    result = run_judge(tmp_path, server)
    assert result.returncode == 0
    assert "damaged" in result.stderr
    assert sorted(server.asked().values()) == [1, 1, 2]


@pytest.mark.alone
def test_thirty_two_calls_at_once_keep_the_judge_busy(tmp_path, server):
    """Busy share: time the server works on calls, over the time from first to last call on 32 places."""
    server.delay = 0.5
    questions(tmp_path, *numbered(320))
    shares = []
    for attempt in range(5):  # the machine may be busy with other things
        server.busy.clear()
        result = run_judge(tmp_path, server, "--concurrency", 32, "--cache", tmp_path / f"cache-{attempt}")
        assert result.returncode == 0, result.stderr
        wall = max(end for _, end in server.busy) - min(start for start, _ in server.busy)
        shares.append(sum(end - start for start, end in server.busy) / (32 * wall))
        if shares[-1] >= 0.8:
            break
    print(f"busy shares {shares}")
    assert max(shares) >= 0.8, shares


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": "a", "messages": [{"role": "user", "content": "q"}]}] * 2, ", line 2: id 'a' appears twice"),
        ([{"id": "a"}], ", line 1: not an object with id and messages"),
        (["{"], ", line 1: not JSON"),
        ([{"id": 3, "messages": [{"role": "user", "content": "q"}]}], "the id is 3; it must be a text"),
        ([{"id": "a", "messages": []}], "id 'a' has no messages"),
        ([{"id": "a", "messages": [{"role": "user"}]}], "must have the texts role and content"),
        ([{"id": "a", "messages": [{"role": "human", "content": "q"}]}], "role 'human'"),
        ([{"id": "a", "messages": [{"role": "user", "content": "\ud83d"}]}], ", line 1: not an object"),
        ([{"id": "a", "messages": [{"role": "user", "content": "q"}], "rating": "stars"}], "rating 'stars' is unknown"),
        ([b"\xff"], "not JSON in UTF-8"),
        ([], "no rows"),
    ],
)
def test_requests_that_cannot_be_asked_are_refused_with_their_line(tmp_path, lines, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_requests(write_jsonl(tmp_path / "requests.jsonl", lines), "needle")


def test_duplicate_ids_end_the_script_before_any_call(tmp_path, server):
    write_jsonl(tmp_path / "requests.jsonl", [{"id": "a", "messages": [{"role": "user", "content": "q"}]}] * 2)
    result = run_judge(tmp_path, server)
    assert result.returncode == 1
    assert "appears twice" in result.stderr
    assert not server.calls


@pytest.mark.parametrize(
    "address", ["http://user:secret@host/v1", "http://host/v1?key=secret", "http://host/v1#secret", "host/v1"]
)
def test_an_address_with_secrets_or_without_a_scheme_is_refused(address):
    with pytest.raises(SettingsError) as error:
        JudgeSettings("judge", address)
    assert "secret" not in str(error.value)


def test_a_key_that_would_break_the_header_is_refused_unseen(tmp_path, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-broken\nkey")
    requests = read_requests(questions(tmp_path, "q"), "needle")
    with pytest.raises(SettingsError, match="OPENAI_API_KEY has characters") as error:
        judge(requests, JudgeSettings("judge", server.url), AnswerCache(tmp_path / "cache"))
    assert "sk-broken" not in str(error.value)
