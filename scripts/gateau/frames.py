"""Choose the frame around the texts of a sample: the prompt template, or what a chat template writes around them.

A chat template is rendered once, with marks in place of the texts. What it writes up to the response is the frame; what
follows the response is not scored. The frame is stored in the index, so that all passes and both models use the same.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.conversations import UnusableConversation
from gateau.errors import SettingsError
from gateau.model_files import ModelSpec
from gateau.prompts import DEFAULT_TEMPLATE, PromptTemplate
from gateau.templates import ChatTemplate, control_tokens, messages_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

FORMATS = ("plain", "chat_template", "auto")
_CONTEXT, _INSTRUCTION, _RESPONSE = "GateauContextMark", "GateauInstructionMark", "GateauResponseMark"


def choose_frame(
    name: str, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, prompt: str, options: Mapping[str, Any]
) -> PromptTemplate:
    """Return the frame of the format ``name`` for models.long.

    Args:
        name: one of :data:`FORMATS`. ``auto`` takes the chat template if its stop token is among the EOS ids of the
            generation config and ``prompt`` is the default one, and plain otherwise; the log says which and why.
        spec: models.long.
        tokenizer: its tokenizer.
        prompt: prompt template of the format plain.
        options: variables of the chat template.

    Raises:
        SettingsError: the prompt template or, with the format chat_template, the chat template cannot be used.
    """
    if name == "plain":
        return PromptTemplate.parse(prompt)
    if name == "chat_template":
        return chat_frame(tokenizer, options)[0]
    if prompt != DEFAULT_TEMPLATE:
        logger.info("scoring.format auto: plain (scoring.prompt is set)")
        return PromptTemplate.parse(prompt)
    try:
        frame, after = chat_frame(tokenizer, options)
    except SettingsError as error:
        logger.info("scoring.format auto: plain (%s)", error)
        return PromptTemplate.parse(prompt)
    stop, ends = _first_control_token(tokenizer, after), _eos_ids(spec)
    if stop is None or tokenizer.convert_tokens_to_ids(stop) not in ends:
        logger.info("scoring.format auto: plain (the template ends with %s, generation with the ids %s)", stop, ends)
        return PromptTemplate.parse(prompt)
    logger.info("scoring.format auto: chat_template (its stop token %s ends the model's generation)", stop)
    return frame


def chat_frame(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> tuple[PromptTemplate, str]:
    """Return the frame that the tokenizer's chat template writes, and the text that follows the response.

    Raises:
        SettingsError: there is no template, it changes or repeats the texts, or its generation prompt is not what
            precedes a response.
    """
    where = f"scoring.format chat_template: {tokenizer.name_or_path}"
    if not tokenizer.chat_template:
        raise SettingsError(f"{where} has no chat template; set scoring.format: plain")
    template = ChatTemplate(tokenizer, options=options)
    messages = messages_of([(f"{_CONTEXT}\n\n{_INSTRUCTION}", _RESPONSE)])
    try:
        rendered = template.render(messages)
        prompt = template.render(messages[:1], generation_prompt=True)
    except UnusableConversation as error:
        raise SettingsError(
            f"{where}: the template refuses a conversation of one turn ({error.__cause__}); set "
            "scoring.template_options to what it needs, or set scoring.format: plain"
        ) from error
    pieces = re.split("(" + "|".join((_CONTEXT, _INSTRUCTION, _RESPONSE)) + ")", rendered)
    if pieces[1::2] != [_CONTEXT, _INSTRUCTION, _RESPONSE] or _first_control_token(tokenizer, pieces[2]):
        raise SettingsError(
            f"{where}: the template does not write context, instruction and response unchanged, once and in this "
            "order; correct the template, or set scoring.format: plain"
        )
    head, between, before, after = pieces[::2]
    if "".join(pieces[:5]) != prompt:
        wanted = prompt.split(_INSTRUCTION)[-1]
        raise SettingsError(
            f"{where}: the template puts {before!r} before a response, but {wanted!r} where the model is to answer; "
            "set scoring.template_options so that both agree (for example enable_thinking: false), or set "
            "scoring.format: plain"
        )
    control = _first_control_token(tokenizer, before)
    start = len(before) if control is None else before.index(control)
    return PromptTemplate(head, between, before[:start], before[start:], is_chat=True), after


def _first_control_token(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    longest_first = sorted(control_tokens(tokenizer), key=len, reverse=True)
    found = re.search("|".join(map(re.escape, longest_first)), text) if longest_first else None
    return found and found[0]


def _eos_ids(spec: ModelSpec) -> list[int]:
    """Return the EOS ids of the model's generation config; empty if there is none."""
    from transformers.utils.hub import cached_file

    file = cached_file(
        spec.location,
        "generation_config.json",
        revision=spec.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    found = json.loads(Path(file).read_text(encoding="utf-8")).get("eos_token_id") if file else None
    return [] if found is None else found if isinstance(found, list) else [found]
