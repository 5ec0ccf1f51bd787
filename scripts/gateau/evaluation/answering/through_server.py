"""Answers of a model behind an OpenAI-compatible server (vLLM, SGLang, transformers serve), with the same prompts.

With ``send: messages``, the server applies the chat template of the exported model. Its count of prompt tokens is
compared with this project's, because only the count shows that it uses another template. With ``send: tokens``, token
ids are sent to the completions endpoint, for servers that accept them. Questions without a chat format are sent to that
endpoint as text in both cases.

Servers sample in another way than the model in process, so answers with a temperature differ between the two.
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
from gateau.evaluation.client.start import Start
from gateau.evaluation.client.started import StartedServer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelServer:
    """The server of a model, and whether it is sent messages or token ids."""

    settings: ServerSettings
    send: Literal["messages", "tokens"] = "messages"

    @classmethod
    def from_config(cls, value: Mapping[str, Any]) -> ModelServer:
        """Return the server that an entry of ``evaluate.servers`` describes."""
        names = {field.name for field in fields(ServerSettings)}
        given = {name: option for name, option in value.items() if name in names and option is not None}
        # the judge's key is never sent unless it is named
        start = Start.from_config(value)
        # of a server that this job starts, the answers are known by what is started, wherever the model lies
        name = {"model": start.key} if start else {}
        settings = ServerSettings(**{"key_variable": "MODEL_SERVER_KEY", **given, **name})
        return cls(settings, value.get("send", "messages"))


def answer_through(
    server: ModelServer,
    questions: Sequence[Question],
    prompter: Prompter,
    identity: Mapping[str, Any],
    cache: str | Path,
    started: StartedServer | None = None,
) -> list[Generation]:
    """Return the answers in the questions' order.

    Args:
        server: the model's server.
        questions: what is asked.
        prompter: makes the model's prompts.
        identity: names the weights behind the served name. The cache keeps answers of different weights apart.
        cache: folder of cached answers.
        started: the server, if this job starts it.

    Raises:
        ServerError: the server refuses or does not answer. Answers that have arrived are cached.
        SettingsError: messages would be sent for a model without a chat format, but a chat server adds its template.
    """
    if server.send == "messages" and prompter.format_name == "plain" and any(one.wrapped for one in questions):
        raise SettingsError(
            "the model is asked without a chat format (plain), but a chat server would add one; set send: tokens for "
            "the model in evaluate.servers, or set evaluate.generate.format"
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
                    answered.append(_turn(question, prompt, None, prompter))
                    turns.append((prompt.user, ""))
                    continue
                endpoint, body = request(server.send, question, prompt, turns, prompter.template_options)
                answer = await ask(server.settings.call(endpoint, body, salt))
                if not answer.usage.estimated and answer.usage.prompt_tokens != len(prompt.ids):
                    differing.append(f"{question.item}: {answer.usage.prompt_tokens} instead of {len(prompt.ids)}")
                answered.append(_turn(question, prompt, answer, prompter))
                turns.append((prompt.user, answered[-1].text))
            return Generation(question.benchmark, question.item, tuple(answered))

        return Job(question.item, run)

    outcome = run_jobs([job(question) for question in questions], server.settings, AnswerCache(cache), started=started)
    if differing:
        logger.warning(
            "in %d prompts, the server counts other numbers of tokens than the model's chat format gives (%s); check "
            "that it serves this model with its chat template, or set send: tokens", len(differing), differing[0],
        )  # fmt: skip
    return outcome.results


def request(
    send: str, question: Question, prompt: Prompt, turns: Turns, template_options: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return endpoint and body of one question, without the model's name."""
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
    if template_options:
        body["chat_template_kwargs"] = dict(template_options)
    return CHAT, {**body, "messages": [*messages, {"role": "user", "content": prompt.user}]}


def _turn(question: Question, prompt: Prompt, answer: Answer | None, prompter: Prompter) -> AnsweredTurn:
    cut = "length" if prompt.max_new_tokens == prompter.max_new_tokens(question) else "window"
    marks, reasoning, text = prompter.reasoning(question), "", ""
    if answer:
        reasoning, text = answer.reasoning, answer.text
        if marks and not reasoning:
            # an answer without marks is whole, because some servers leave out an empty reasoning
            is_cut = answer.finish_reason == "length"
            reasoning, text = marks.split(prompter.end_of(prompt) if is_cut else "", answer.text)
    return AnsweredTurn(
        text=text,
        prompt_sha256=prompt_sha256(prompt.ids),
        prompt_tokens=len(prompt.ids),
        new_tokens=answer.usage.completion_tokens if answer else 0,
        truncated_tokens=prompt.truncated_tokens,
        control_tokens=prompt.control_tokens,
        finish_reason=cut if answer is None or answer.finish_reason == "length" else "stop",
        reasoning=reasoning,
    )
