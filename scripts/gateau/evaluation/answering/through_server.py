"""Answers of a model behind an OpenAI-compatible server (vLLM, SGLang, transformers serve): the same prompts and rows.

``send: messages`` leaves the chat template to the server, which takes it from the model as exported; the server's count
of prompt tokens is compared with ours, because another template would show there and nowhere else. ``send: tokens``
sends the very token ids to the completions endpoint, for servers that take them. Questions without a chat format go to
that endpoint either way, as text.

Tokens are not drawn as they are in process, so answers with a temperature differ between the two.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from gateau.errors import SettingsError
from gateau.evaluation.answering.generation import prompt_sha256
from gateau.evaluation.answering.prompting import Prompt, Prompter, Turns
from gateau.evaluation.answering.questions import AnsweredTurn, Generation, Question
from gateau.evaluation.client.calls import CHAT, COMPLETION, Answer, AnswerCache
from gateau.evaluation.client.jobs import Ask, Job, run_jobs
from gateau.evaluation.client.server import ServerSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelServer:
    """Where a model is served, and whether it is sent messages or token ids."""

    settings: ServerSettings
    send: Literal["messages", "tokens"] = "messages"

    @classmethod
    def from_config(cls, value: Mapping[str, Any]) -> ModelServer:
        """From an entry of ``evaluate.servers``."""
        names = {field.name for field in fields(ServerSettings)}
        given = {name: option for name, option in value.items() if name in names}
        # never the judge's key unasked
        settings = ServerSettings(**{"key_variable": "MODEL_SERVER_KEY", **given})
        return cls(settings, value.get("send", "messages"))


def answer_through(
    server: ModelServer,
    questions: Sequence[Question],
    prompter: Prompter,
    identity: Mapping[str, Any],
    cache: str | Path,
) -> list[Generation]:
    """Answers in the questions' order. ``identity`` names the weights behind the served name, for the cache.

    Raises:
        ServerError: the server refuses or does not answer; what was answered is cached.
        SettingsError: messages are to be sent for a model that is asked plainly: a chat server adds its template.
    """
    if server.send == "messages" and prompter.format_name == "plain" and any(one.wrapped for one in questions):
        raise SettingsError(
            "the model is asked without a chat format (plain), which a chat server would add; set send: tokens for "
            "it in evaluate.servers, or evaluate.generate.format"
        )
    salt = repr(sorted(identity.items()))
    differing: list[str] = []

    def job(question: Question) -> Job[Generation]:
        async def run(ask: Ask) -> Generation:
            turns: list[tuple[str, str]] = []
            answered = []
            for _ in question.users:
                prompt = prompter.prompt(question, turns)
                if not prompt.max_new_tokens:
                    answered.append(_turn(question, prompt, None))
                    turns.append((prompt.user, ""))
                    continue
                endpoint, body = request(server.send, question, prompt, turns)
                answer = await ask(server.settings.call(endpoint, body, salt))
                if not answer.usage.estimated and answer.usage.prompt_tokens != len(prompt.ids):
                    differing.append(f"{question.item}: {answer.usage.prompt_tokens} instead of {len(prompt.ids)}")
                answered.append(_turn(question, prompt, answer))
                turns.append((prompt.user, answer.text))
            return Generation(question.benchmark, question.item, tuple(answered))

        return Job(question.item, run)

    outcome = run_jobs([job(question) for question in questions], server.settings, AnswerCache(cache))
    if differing:
        logger.warning(
            "the server counts other prompt tokens than the model's chat format gives, in %d prompts (%s): see that it "
            "serves this very model with its chat template, or set send: tokens", len(differing), differing[0],
        )  # fmt: skip
    return outcome.results


def request(send: str, question: Question, prompt: Prompt, turns: Turns) -> tuple[str, dict[str, Any]]:
    """Endpoint and body of one question, the model's name left out."""
    body: dict[str, Any] = {"temperature": question.temperature, "max_tokens": prompt.max_new_tokens, "top_p": 1.0}
    if question.temperature > 0:
        body["seed"] = question.seed
    if question.stop_at_newline:
        body["stop"] = ["\n"]
    if send == "tokens":
        return COMPLETION, {**body, "prompt": prompt.ids}
    if not question.wrapped:
        return COMPLETION, {**body, "prompt": prompt.user}
    messages = [] if question.system is None else [{"role": "system", "content": question.system}]
    for user, answer in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return CHAT, {**body, "messages": [*messages, {"role": "user", "content": prompt.user}]}


def _turn(question: Question, prompt: Prompt, answer: Answer | None) -> AnsweredTurn:
    cut = "length" if prompt.max_new_tokens == question.max_new_tokens else "window"
    return AnsweredTurn(
        text=answer.text if answer else "",
        prompt_sha256=prompt_sha256(prompt.ids),
        prompt_tokens=len(prompt.ids),
        new_tokens=answer.usage.completion_tokens if answer else 0,
        truncated_tokens=prompt.truncated_tokens,
        control_tokens=prompt.control_tokens,
        finish_reason=cut if answer is None or answer.finish_reason == "length" else "stop",
    )
