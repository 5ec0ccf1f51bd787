"""Chat formats with explicit labels: which tokens a conversation becomes, and which of them are learnt.

``longalign`` is the format of the released models: ``[INST]{user}[/INST]{assistant}``, BOS once, EOS at the end, each
response encoded as a segment of its own. The label right after *every* response is EOS, although in mid-conversation
the input there is already the next turn; a loss mask cannot say that, so labels are written out. An EOS after an empty
response is not learnt.

``tokenizer_template`` is the chat template that the tokenizer brings. It is refused when its stop token would not be
learnt.

Text of the data never becomes a control token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gateau.errors import SettingsError
from gateau.prompts import adds_bos
from gateau.training.conversations import Conversation, Turn, UnusableConversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True)
class EncodedConversation:
    """Token ids and labels of equal length.

    ``labels[t]`` is the token that the model should predict for position t from the positions before it (the convention
    of transformers, which shifts them itself), or -100 where nothing is learnt.
    """

    input_ids: list[int]
    labels: list[int]
    changes: tuple[str, ...] = ()

    @property
    def n_targets(self) -> int:
        """Labels that are learnt. The first position predicts nothing and never has one."""
        return sum(label != IGNORED for label in self.labels)


Encode = Callable[[Conversation], EncodedConversation]


def longalign_format(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """The released format for a tokenizer. A system message goes in front of the first user turn (``system_merged``).

    Raises:
        SettingsError: the tokenizer has no EOS to stop at.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise SettingsError(f"{tokenizer.name_or_path}: the tokenizer has no EOS, so no model could learn to stop")
    bos = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []

    def encode(conversation: Conversation) -> EncodedConversation:
        conversation = _merge_system(conversation)
        ids, labels, after = list(bos), [IGNORED] * len(bos), IGNORED
        for turn in conversation.turns:
            prompt = _text_ids(tokenizer, f"[INST]{turn.user}[/INST]")
            response = _text_ids(tokenizer, turn.assistant) if turn.assistant else []
            ids += prompt + response
            labels += [after, *[IGNORED] * (len(prompt) - 1), *response]
            after = eos if response else IGNORED
        return EncodedConversation([*ids, eos], [*labels, after], conversation.changes)

    return encode


def template_format(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """The tokenizer's own chat template. Learnt is what the template adds to the prompt for each response.

    Raises:
        SettingsError: there is no template, it does not render a conversation as the beginning of a longer one, or the
            end of a response would not be learnt.
    """
    if not tokenizer.chat_template:
        raise SettingsError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; use the longalign format")
    stops = {tokenizer.eos_token_id}

    def encode(conversation: Conversation) -> EncodedConversation:
        messages: list[dict[str, str]] = []
        if conversation.system is not None:
            messages.append({"role": "system", "content": conversation.system})
        spans: list[tuple[int, int]] = []
        rendered = ""
        for turn in conversation.turns:
            messages.append({"role": "user", "content": turn.user})
            prompt = _render(tokenizer, messages, add_generation_prompt=True)
            messages.append({"role": "assistant", "content": turn.assistant})
            rendered = _render(tokenizer, messages, add_generation_prompt=False)
            if not rendered.startswith(prompt):
                raise SettingsError(
                    f"{tokenizer.name_or_path}: the chat template does not put the response right after the generation "
                    "prompt, so its tokens cannot be told apart; use the longalign format"
                )
            if turn.assistant:
                spans.append((len(prompt), len(rendered)))
        ids, offsets = _rendered_ids(tokenizer, rendered, conversation)
        labels = [
            token if any(first <= start and stop <= last and start < stop for first, last in spans) else IGNORED
            for token, (start, stop) in zip(ids, offsets, strict=True)
        ]
        labels = _up_to_stop(ids, labels, offsets, spans, stops)
        return EncodedConversation(ids, labels, conversation.changes)

    encode(Conversation((Turn("a question", "an answer"), Turn("another", "more"))))
    return encode


def _up_to_stop(
    ids: list[int], labels: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]], stops: set[Any]
) -> list[int]:
    """Labels of each response cut after its stop token: what a template writes behind it is not the model's to say."""
    labels = list(labels)
    for first, last in spans:
        inside = [place for place, (start, stop) in enumerate(offsets) if first <= start and stop <= last]
        ends = [place for place in inside if ids[place] in stops]
        if not ends:
            raise SettingsError(
                "the chat template does not end a response with the tokenizer's EOS, so a model trained on it would "
                "never stop; use the longalign format, or set the tokenizer's eos_token to the template's stop token"
            )
        for place in inside:
            if place > ends[-1]:
                labels[place] = IGNORED
    return labels


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))


def _rendered_ids(
    tokenizer: PreTrainedTokenizerBase, rendered: str, conversation: Conversation
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character spans of a rendered conversation, in which only the template's own control tokens count."""
    special = [str(token) for token in tokenizer.all_special_tokens]
    texts = [text for turn in conversation.turns for text in (turn.user, turn.assistant)]
    if any(token in text for token in special for text in [*texts, conversation.system or ""]):
        raise UnusableConversation(
            "control_token_in_text", "the row holds text that the template would take for a control token; mend the row"
        )
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoded.input_ids), [tuple(span) for span in encoded.offset_mapping]


def _merge_system(conversation: Conversation) -> Conversation:
    if conversation.system is None:
        return conversation
    first, *others = conversation.turns
    first = Turn(f"{conversation.system}\n\n{first.user}", first.assistant)
    return replace(conversation, turns=(first, *others), system=None, changes=(*conversation.changes, "system_merged"))


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids)
