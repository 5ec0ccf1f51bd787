"""The chat format ``tokenizer_template``: a tokenizer's chat template, in training and as the prompt of an answer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gateau.conversations import Conversation, Turn, UnusableConversation
from gateau.errors import SettingsError
from gateau.formats import IGNORED, ChatFormat, EncodedConversation, FormatSettings, check_offsets
from gateau.templates import ChatTemplate, Message, messages_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TemplatePrompts:
    """The prompts that a chat template makes.

    Attributes:
        template: the template.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, text: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        """Take the same arguments as :class:`ChatTemplate`.

        Raises:
            SettingsError: the tokenizer is written in Python alone, or has no template that can be used.
        """
        check_offsets(tokenizer, "the chat format tokenizer_template", "choose --format longalign or plain")
        self._tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, text, options)

    def prompt_ids(self, turns: Sequence[tuple[str, str]], user: str, system: str | None = None) -> list[int]:
        """Return the ids of the rendered template up to the generation prompt.

        Args:
            turns: earlier turns, each a (question, answer) pair.
            user: the question to answer.
            system: the system message, or None.

        Raises:
            UnusableConversation: a text contains a control token, or the template refuses the conversation.
        """
        self.template.refuse_control_tokens([system or "", user, *(text for turn in turns for text in turn)])
        messages = messages_of(turns, system)
        text = self.template.render([*messages, {"role": "user", "content": user}], generation_prompt=True)
        prompts = (
            self.template.render(messages[:number], generation_prompt=True)
            for number in range(len(messages) - 2 * len(turns) + 1, len(messages), 2)
        )
        starts = [len(prompt) for prompt in prompts if text.startswith(prompt)]
        ids, _, _ = self.ids(text, starts)
        return [int(token) for token in ids]

    def ids(self, rendered: str, responses: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


@dataclass(frozen=True)
class _Rendered:
    """A conversation up to some response, as the template renders it.

    Attributes:
        prompt: what the model gets before it responds.
        text: the conversation with the response.
        start: where the response starts in ``text``.
        stop: where it stops.
        answer: the response without its reasoning, which some templates write in another way.
    """

    prompt: str
    text: str
    start: int
    stop: int
    answer: str

    @property
    def answered(self) -> int:
        """Where the answer ends in ``text`` at the earliest; -1 if the template does not write it there."""
        place = self.text.find(self.answer, self.start)
        return place + len(self.answer) if place >= 0 else -1

    def is_kept_in(self, longer: str) -> bool:
        """Tell whether a rendering with later turns begins with this one. Blank space after its end does not count."""
        return longer.startswith(self.text.rstrip())


class TemplateFormat(ChatFormat):
    """A chat template. The model learns each response and the stop token, in a rendering that it would really see.

    A response is what the template marks as generated, or, without marks, what follows the generation prompt. Some
    templates write an earlier turn in another way once there is a later one; templates of reasoning models drop its
    reasoning. Then every turn becomes a piece of its own: the conversation up to this turn, with this response learnt.
    """

    name = "tokenizer_template"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: FormatSettings) -> None:
        check_offsets(tokenizer, "tokens.format: tokenizer_template")
        super().__init__(tokenizer, settings)
        self._prompts = TemplatePrompts(tokenizer, settings.chat_template, settings.template_options)
        self._template = self._prompts.template
        stop = str(tokenizer.convert_ids_to_tokens(self.stop_id))
        self._template.control = sorted({*self._template.control, stop})
        try:
            self.encode(Conversation((Turn("a question", "an answer"), Turn("another", "more"))))
        except UnusableConversation as reason:
            raise SettingsError(
                f"{tokenizer.name_or_path}: the chat template does not suit training: {reason.advice}"
            ) from reason

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
        turns = conversation.turns
        self._template.refuse_control_tokens(
            [conversation.system or "", *(text for turn in turns for text in (turn.user, turn.assistant))]
        )
        messages = messages_of([(turn.user, turn.assistant) for turn in turns], conversation.system)
        before = len(messages) - 2 * len(turns)
        rendered = [self._rendered(messages[: before + 2 * number]) for number in range(1, len(turns) + 1)]
        learnt = [number for number, turn in enumerate(turns) if turn.assistant]
        if self._settings.turns == "last":
            learnt = [number for number in learnt if number == len(turns) - 1]
        if all(one.is_kept_in(rendered[-1].text) for one in rendered):
            pieces = [self._piece(rendered, [rendered[number] for number in learnt])]
        else:
            pieces = [self._piece(rendered[: number + 1], [rendered[number]]) for number in learnt]
        ids, labels = (np.concatenate([np.empty(0, np.int32), *(piece[part] for piece in pieces)]) for part in (0, 1))
        return EncodedConversation(ids, labels, conversation.changes, tuple(len(piece) for piece, _ in pieces))

    def _rendered(self, messages: Sequence[Message]) -> _Rendered:
        """Render complete turns, and find the last response."""
        prompt = self._template.render(messages[:-1], generation_prompt=True)
        answer = messages[-1]["content"].rpartition("</think>")[2].strip()
        if not self._template.has_marks:
            text = self._template.render(messages)
            if not text.startswith(prompt):
                raise UnusableConversation(
                    "response_not_after_prompt",
                    "the chat template does not put the response right after the generation prompt, so a model would "
                    "learn to answer another prompt than it gets; mend the row, or set tokens.chat_template or "
                    "tokens.template_options",
                )
            return _Rendered(prompt, text, len(prompt), len(text.rstrip()), answer)
        text, marked = self._template.marked(messages)
        before = prompt if text.startswith(prompt) else self._template.render(messages[:-1])
        # a template may mark its own header; control tokens that the prompt holds, too, are not learnt
        common = next(
            (n for n, (one, other) in enumerate(zip(prompt, text, strict=False)) if one != other), len(prompt)
        )
        headers = [prompt.rfind(token, len(before), common) + len(token) for token in self._template.control]
        known = max(len(before), *headers)
        spans = [(max(start, known), stop) for start, stop in marked if stop > known]
        is_one_part = spans and all(stop == start for (_, stop), (start, _) in itertools.pairwise(spans))
        if messages[-1]["content"] and not (is_one_part and text.startswith(before)):
            raise UnusableConversation(
                "response_not_marked",
                f"the chat template marks {len(spans)} parts of the last response as generated, where one is expected; "
                "mend its generation marks, or set tokens.chat_template",
            )
        start, stop = (spans[0][0], spans[-1][1]) if spans else (len(text), len(text))
        return _Rendered(prompt, text, start, stop, answer)

    def _piece(self, turns: Sequence[_Rendered], learnt: Sequence[_Rendered]) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and labels of the last of these renderings, in which some responses are learnt."""
        text = turns[-1].text
        prompts = {len(one.prompt) for one in turns if text.startswith(one.prompt)}
        ids, first, last = self._prompts.ids(text, sorted(prompts | {one.start for one in learnt}))
        labels = np.full(len(ids), IGNORED, np.int32)
        for response in learnt:
            if response.answered < 0:
                raise UnusableConversation(
                    "response_not_written",
                    "the chat template does not write the response as it is; mend the row, or set tokens.chat_template",
                )
            inside = np.flatnonzero((response.start <= first) & (last <= response.stop) & (first < last))
            # the stop token stands inside what is marked, or right after it
            after = inside[-1] + 1 if len(inside) else len(ids)
            ends = inside[ids[inside] == self.stop_id]
            if not len(ends) and after < len(ids) and ids[after] == self.stop_id:
                inside = ends = np.append(inside, after)
            if not len(ends) or last[ends[-1]] < response.answered:
                raise SettingsError(self._advice_on_stopping(text[response.answered :]))
            # text that the template writes after the stop token is not learnt
            kept = inside[inside <= ends[-1]]
            labels[kept] = ids[kept]
        return ids, labels

    def _advice_on_stopping(self, after: str) -> str:
        """Return what to do about a response without a stop token, given the text after it."""
        stop = self._tokenizer.convert_ids_to_tokens(self.stop_id)
        written = sorted({token for token in self._template.control if token in after}, key=after.find)
        advice = f"set tokens.stop_token: '{written[0]}'" if written else "set tokens.chat_template, or use longalign"
        return (
            f"the chat template does not end a response with {stop}, so a model trained on it would never stop; it "
            f"writes {written[0] if written else 'no control token'} there: {advice}"
        )

    def prompt_ids(self, turns: Sequence[Turn], user: str, system: str | None = None) -> list[int]:
        """Return the ids of the rendered template up to the generation prompt.

        Raises:
            UnusableConversation: a text contains a control token, or the template refuses the conversation.
        """
        return self._prompts.prompt_ids([(turn.user, turn.assistant) for turn in turns], user, system)

    def chat_template(self) -> str:
        """Return the template, for the tokenizer of the trained model."""
        return self._template.text
