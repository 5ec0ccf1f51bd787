"""Answers through a real OpenAI-compatible server (``transformers serve``): those of the model in process."""

import json
import os
import re
import shutil
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gateau.errors import ServerError, SettingsError
from gateau.evaluation.answering.generation import Generator
from gateau.evaluation.answering.prompting import Prompter
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.answering.reasoning import Reasoning
from gateau.evaluation.answering.through_server import ModelServer, _turn, answer_through, request
from gateau.evaluation.client.calls import CHAT, COMPLETION, Answer, Usage
from gateau.evaluation.client.server import ServerSettings
from gateau.evaluation.client.start import Start
from gateau.evaluation.client.started import StartedServer
from gateau.formats import chat_format

from helpers import ROOT, TINY_PAIR, run_script

NOTES = "Note falcon balor detek mosar rigas tunut.\nThe old road turns past tall grass at dawn.\n"
QUESTIONS = [
    Question("b", "one turn", (NOTES + "\nWhat does note falcon say?",), max_new_tokens=16),
    Question(
        "b", "two turns", (NOTES + "\nWhat does note falcon say?", "What does note otter say?"), max_new_tokens=16
    ),
    Question("b", "as it is", ("Note falcon balor detek",), wrapped=False, max_new_tokens=8),
    Question("b", "too long", (NOTES * 60, "Again?"), max_new_tokens=900),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The tiny model as our export writes one: weights, and a tokenizer with the chat template of training."""
    directory = tmp_path_factory.mktemp("exported")
    tokenizer = AutoTokenizer.from_pretrained(TINY_PAIR / "long")
    tokenizer.chat_template = chat_format("longalign", tokenizer).chat_template()
    tokenizer.save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(TINY_PAIR / "long", dtype=torch.float32)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def served(exported):
    start = Start("transformers", {"device": "cpu"})
    with StartedServer(start, str(exported), exported / "serve.log") as server:
        yield server.base_url()


def prompter(tokenizer, format_name="longalign"):
    return Prompter(tokenizer, format_name, 500, 1024)


def test_a_server_gives_the_answers_of_the_model_in_process(exported, served, tmp_path, tiny_tokenizer, caplog):
    settings = ServerSettings(model=str(exported), base_url=served, key_variable="NO_KEY_NEEDED", concurrency=2)
    own = prompter(tiny_tokenizer)
    answers = answer_through(ModelServer(settings), QUESTIONS, own, {"weights": "w"}, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    generator = Generator(model, own)
    assert answers == [generator.answer([question])[0] for question in QUESTIONS]
    assert "other prompt tokens" not in caplog.text
    nowhere = ModelServer(replace(settings, base_url="http://127.0.0.1:9/v1"))
    again = answer_through(nowhere, QUESTIONS, own, {"weights": "w"}, tmp_path)
    assert again == answers  # all of it from the cache, wherever the server is


def processes_of(model):
    """The server of a model and its guardian."""
    found = [process for process in psutil.process_iter(["cmdline"]) if str(model) in (process.info["cmdline"] or [])]
    return {"guardian.py" in "".join(process.cmdline()): process for process in found}


def test_a_server_that_is_killed_or_hangs_loses_nothing_and_leaves_nothing(
    exported, tmp_path, tiny_tokenizer, monkeypatch
):
    monkeypatch.setattr("gateau.evaluation.client.started._PROBE_SECONDS", 1.0)
    model = shutil.copytree(exported, tmp_path / "model")
    settings = ModelServer(
        ServerSettings("any", key_variable="NO_KEY_NEEDED", tries=3, backoff_seconds=0.1, timeout_seconds=5)
    )

    def answers(server, questions):
        return answer_through(settings, questions, prompter(tiny_tokenizer), {}, tmp_path / "calls", server)

    for number, (sent, message) in enumerate(
        [(signal.SIGKILL, "ended while it was asked"), (signal.SIGSTOP, "no longer answers")], start=1
    ):
        with StartedServer(Start("transformers", {"device": "cpu"}), str(model), tmp_path / "serve.log") as server:
            answers(server, QUESTIONS[:number])
            processes_of(model)[False].send_signal(sent)
            with pytest.raises(ServerError, match=rf"{message}[\s\S]*serve\.log[\s\S]*{number} of 3 requests are answ"):
                answers(server, QUESTIONS[:3])
            assert processes_of(model) == {}
    assert answers(None, QUESTIONS[:2]), "stored, although no server runs"


LITTLE_MEMORY = "bash -c 'ulimit -v 700000; exec transformers serve \"$0\" --host 127.0.0.1 --port $1' {model} {port}"


@pytest.mark.parametrize(
    ("start", "model", "message"),
    [(Start("transformers", {"no-such-option": True}), None, "no-such-option"),
     (Start(LITTLE_MEMORY), None, "allocate memory|MemoryError|map segment"),
     (Start("transformers", {"device": "cpu"}), "no such model", "no such model"),
     (Start("bash -c 'exec transformers serve \"$0\" --port TAKEN' {model} {port}"), None, "address already in use")],
    ids=["dies at start", "out of memory", "wrong model", "port taken"],
)  # fmt: skip
def test_a_server_that_cannot_start_is_an_error_with_its_log(
    exported, tmp_path, tiny_tokenizer, monkeypatch, start, model, message
):
    monkeypatch.setattr("gateau.evaluation.client.started._PORTS", 1)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    place = shutil.copytree(exported, tmp_path / "model") if model is None else tmp_path / model
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        start = replace(start, start=start.start.replace("TAKEN", str(other.getsockname()[1])), seconds=120)
        own, settings = prompter(tiny_tokenizer), ModelServer(ServerSettings("any", tries=1))
        with StartedServer(start, str(place), tmp_path / "serve.log") as server:  # noqa: SIM117
            with pytest.raises(ServerError) as error:
                answer_through(settings, QUESTIONS[:1], own, {}, tmp_path / "calls", server)
    assert str(tmp_path / "serve.log") in str(error.value)
    assert re.search(message, (tmp_path / "serve.log").read_text() + str(error.value), re.IGNORECASE)
    assert processes_of(place) == {}


def test_a_job_starts_its_server_for_all_benchmarks_of_its_model(exported, tmp_path):
    sets = ROOT / "workflow/resources/small_benchmarks"
    shares = [
        {"benchmark": name, "assets": str(sets / name), "options": {"max_new_tokens": 3, **options}}
        for name, options in (("mt_bench", {}), ("longbench_chat", {"protocol": "gateau"}))
    ]

    def generate(folder, share, *more):
        result = run_script(
            "generate", "--benchmark", share["benchmark"], "--assets", share["assets"],
            "--options", json.dumps(share["options"]), "--model", json.dumps({"path": str(exported)}),
            "--device", "cpu",
            "--progress-dir", tmp_path / folder, "--output", tmp_path / folder / f"{share['benchmark']}.jsonl", *more,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stderr

    start = {"start": "transformers", "options": {"device": "cpu"}, "gpus": 0}
    server = ["--server", json.dumps(start), "--server-log", tmp_path / "server.log"]
    log = generate("server", shares[0], *server, "--ahead", json.dumps(shares[1:]))
    assert "starting" in log
    assert "longbench_chat: answered ahead" in log
    assert "starting" not in generate("server", shares[1], *server)
    generate("process", shares[1])
    served, own = (
        [(row["item"], turn["prompt_sha256"], turn["text"]) for row in rows for turn in row["turns"]]
        for rows in (read(tmp_path / folder / "longbench_chat.jsonl") for folder in ("server", "process"))
    )
    assert served == own != []


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_another_template_at_the_server_is_noticed(exported, served, tmp_path, tiny_tokenizer, caplog):
    settings = ServerSettings(model=str(exported), base_url=served, key_variable="NO_KEY_NEEDED")
    other = prompter(tiny_tokenizer, "tokenizer_template")  # the server has the longalign template of the export
    answer_through(ModelServer(settings), QUESTIONS[:1], other, {}, tmp_path)
    assert "counts other numbers of tokens" in caplog.text


def test_a_plain_prompt_is_not_left_to_a_chat_template(tiny_tokenizer, tmp_path):
    server = ModelServer(ServerSettings(model="m", base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(SettingsError, match="set send: tokens"):
        answer_through(server, QUESTIONS[:1], prompter(tiny_tokenizer, "plain"), {}, tmp_path)


def test_further_fields_reach_the_server(tiny_tokenizer):
    given = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "extra_body": {"top_p": None, "min_p": 0.1}}
    question = Question("b", "1", ("falcon?",))
    prompt = prompter(tiny_tokenizer).prompt(question)
    asked = request("messages", question, prompt, [], {"enable_thinking": False})
    call = ModelServer.from_config(given).settings.call(*asked)
    assert call.body["chat_template_kwargs"] == {"enable_thinking": False}
    assert call.body["min_p"] == 0.1
    assert "top_p" not in call.body


def test_a_server_that_is_started_has_no_address_in_its_section():
    """The schema fills in null for what is not given."""
    server = ModelServer.from_config({"start": "vllm", "base_url": None, "model": None, "options": {"dtype": "auto"}})
    assert server.settings.model == Start("vllm", {"dtype": "auto"}).key


def test_reasoning_from_a_server_is_parted_from_the_answer(tiny_tokenizer):
    reasons = Prompter(tiny_tokenizer, "longalign", 500, 1024, reasoning=Reasoning("<think>", "</think>", 9))
    question = Question("b", "1", ("falcon?",), max_new_tokens=4)
    prompt = reasons.prompt(question)
    assert request("messages", question, prompt, [], {})[1]["max_tokens"] == 13
    turn = _turn(question, prompt, Answer("<think>why</think>\notter", "stop", Usage(5, 6)), reasons)
    assert (turn.reasoning, turn.text, turn.finish_reason) == ("<think>why</think>", "otter", "stop")
    turn = _turn(question, prompt, Answer("<think>why", "length", Usage(5, 6)), reasons)
    assert (turn.reasoning, turn.text, turn.finish_reason) == ("<think>why", "", "length")
    # the template writes the start of the reasoning
    prompt = replace(prompt, ids=[*prompt.ids, *tiny_tokenizer("<think>\n", add_special_tokens=False).input_ids])
    turn = _turn(question, prompt, Answer("why and", "length", Usage(5, 6)), reasons)
    assert (turn.reasoning, turn.text) == ("why and", "")
    turn = _turn(question, prompt, Answer("why</think> otter", "length", Usage(5, 6)), reasons)
    assert (turn.reasoning, turn.text) == ("why</think>", "otter")
    # the server parts the reasoning itself; some leave it out if it is empty
    turn = _turn(question, prompt, Answer("otter and", "length", Usage(5, 6), "why"), reasons)
    assert (turn.reasoning, turn.text) == ("why", "otter and")
    turn = _turn(question, prompt, Answer("otter", "stop", Usage(5, 6)), reasons)
    assert (turn.reasoning, turn.text) == ("", "otter")


def test_token_ids_are_sent_where_the_server_takes_them(tiny_tokenizer):
    question = Question("b", "1", ("falcon?",), temperature=0.7, seed=3, system="Be brief.")
    prompt = prompter(tiny_tokenizer).prompt(question)
    endpoint, body = request("tokens", question, prompt, [], {})
    assert (endpoint, body["prompt"], body["seed"]) == (COMPLETION, prompt.ids, 3)
    endpoint, body = request("messages", question, prompt, [("otter?", "badger.")], {})
    assert endpoint == CHAT
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert json.dumps(body)
