"""From a question to token ids: the chat format of training, LongBench's cut through the middle, the model's window.

The text of a question is cut to ``max_length`` tokens in LongBench's way: the first and the last half of the ids are
decoded separately, without control tokens, and concatenated. The chat format is applied afterwards. If the model's
window is smaller, the text is cut further to leave room for the answer, at most a quarter of the window. Each answer
says how many tokens were cut.

If a text contains a control token of the model's chat template, the model would take it for the template's own. The
text of a benchmark cannot be rejected, so a space breaks up such a token. Each answer says how many were broken up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateau.chatting import prompt_ids
from gateau.evaluation.answering.questions import Question
from gateau.evaluation.answering.reasoning import Reasoning
from gateau.formats import encode_texts
from gateau.templates import control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Sequence[tuple[str, str]]
_PROMPT_END = 32  # tokens that hold the start of a reasoning, if the template writes it


@dataclass(frozen=True)
class Prompt:
    """A prompt, ready for the model.

    Attributes:
        ids: token ids up to where the answer begins.
        user: the user's text as it is asked, after cuts.
        max_new_tokens: largest number of tokens of the answer; 0 if the window has no room.
        truncated_tokens: number of tokens of the text that were cut.
        control_tokens: number of control tokens in the text that were broken up.
    """

    ids: list[int]
    user: str
    max_new_tokens: int
    truncated_tokens: int
    control_tokens: int


def truncate_middle(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> tuple[str, int]:
    """Return ``text`` cut to ``max_length`` tokens, keeping its first and last half, and how many tokens were cut."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    if len(ids) <= max_length:
        return text, 0
    half = max_length // 2
    parts = [str(tokenizer.decode(part, skip_special_tokens=True)) for part in (ids[:half], ids[len(ids) - half :])]
    return "".join(parts), len(ids) - 2 * half


class Prompter:
    """Maker of the prompts of one model.

    Args:
        tokenizer: the model's.
        format_name: longalign, tokenizer_template or plain, see :func:`gateau.chatting.choose_format`.
        max_length: largest length of a question's text in tokens.
        window: largest length of prompt and answer together in tokens, or None if there is no limit.
        template_options: variables that the chat template reads.
        reasoning: how the model marks its reasoning; None if it does not reason.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        format_name: str,
        max_length: int,
        window: int | None,
        template_options: Mapping[str, Any] | None = None,
        reasoning: Reasoning | None = None,
    ) -> None:
        self.tokenizer, self.format_name = tokenizer, format_name
        self.template_options, self._reasoning = dict(template_options or {}), reasoning
        self._max_length, self._window = max_length, window
        self._control = control_tokens(tokenizer) if format_name == "tokenizer_template" else []

    def reasoning(self, question: Question) -> Reasoning | None:
        """Return how the model marks its reasoning in the answer to a question; None if it does not reason there."""
        return self._reasoning if question.wrapped else None

    def max_new_tokens(self, question: Question) -> int:
        """Return the largest number of tokens of an answer, with its reasoning."""
        reasoning = self.reasoning(question)
        return question.max_new_tokens + (reasoning.max_tokens if reasoning else 0)

    def end_of(self, prompt: Prompt) -> str:
        """Return the end of a prompt as text; some templates write the start of the reasoning there."""
        return str(self.tokenizer.decode(prompt.ids[-_PROMPT_END:]))

    def prompt(self, question: Question, turns: Turns = ()) -> Prompt:
        """Return the prompt of the user's next message.

        Args:
            question: what is asked.
            turns: the turns so far, each with the user's text as asked and the answer.

        Raises:
            SettingsError: the chat template cannot render the conversation.
        """
        text, broken = self._break_control_tokens(question, question.users[len(turns)])
        turns = [(user, self._break_control_tokens(question, answer)[0]) for user, answer in turns]
        wanted = self.max_new_tokens(question)
        if self._window is None:
            user, cut = truncate_middle(self.tokenizer, text, self._max_length)
            return Prompt(self._ids(question, turns, user), user, wanted, cut, broken)
        answer_room = min(wanted, max(self._window // 4, 1))
        room = self._window - answer_room - len(self._ids(question, turns, ""))
        limit = min(self._max_length, room)
        while limit > 0:
            user, cut = truncate_middle(self.tokenizer, text, limit)
            ids = self._ids(question, turns, user)
            left = self._window - len(ids)
            if left >= answer_room or (left > 0 and not cut):
                return Prompt(ids, user, min(wanted, left), cut, broken)
            limit -= max(answer_room - left, 1)  # decoded halves can have more tokens than they were cut to
        return Prompt(self._ids(question, turns, ""), "", 0, len(encode_texts(self.tokenizer, [text])[0]), broken)

    def _ids(self, question: Question, turns: Turns, user: str) -> list[int]:
        if not question.wrapped:
            return prompt_ids("plain", self.tokenizer, turns, user, question.system)
        return prompt_ids(self.format_name, self.tokenizer, turns, user, question.system, self.template_options)

    def _break_control_tokens(self, question: Question, text: str) -> tuple[str, int]:
        broken = 0
        for token in self._control if question.wrapped else ():
            broken += text.count(token)
            text = text.replace(token, f"{token[:1]} {token[1:]}")
        return text, broken
