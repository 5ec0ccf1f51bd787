"""Chat with a causal language model: prompts as in training, streamed text, and a conversation that fits the window.

There are three formats: ``longalign`` and ``tokenizer_template`` as in :mod:`gateau.formats`, and ``plain``, where the
model continues a text. Sampling and the key-value cache are those of transformers. The common beginning of two
successive prompts, such as a long document, is computed only once.

Batches, tools and images are not supported.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer
from transformers.generation.streamers import BaseStreamer
from transformers.utils.hub import cached_file

from gateau.conversations import CHAT_FORMATS, Turn, UnusableConversation
from gateau.errors import DataError, ModelError, SettingsError
from gateau.formats import chat_format, encode_texts
from gateau.model_files import ModelSpec
from gateau.models import config_window, input_device
from gateau.prompts import prefix_ids
from gateau.template_format import TemplatePrompts

_RECORD = "gateau.json"


def choose_format(requested: str, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the name of the chat format to use.

    ``auto`` takes the format recorded in the model's gateau.json, else the tokenizer's chat template, else plain.

    Raises:
        ModelError: gateau.json is not a file as the rule ``export`` writes it.
        SettingsError: ``tokenizer_template`` is requested, but the tokenizer has no chat template.
    """
    if requested == "auto":
        recorded = _record(spec).get("chat_format")
        return recorded or ("tokenizer_template" if tokenizer.chat_template else "plain")
    if requested == "tokenizer_template" and not tokenizer.chat_template:
        raise SettingsError(f"{spec.path}: the tokenizer has no chat template; use --format longalign or plain")
    return requested


def recorded_template_options(spec: ModelSpec) -> dict[str, Any]:
    """Return the options of the chat template with which the model was trained here; empty for other models.

    Raises:
        ModelError: gateau.json is not a file as the rule ``export`` writes it.
    """
    return dict(_record(spec).get("template_options", {}))


def _record(spec: ModelSpec) -> dict[str, Any]:
    """Return the content of the model's gateau.json, or an empty mapping if it has none."""
    file = cached_file(
        spec.location,
        _RECORD,
        revision=spec.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return {}
    try:
        record = dict(json.loads(Path(file).read_text(encoding="utf-8")))
        recorded = record["chat_format"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file}: no JSON object with chat_format; export the model again or set --format") from error
    if recorded not in CHAT_FORMATS:
        raise ModelError(f"{file}: unknown chat_format {recorded!r}; set --format to one of {', '.join(CHAT_FORMATS)}")
    return record


def prompt_ids(
    format_name: str,
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[tuple[str, str]],
    user: str,
    system: str | None,
    template_options: Mapping[str, Any] | None = None,
) -> list[int]:
    """Return the token ids of a prompt, up to where the answer to ``user`` begins.

    Only ``tokenizer_template`` produces control tokens inside the prompt. The other formats encode text that looks like
    a control token as ordinary text.

    Args:
        format_name: ``longalign``, ``tokenizer_template`` or ``plain``.
        tokenizer: the model's tokenizer.
        turns: earlier turns, each a (question, answer) pair.
        user: the question to answer.
        system: the system message, or None.
        template_options: variables that the chat template reads.

    Raises:
        DataError: a text contains a control token of the chat template.
        SettingsError: the template cannot render the conversation, for example because it has no system role.
    """
    if format_name == "longalign":
        return chat_format(format_name, tokenizer).prompt_ids([Turn(*turn) for turn in turns], user, system)
    if format_name == "tokenizer_template":
        return _template_ids(TemplatePrompts(tokenizer, None, template_options), turns, user, system)
    parts = [*([] if system is None else [system]), *(question + answer for question, answer in turns), user]
    return prefix_ids(tokenizer) + encode_texts(tokenizer, ["\n\n".join(parts)])[0]


def _template_ids(
    prompts: TemplatePrompts, turns: Sequence[tuple[str, str]], user: str, system: str | None
) -> list[int]:
    """Return the ids of the rendered template.

    Training refuses a template that does not teach the model to stop; chatting accepts it.
    """
    texts = (system or "", user, *(text for turn in turns for text in turn))
    if found := sorted(token for token in prompts.template.control for text in texts if token in text):
        raise DataError(
            f"the text holds {found[0]}, which the chat template would take for a control token; take it out, or "
            "/reset if it stands in the conversation so far"
        )
    try:
        return prompts.prompt_ids(turns, user, system)
    except UnusableConversation as reason:
        raise SettingsError(f"{reason.advice}; leave out --system, or set --format") from reason


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen. Temperature 0 always takes the most likely token."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0

    def generation_config(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
        """Return the model's generation config (stop tokens, repetition penalty, …) with these sampling settings."""
        config = copy.deepcopy(model.generation_config) or GenerationConfig()
        configured = config.eos_token_id
        stops = set(configured if isinstance(configured, list) else [configured]) | {tokenizer.eos_token_id}
        config.eos_token_id = sorted(stop for stop in stops if stop is not None) or None
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id if config.eos_token_id is None else config.eos_token_id[0]
        config.max_new_tokens, config.max_length = self.max_new_tokens, None
        config.do_sample = self.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p, config.top_k = self.temperature, self.top_p, 0
        else:  # neutral values, because transformers would replace None by the model's own
            config.temperature, config.top_p, config.top_k = 1.0, 1.0, 50
        return config


class WholeText(BaseStreamer):
    """A streamer that shows text once no later token can change it.

    A character that consists of several tokens is shown when its last token has arrived. Each call decodes from the
    start of the piece before the last one, so that spaces between tokens come out as in the whole text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, show: Callable[[str], None]) -> None:
        self._tokenizer, self._show = tokenizer, show
        self.ids: list[int] = []
        self.text = ""
        self.first_at: float | None = None
        self._is_prompt = True
        self._from, self._shown = 0, 0

    def put(self, value: torch.Tensor) -> None:
        """Take the next ids. The first call receives the prompt and is ignored."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self.first_at = self.first_at or time.monotonic()
        self.ids += value.flatten().tolist()
        self._advance(finished=False)

    def end(self) -> None:
        """Show the remaining text, even if its last character is incomplete."""
        self._advance(finished=True)

    def _advance(self, finished: bool) -> None:
        known, longer = self._decode(self.ids[self._from : self._shown]), self._decode(self.ids[self._from :])
        if longer.endswith("\ufffd") and not finished:
            return
        self._from, self._shown = self._shown, len(self.ids)
        if piece := longer[len(known) :]:
            self.text += piece
            self._show(piece)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class Prompt:
    """A question ready for the model: the ids of the whole prompt, and the earlier turns in it."""

    question: str
    ids: list[int]
    turns: list[tuple[str, str]]
    dropped_turns: int


@dataclass(frozen=True)
class Answer:
    """An answer and its speed. ``reused_tokens`` of the prompt came from the cache of an earlier answer."""

    text: str
    prompt_tokens: int
    reused_tokens: int
    prompt_seconds: float  # time to first token, in seconds
    tokens: int
    seconds: float  # time from the first token to the last, in seconds
    interrupted: bool


@dataclass
class ChatSession:
    """A conversation with a model.

    ``document`` is put before the first question that is still part of the prompt, separated by a blank line.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    format_name: str
    sampling: Sampling
    system: str | None = None
    document: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    turns: list[tuple[str, str]] = field(default_factory=list)
    _cache: DynamicCache | None = field(default=None, repr=False)
    _cached_ids: list[int] = field(default_factory=list, repr=False)

    def prepare(self, question: str) -> Prompt:
        """Return the prompt for a question, without the oldest turns if prompt and answer exceed the window.

        Raises:
            SettingsError: the window is too small even without earlier turns; or see :func:`prompt_ids`.
            DataError: see :func:`prompt_ids`.
        """
        window = config_window(self.model.config)
        for dropped in range(len(self.turns) + 1):
            turns = self.turns[dropped:]
            ids = self._ids(turns, question)
            if window is None or len(ids) + self.sampling.max_new_tokens <= window:
                return Prompt(question, ids, turns, dropped)
        raise SettingsError(
            f"the prompt has {len(ids)} tokens and the answer may have {self.sampling.max_new_tokens} "
            f"(--max-new-tokens), but the model's window is {window}: lower --max-new-tokens, shorten the question or "
            "the document, or take a model with a longer window"
        )

    def answer(self, prompt: Prompt, show: Callable[[str], None]) -> Answer:
        """Generate an answer, pass its text to ``show`` as it arrives, and remember the turn.

        Ctrl-C ends the answer early; the text so far is kept.
        """
        started = time.monotonic()
        cache, reused = self._reusable_cache(prompt.ids)
        stream = WholeText(self.tokenizer, show)
        ids = torch.tensor([prompt.ids], device=input_device(self.model))
        generate: Any = self.model.generate  # mypy takes it for an attribute of a module
        interrupted = False
        try:
            with torch.inference_mode():
                generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=self.sampling.generation_config(self.model, self.tokenizer),
                    past_key_values=cache,
                    streamer=stream,
                )
        except KeyboardInterrupt:
            interrupted = True
            self._cache = None  # an interrupted cache may differ in length between layers
            stream.end()
        else:
            self._keep_cache(cache, prompt.ids + stream.ids)
        self.turns = [*prompt.turns, (prompt.question, stream.text)] if stream.text else list(prompt.turns)
        finished = time.monotonic()
        first_at = stream.first_at or finished
        return Answer(
            text=stream.text,
            prompt_tokens=len(prompt.ids),
            reused_tokens=reused,
            prompt_seconds=first_at - started,
            tokens=len(stream.ids),
            seconds=finished - first_at,
            interrupted=interrupted,
        )

    def _ids(self, turns: Sequence[tuple[str, str]], question: str) -> list[int]:
        if self.document is not None and turns:
            (first, answer), *others = turns
            turns = [(f"{self.document}\n\n{first}", answer), *others]
        elif self.document is not None:
            question = f"{self.document}\n\n{question}"
        return prompt_ids(self.format_name, self.tokenizer, turns, question, self.system, self.template_options)

    def _reusable_cache(self, ids: Sequence[int]) -> tuple[DynamicCache, int]:
        """Return the cache, cropped to the tokens that it shares with a prompt, and their number.

        The last token of the prompt is never part of it, because the model must compute at least one.
        """
        if self._cache is None:
            return DynamicCache(config=self.model.config), 0
        pairs = zip(self._cached_ids, ids[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        cache, self._cache = self._cache, None
        cache.crop(shared - len(self._cached_ids))
        return cache, shared

    def _keep_cache(self, cache: DynamicCache, ids: list[int]) -> None:
        """Keep the cache if every layer can be cropped. Layers with a sliding window cannot."""
        length = cache.get_seq_length()
        if length <= len(ids) and all(type(layer) is DynamicLayer for layer in cache.layers):
            self._cache, self._cached_ids = cache, ids[:length]


def read_text(path: str) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        DataError: the file has another encoding.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}); convert it first") from error
