"""Chat formats with explicit labels: the tokens of a conversation, and which of them the model learns to predict.

``longalign`` is the format of the released models: ``[INST]{user}[/INST]{assistant}``, with the tokenizer's prefix,
such as BOS, once at the start and EOS at the end. Each user message and each response is tokenized separately. The
label right after *every* response is EOS, although the input at that position may already be the next turn. A loss mask
cannot express this, so labels are stored explicitly. An EOS after an empty response is not learnt.

``tokenizer_template`` is a chat template: the tokenizer's own, or another. A template whose stop token would not be
learnt is refused.

Text in the data never becomes a control token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from gateau.conversations import Conversation, Turn, UnusableConversation
from gateau.errors import SettingsError
from gateau.prompts import prefix_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
FORMATS = ("longalign", "tokenizer_template")


@dataclass(frozen=True)
class EncodedConversation:
    """Token ids and labels of one conversation, two int32 arrays of shape (n_tokens,).

    ``labels[t]`` is the token that the model should predict for position t from the positions before it, or -100 if
    nothing is learnt there. This is the convention of transformers, which shifts the labels itself.

    Attributes:
        input_ids: the token ids.
        labels: the labels.
        changes: names of the changes made to the conversation.
        pieces: tokens of each piece. Pieces are sequences of their own: positions restart, and none attends to another.
            They share the weight of one sequence. Empty stands for one piece with all tokens.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    changes: tuple[str, ...] = ()
    pieces: tuple[int, ...] = ()

    @property
    def n_tokens(self) -> int:
        """Length in tokens."""
        return len(self.input_ids)

    @property
    def n_targets(self) -> int:
        """Number of labels that are learnt. The first position has no predecessor, so its label never counts."""
        return int(np.count_nonzero(self.labels[1:] != IGNORED))

    def last_pieces(self, max_tokens: int) -> EncodedConversation:
        """Return the last pieces that have at most ``max_tokens`` together, but at least the last one."""
        if len(self.pieces) < 2 or self.n_tokens <= max_tokens:
            return self
        kept = next(
            n for n in range(1, len(self.pieces)) if sum(self.pieces[n:]) <= max_tokens or n == len(self.pieces) - 1
        )
        start, changes = sum(self.pieces[:kept]), (*self.changes, "earlier_turns_left_out")
        return EncodedConversation(self.input_ids[start:], self.labels[start:], changes, self.pieces[kept:])


@dataclass(frozen=True)
class FormatSettings:
    """Settings of a chat format, as in the section ``tokens``.

    Attributes:
        turns: ``all`` or ``last``: the responses that are learnt.
        stop_token: the token that ends a response; None is the tokenizer's EOS.
        chat_template: text of a Jinja template; None is the tokenizer's own. Only for ``tokenizer_template``.
        template_options: variables that the template reads.
    """

    turns: str = "all"
    stop_token: str | None = None
    chat_template: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)


class ChatFormat(ABC):
    """A way to turn conversations into token ids and labels, for one tokenizer."""

    name: str

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: FormatSettings) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        if settings.stop_token is None:
            if tokenizer.eos_token_id is None:
                raise SettingsError(
                    f"{tokenizer.name_or_path}: the tokenizer has no EOS, so no model could learn to stop; set "
                    "tokens.stop_token to the token that ends a response"
                )
            self.stop_id = int(tokenizer.eos_token_id)
        else:
            found = tokenizer.get_vocab().get(settings.stop_token)
            if found is None:
                raise SettingsError(
                    f"tokens.stop_token: {settings.stop_token!r} is not a token of {tokenizer.name_or_path}"
                )
            self.stop_id = int(found)

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


def chat_format(name: str, tokenizer: PreTrainedTokenizerBase, settings: FormatSettings | None = None) -> ChatFormat:
    """Return the format of that name.

    Raises:
        SettingsError: the tokenizer does not support the format or its settings.
    """
    from gateau.template_format import TemplateFormat

    kinds: dict[str, type[ChatFormat]] = {"longalign": LongAlignFormat, "tokenizer_template": TemplateFormat}
    return kinds[name](tokenizer, settings or FormatSettings())


class LongAlignFormat(ChatFormat):
    """The format of the released models. A system message is put before the first user message (``system_merged``)."""

    name = "longalign"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: FormatSettings) -> None:
        super().__init__(tokenizer, settings)
        self._prefix = prefix_ids(tokenizer)

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
        n_tokens = len(self._prefix) + sum(map(len, segments)) + 1
        ids, labels = np.empty(n_tokens, np.int32), np.full(n_tokens, IGNORED, np.int32)
        ids[: len(self._prefix)] = self._prefix
        place, after = len(self._prefix), IGNORED
        first_learnt = len(segments) - 2 if self._settings.turns == "last" else 0
        for number, (prompt, response) in enumerate(zip(segments[::2], segments[1::2], strict=True)):
            labels[place] = after
            ids[place : place + len(prompt)] = prompt
            place += len(prompt)
            ids[place : place + len(response)] = response
            after = IGNORED
            if response and 2 * number >= first_learnt:
                labels[place : place + len(response)], after = response, self.stop_id
            place += len(response)
        ids[place], labels[place] = self.stop_id, after
        return EncodedConversation(ids, labels, conversation.changes)

    def prompt_ids(self, turns: Sequence[Turn], user: str, system: str | None = None) -> list[int]:
        """Return the ids of the prompt, encoded segment by segment as in training, without EOS between turns."""
        turns = [*turns, Turn(user, "")]
        if system is not None:
            turns[0] = Turn(f"{system}\n\n{turns[0].user}", turns[0].assistant)
        texts = [text for turn in turns for text in (_instruction(turn.user), turn.assistant)]
        return self._prefix + [token for segment in encode_texts(self._tokenizer, texts) for token in segment]

    def chat_template(self) -> str:
        """Return a template for other programs.

        They tokenize the rendered text as a whole. For a conversation of one turn, this gives the same tokens.
        """
        prefix = "".join(self._tokenizer.convert_ids_to_tokens(self._prefix))
        start = "{{ bos_token }}" if self._prefix == [self._tokenizer.bos_token_id] else prefix
        return (
            start + "{% set ns = namespace(system='') %}{% for message in messages %}"
            "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + '\n\n' %}"
            "{% elif message['role'] == 'user' %}{{ '[INST]' + ns.system + message['content'] + '[/INST]' }}"
            "{% set ns.system = '' %}"
            "{% elif message['role'] == 'assistant' %}{{ message['content'] }}"
            "{% if loop.last %}{{ eos_token }}{% endif %}{% endif %}{% endfor %}"
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


def check_offsets(tokenizer: PreTrainedTokenizerBase, needed_by: str, advice: str | None = None) -> None:
    """Check that a tokenizer says which characters of a text each token covers.

    Args:
        tokenizer: the tokenizer.
        needed_by: what needs it, for the message.
        advice: what to do if there is no other tokenizer; None is the advice for training.

    Raises:
        SettingsError: the tokenizer is written in Python alone.
    """
    if not tokenizer.is_fast:
        raise SettingsError(
            f"{tokenizer.name_or_path}: the tokenizer is written in Python and does not say which characters a token "
            f"covers, as {needed_by} needs; use a tokenizer with tokenizer.json, or "
            f"{advice or 'set tokens.format: longalign and tokens.over_long: drop'}"
        )


def _instruction(user: str) -> str:
    return f"[INST]{user}[/INST]"


def _merge_system(conversation: Conversation) -> Conversation:
    if conversation.system is None:
        return conversation
    first, *others = conversation.turns
    first = Turn(f"{conversation.system}\n\n{first.user}", first.assistant)
    return replace(conversation, turns=(first, *others), system=None, changes=(*conversation.changes, "system_merged"))
