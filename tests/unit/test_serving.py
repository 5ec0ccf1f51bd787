"""Answers through a real OpenAI-compatible server (``transformers serve``): those of the model in process."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gateau.errors import SettingsError
from gateau.evaluation.answering.generation import Generator
from gateau.evaluation.answering.prompting import Prompter
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.answering.through_server import ModelServer, answer_through, request
from gateau.evaluation.client.calls import CHAT, COMPLETION
from gateau.evaluation.client.server import ServerSettings
from gateau.formats import chat_format

from helpers import TINY_PAIR

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
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("exported")
    tokenizer = AutoTokenizer.from_pretrained(TINY_PAIR / "long")
    tokenizer.chat_template = chat_format("longalign", tokenizer).chat_template()
    tokenizer.save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(TINY_PAIR / "long", dtype=torch.float32)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def served(exported):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).parent / "transformers"), "serve", str(exported), "--host", "127.0.0.1",
        "--port", str(port), "--device", "cpu",
    ]  # fmt: skip
    with (exported / "serve.log").open("w") as log:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, exported / "serve.log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def _wait_for(url, server, log):
    end = time.monotonic() + 180
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(log.read_text())


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
    call = ModelServer.from_config(given).settings.call(*request("messages", question, prompt, []))
    assert call.body["min_p"] == 0.1
    assert "top_p" not in call.body


def test_token_ids_are_sent_where_the_server_takes_them(tiny_tokenizer):
    question = Question("b", "1", ("falcon?",), temperature=0.7, seed=3, system="Be brief.")
    prompt = prompter(tiny_tokenizer).prompt(question)
    endpoint, body = request("tokens", question, prompt, [])
    assert (endpoint, body["prompt"], body["seed"]) == (COMPLETION, prompt.ids, 3)
    endpoint, body = request("messages", question, prompt, [("otter?", "badger.")])
    assert endpoint == CHAT
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert json.dumps(body)
