"""Calls and jobs of several calls: digests, bounds, and the body that is sent."""

import itertools
import re

import pytest

from gateau.errors import DataError, ServerError, SettingsError
from gateau.evaluation.client.calls import CHAT, COMPLETION, Answer, AnswerCache, Call, Usage
from gateau.evaluation.client.jobs import Job, run_jobs
from gateau.evaluation.client.server import ServerSettings

from unit.scripted_server import KEY, ScriptedServer, status


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


def chat(*texts, **more):
    roles = itertools.cycle(("user", "assistant"))
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return Call(CHAT, {"messages": messages, "max_tokens": 8, **more})


def test_a_key_follows_everything_that_is_asked():
    body = {"prompt": "q", "max_tokens": 8}
    calls = [
        Call(COMPLETION, body),
        Call(CHAT, body),
        Call(COMPLETION, {**body, "seed": 1}),
        Call(COMPLETION, body, salt="other weights"),
        Call(COMPLETION, body, attempt=1),
    ]
    assert len({call.key(model) for call in calls for model in ("one", "another")}) == 10
    assert Call(COMPLETION, dict(reversed(body.items()))).key("one") == calls[0].key("one")


def test_an_extra_body_is_laid_over_and_null_takes_out():
    extra = {"max_completion_tokens": 1024, "max_tokens": None, "temperature": None, "reasoning_effort": "low"}
    settings = ServerSettings("model", "http://here/v1", extra_body=extra)
    body = {"prompt": "q", "max_tokens": 8, "temperature": 0.0, "seed": 3}
    call = settings.call(COMPLETION, body, salt="weights", attempt=2)
    sent = {"prompt": "q", "seed": 3, "max_completion_tokens": 1024, "reasoning_effort": "low"}
    assert call == Call(COMPLETION, sent, "weights", 2)
    assert call.max_tokens == 1024
    with pytest.raises(SettingsError, match="sets messages, which each call sets itself"):
        ServerSettings("model", "http://here/v1", extra_body={"messages": []})
    with pytest.raises(SettingsError, match="a bound on new tokens"):
        ServerSettings("model", "http://here/v1", extra_body={"max_tokens": None}).call(COMPLETION, body)


@pytest.mark.parametrize(
    ("call", "most", "estimated"),
    [
        (chat("four", "fünf!"), 4 + 6 + 2 * 16 + 64 + 8, 1 + 2 + 2 * 4),
        (Call(COMPLETION, {"prompt": "fünf!", "max_tokens": 8}), 6 + 16 + 64 + 8, 2 + 4),
        (Call(COMPLETION, {"prompt": [5, 6, 7], "max_tokens": 8}), 3 + 16 + 64 + 8, 3 + 4),
    ],
)
def test_tokens_of_a_call_are_bounded_and_estimated_without_a_tokenizer(call, most, estimated):
    assert call.most_tokens == most
    assert call.estimated_usage("answer") == Usage(estimated, 2, estimated=True)


@pytest.mark.parametrize("prompt", ["once", [5, 6, 7]])
def test_the_completions_endpoint_takes_text_and_token_ids(tmp_path, server, prompt):
    server.script = {str(prompt): [status(503), " upon a time"]}
    settings = ServerSettings("model", server.url, backoff_seconds=0.01)

    async def run(ask):
        return await ask(settings.call(COMPLETION, {"prompt": prompt, "max_tokens": 8}))

    outcome = run_jobs([Job("a", run)], settings, AnswerCache(tmp_path))
    assert outcome.results == [Answer(" upon a time", "stop", Usage(7, 5))]
    assert server.calls == [{"model": "model", "prompt": prompt, "max_tokens": 8}] * 2


def test_reasoning_that_a_server_sends_apart_is_kept(tmp_path, server):
    for number, (name, content) in enumerate({"reasoning_content": "otter", "reasoning": None}.items()):
        message = {"role": "assistant", "content": content, name: "why"}
        body = {"choices": [{"index": 0, "finish_reason": "length", "message": message}], "usage": server.usage}
        server.script = {"falcon?": [{"kind": "body", "body": body}]}
        settings = ServerSettings(f"model {number}", server.url)

        async def run(ask):
            return await ask(chat("falcon?"))

        for _ in range(2):  # the second answer comes from the cache
            outcome = run_jobs([Job("a", run)], settings, AnswerCache(tmp_path))
            assert outcome.results == [Answer(content or "", "length", Usage(7, 5), "why")]
    assert len(server.calls) == 2


def conversation(first, second):
    async def run(ask):
        answer = await ask(chat(first))
        return [answer.text, (await ask(chat(first, answer.text, second))).text]

    return Job(first, run)


def test_a_job_may_ask_with_what_was_answered_and_results_stand_in_the_order_of_the_jobs(tmp_path, server):
    firsts = [f"first {n}" for n in range(12)]
    server.script = {first: [{"kind": "slow", "seconds": 0.3 if n == 0 else 0.0, "text": f"reply {n}"}]
                     for n, first in enumerate(firsts)}  # fmt: skip
    server.script |= {f"second {n}": [f"end {n}"] for n in range(12)}
    jobs = [conversation(first, f"second {n}") for n, first in enumerate(firsts)]
    finished = []
    settings = ServerSettings("model", server.url, concurrency=4)
    outcome = run_jobs(iter([*jobs, jobs[0]]), settings, AnswerCache(tmp_path), finished.append)
    expected = [[f"reply {n}", f"end {n}"] for n in range(12)]
    assert outcome.results == [*expected, expected[0]]
    assert (outcome.calls, outcome.cached, outcome.usage) == (24, 2, Usage(24 * 7, 24 * 5))
    assert sorted(finished) == sorted(outcome.results)
    assert finished[0] != expected[0], "the slow first job is not waited for"
    [turns] = [call["messages"] for call in server.calls if call["messages"][-1]["content"] == "second 3"]
    assert [message["content"] for message in turns] == ["first 3", "reply 3", "second 3"]
    again = run_jobs(jobs, settings, AnswerCache(tmp_path))
    assert (again.results, again.calls, again.cached) == (expected, 0, 24)
    assert run_jobs([], settings, AnswerCache(tmp_path)).results == []


def test_a_job_that_fails_at_its_second_call_keeps_its_first(tmp_path, server):
    server.script = {"second": [status(500)]}
    settings = ServerSettings("model", server.url, tries=2, backoff_seconds=0.01)
    jobs = [conversation("first", "second"), conversation("other", "fine")]
    with pytest.raises(ServerError, match=re.escape("'first': 500")) as error:
        run_jobs(jobs, settings, AnswerCache(tmp_path))
    assert "1 of 2 requests are answered and cached" in str(error.value)
    server.script = {}
    assert run_jobs(jobs, settings, AnswerCache(tmp_path)).calls == 1


@pytest.mark.parametrize("error", [DataError("a row that cannot be"), OSError("disk full")])
def test_an_error_while_using_a_result_stops_the_run(tmp_path, server, error):
    def finished(result):
        raise error

    jobs = [conversation(f"{n}", "more") for n in range(50)]
    with pytest.raises(type(error), match=str(error)):
        run_jobs(jobs, ServerSettings("model", server.url, concurrency=2), AnswerCache(tmp_path), finished)
    assert len(server.calls) <= 8  # two calls of each of the four workers


def test_messages_name_the_model_server(tmp_path):
    settings = ServerSettings("model", "http://127.0.0.1:9/v1", tries=1, concurrency=1)
    with pytest.raises(ServerError, match="check that the model server runs and can be reached"):
        run_jobs([conversation(f"{n}", "more") for n in range(4)], settings, AnswerCache(tmp_path))
    with pytest.raises(SettingsError, match="the model server's tries is 0; it must be above 0"):
        ServerSettings("model", tries=0)
