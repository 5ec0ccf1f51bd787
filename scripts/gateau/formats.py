"""Chat formats with explicit labels: the tokens of a conversation, and which of them the model learns to predict.

``longalign`` is the format of the released models: ``[INST]{user}[/INST]{assistant}``, with BOS once at the start and
EOS at the end. Each user message and each response is tokenized separately. The label right after *every* response is
EOS, although the input at that position may already be the next turn. A loss mask cannot express this, so labels are
stored explicitly. An EOS after an empty response is not learnt.

``tokenizer_template`` is the tokenizer's own chat template. A template whose stop token would not be learnt is refused.

Text in the data never becomes a control token.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from gateau.conversations import Conversation, Turn, UnusableConversation
from gateau.errors import SettingsError
from gateau.prompts import adds_bos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
FORMATS = ("longalign", "tokenizer_template")


@dataclass(frozen=True)
class EncodedConversation:
    """Token ids and labels of one conversation, two int32 arrays of shape (n_tokens,).

    ``labels[t]`` is the token that the model should predict for position t from the positions before it, or -100 if
    nothing is learnt there. This is the convention of transformers, which shifts the labels itself.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    changes: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        """Length in tokens."""
        return len(self.input_ids)

    @property
    def n_targets(self) -> int:
        """Number of labels that are learnt. The first position has no predecessor, so its label never counts."""
        return int(np.count_nonzero(self.labels[1:] != IGNORED))


class ChatFormat(ABC):
    """A way to turn conversations into token ids and labels, for one tokenizer."""

    name: str

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise SettingsError(f"{tokenizer.name_or_path}: the tokenizer has no EOS, so no model could learn to stop")
        self.stop_id = int(tokenizer.eos_token_id)

    @abstractmethod
    def encode_batch(self, conversations: Sequence[Conversation]) -> list[EncodedConversation | UnusableConversation]:
        """Return for each conversation its tokens, or the reason why it cannot be used."""

    @abstractmethod
    def prompt_ids(self, turns: Sequence[Turn], user: str, system: str | None = None) -> list[int]:
        """Return exactly the tokens that training puts before the answer to ``user``, after earlier ``turns``."""

    @abstractmethod
    def chat_template(self) -> str:
        """Return the Jinja template that is exported with a model trained in this format."""

    def encode(self, conversation: Conversation) -> EncodedConversation:
        """Return the tokens of one conversation.

        Raises:
            UnusableConversation: the conversation cannot be trained on.
        """
        outcome = self.encode_batch([conversation])[0]
        if isinstance(outcome, UnusableConversation):
            raise outcome
        return outcome


def chat_format(name: str, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Return the format of that name.

    Raises:
        SettingsError: the tokenizer does not support the format.
    """
    kinds: dict[str, type[ChatFormat]] = {"longalign": LongAlignFormat, "tokenizer_template": TemplateFormat}
    return kinds[name](tokenizer)


class LongAlignFormat(ChatFormat):
    """The format of the released models. A system message is put before the first user message (``system_merged``)."""

    name = "longalign"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        self._bos = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []

    def encode_batch(self, conversations: Sequence[Conversation]) -> list[EncodedConversation | UnusableConversation]:
        """Encode all segments of the batch in one call of the tokenizer."""
        merged = [_merge_system(conversation) for conversation in conversations]
        texts = [
            text
            for conversation in merged
            for turn in conversation.turns
            for text in (_instruction(turn.user), turn.assistant)
        ]
        segments = iter(encode_texts(self._tokenizer, texts))
        return [self._assemble(one, list(islice(segments, 2 * len(one.turns)))) for one in merged]

    def _assemble(self, conversation: Conversation, segments: list[list[int]]) -> EncodedConversation:
        n_tokens = len(self._bos) + sum(map(len, segments)) + 1
        ids, labels = np.empty(n_tokens, np.int32), np.full(n_tokens, IGNORED, np.int32)
        ids[: len(self._bos)] = self._bos
        place, after = len(self._bos), IGNORED
        for prompt, response in zip(segments[::2], segments[1::2], strict=True):
            labels[place] = after
            ids[place : place + len(prompt)] = prompt
            place += len(prompt)
            ids[place : place + len(response)] = labels[place : place + len(response)] = response
            place += len(response)
            after = self.stop_id if response else IGNORED
        ids[place], labels[place] = self.stop_id, after
        return EncodedConversation(ids, labels, conversation.changes)

    def prompt_ids(self, turns: Sequence[Turn], user: str, system: str | None = None) -> list[int]:
        """Return the ids of the prompt, encoded segment by segment as in training, without EOS between turns."""
        turns = [*turns, Turn(user, "")]
        if system is not None:
            turns[0] = Turn(f"{system}\n\n{turns[0].user}", turns[0].assistant)
        texts = [text for turn in turns for text in (_instruction(turn.user), turn.assistant)]
        return self._bos + [token for segment in encode_texts(self._tokenizer, texts) for token in segment]

    def chat_template(self) -> str:
        """Return a template for other programs.

        They tokenize the rendered text as a whole. For a conversation of one turn, this gives the same tokens.
        """
        bos = "{{ bos_token }}" if self._bos else ""
        return (
            bos + "{% set ns = namespace(system='') %}{% for message in messages %}"
            "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\n\n' %}"
            "{% elif message['role'] == 'user' %}{{ '[INST]' + ns.system + message['content'] + '[/INST]' }}"
            "{% set ns.system = '' %}"
            "{% elif message['role'] == 'assistant' %}{{ message['content'] }}"
            "{% if loop.last %}{{ eos_token }}{% endif %}{% endif %}{% endfor %}"
        )


class TemplateFormat(ChatFormat):
    """The tokenizer's own chat template. The model learns the text that the template adds to each prompt."""

    name = "tokenizer_template"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        if not tokenizer.chat_template:
            raise SettingsError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; use the longalign format"
            )
        added = tokenizer.added_tokens_decoder.values()
        self._control = sorted({*map(str, tokenizer.all_special_tokens), *(str(t) for t in added if t.special)})
        self.encode(Conversation((Turn("a question", "an answer"), Turn("another", "more"))))

    def encode_batch(self, conversations: Sequence[Conversation]) -> list[EncodedConversation | UnusableConversation]:
        """Encode one rendered conversation at a time, because finding the responses needs character offsets."""
        outcomes: list[EncodedConversation | UnusableConversation] = []
        for conversation in conversations:
            try:
                outcomes.append(self._encode(conversation))
            except UnusableConversation as reason:
                outcomes.append(reason)
        return outcomes

    def _encode(self, conversation: Conversation) -> EncodedConversation:
        self._refuse_control_tokens(
            [conversation.system or "", *(text for turn in conversation.turns for text in (turn.user, turn.assistant))]
        )
        rendered, spans = self._rendered_turns(_system_messages(conversation.system), conversation.turns)
        ids, starts, stops = self._ids(rendered, [first for first, _ in spans])
        labels = np.full(len(ids), IGNORED, np.int32)
        for first, last in spans:
            inside = np.flatnonzero((first <= starts) & (stops <= last) & (starts < stops))
            ends = inside[ids[inside] == self.stop_id]
            if not len(ends):
                raise SettingsError(
                    "the chat template does not end a response with the tokenizer's EOS, so a model trained on it "
                    "would never stop; use the longalign format, or set the tokenizer's eos_token to the template's "
                    "stop token"
                )
            # text that the template writes after the stop token is not learnt
            learnt = inside[inside <= ends[-1]]
            labels[learnt] = ids[learnt]
        return EncodedConversation(ids, labels, conversation.changes)

    def prompt_ids(self, turns: Sequence[Turn], user: str, system: str | None = None) -> list[int]:
        """Return the ids of the rendered template up to the generation prompt.

        Raises:
            UnusableConversation: a text contains a control token.
        """
        self._refuse_control_tokens(
            [system or "", user, *(text for turn in turns for text in (turn.user, turn.assistant))]
        )
        messages = _system_messages(system)
        _, spans = self._rendered_turns(messages, turns)
        messages.append({"role": "user", "content": user})
        ids, _, _ = self._ids(self._render(messages, add_generation_prompt=True), [first for first, _ in spans])
        return [int(token) for token in ids]

    def chat_template(self) -> str:
        """Return the tokenizer's own template."""
        return str(self._tokenizer.chat_template)

    def _rendered_turns(
        self, messages: list[dict[str, str]], turns: Sequence[Turn]
    ) -> tuple[str, list[tuple[int, int]]]:
        """Append all turns to ``messages``; return the rendered text and the (start, stop) of non-empty responses."""
        spans: list[tuple[int, int]] = []
        rendered = ""
        for turn in turns:
            messages.append({"role": "user", "content": turn.user})
            prompt = self._render(messages, add_generation_prompt=True)
            messages.append({"role": "assistant", "content": turn.assistant})
            rendered = self._render(messages, add_generation_prompt=False)
            if not rendered.startswith(prompt):
                raise SettingsError(
                    f"{self._tokenizer.name_or_path}: the chat template does not put the response right after the "
                    "generation prompt, so its tokens cannot be told apart; use the longalign format"
                )
            if turn.assistant:
                spans.append((len(prompt), len(rendered)))
        return rendered, spans

    def _ids(self, rendered: str, responses: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the ids of a rendered text and the character offsets at which each starts and stops.

        A token may cover the end of a prompt and the beginning of its response, for example two newlines. The text is
        then split there before tokenizing, because the model also gets its prompt without the response.
        """
        ids, starts, stops = self._piece(rendered, 0)
        if any(((starts < first) & (first < stops)).any() for first in responses):
            cuts = [0, *responses, len(rendered)]
            pieces = [self._piece(rendered[start:stop], start) for start, stop in itertools.pairwise(cuts)]
            ids, starts, stops = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return ids, starts, stops

    def _piece(self, text: str, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts, stops = start + np.array(encoded.offset_mapping, np.int64).reshape(-1, 2).T
        return np.array(encoded.input_ids, np.int32), starts, stops

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        )

    def _refuse_control_tokens(self, texts: Sequence[str]) -> None:
        if any(token in text for token in self._control for text in texts):
            raise UnusableConversation(
                "control_token_in_text",
                "the row holds text that the template would take for a control token; mend the row",
            )


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, encoded separately; text that looks like a control token is encoded as text.

    A fast tokenizer is called directly, because the wrapper of transformers takes as long as tokenizing short texts.
    """
    if not tokenizer.is_fast:
        ids: list[list[int]] = tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
        ).input_ids
        return ids
    backend: Any = tokenizer.backend_tokenizer
    before, backend.encode_special_tokens = backend.encode_special_tokens, True
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before


def _instruction(user: str) -> str:
    return f"[INST]{user}[/INST]"


def _system_messages(system: str | None) -> list[dict[str, str]]:
    return [] if system is None else [{"role": "system", "content": system}]


def _merge_system(conversation: Conversation) -> Conversation:
    if conversation.system is None:
        return conversation
    first, *others = conversation.turns
    first = Turn(f"{conversation.system}\n\n{first.user}", first.assistant)
    return replace(conversation, turns=(first, *others), system=None, changes=(*conversation.changes, "system_merged"))
