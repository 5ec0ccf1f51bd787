"""Turn a sample into token ids: the prompt frame, truncation, and the start of the response.

Four parts are encoded separately, and their ids are concatenated (method: "Sample → tokens"): the head of the frame,
the context, the middle of the frame with the instruction, and the response. The start of the response is therefore
known exactly, without searching for a marker in the text. The frame is plain text, or a chat template's. Only a chat
template's frame holds control tokens; context, instruction and response are always encoded as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateau.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_TEMPLATE = "### Input:{context}\n\n ### Instruction: {instruction}\n\n ### Response: {response}"
_PLACES = ("{context}", "{instruction}", "{response}")


@dataclass(frozen=True)
class PromptTemplate:
    """The text around context, instruction and response, split at their places.

    Attributes:
        head: text before the context.
        before_instruction: text between context and instruction.
        after_instruction: text after the instruction.
        generation_prompt: what a chat template writes between ``after_instruction`` and the response, from its first
            control token on.
        is_chat: whether a chat template made the frame. Control tokens in ``head`` and ``generation_prompt`` then
            are control tokens, and BOS is part of ``head`` if the template writes it.
    """

    head: str
    before_instruction: str
    after_instruction: str
    generation_prompt: str = ""
    is_chat: bool = False

    @classmethod
    def parse(cls, template: str) -> PromptTemplate:
        """Split a template at {context}, {instruction} and {response}.

        Raises:
            SettingsError: the template does not contain each once, in this order, with the response at the end.
        """
        positions = [template.find(place) for place in _PLACES]
        once = all(template.count(place) == 1 for place in _PLACES)
        if not once or positions != sorted(positions) or not template.endswith(_PLACES[-1]):
            raise SettingsError(
                f"scoring.prompt must hold {', '.join(_PLACES)} once each, in this order, and end with {_PLACES[-1]}; "
                f"found {template!r}"
            )
        context, instruction, response = positions
        return cls(
            head=template[:context],
            before_instruction=template[context + len(_PLACES[0]) : instruction],
            after_instruction=template[instruction + len(_PLACES[1]) : response],
        )


@dataclass(frozen=True)
class EncodedSample:
    """Token ids of the four parts of one sample. ``head`` starts with the tokenizer's prefix."""

    head: list[int]
    context: list[int]
    question: list[int]
    response: list[int]
    truncated_tokens: int = 0

    @property
    def n_frame(self) -> int:
        """Number of tokens that truncation never removes: head, question and response."""
        return len(self.head) + len(self.question) + len(self.response)

    @property
    def n_tokens(self) -> int:
        """Length of the whole sequence in tokens."""
        return self.n_frame + len(self.context)

    def sequence(self, context: list[int] | None = None) -> list[int]:
        """Return the whole sequence, with ``context`` instead of the sample's own context if given."""
        return self.head + (self.context if context is None else context) + self.question + self.response

    def fits(self, max_length: int) -> bool:
        """Return whether the sample fits into ``max_length`` tokens without any context."""
        return self.n_frame <= max_length

    def truncated(self, max_length: int) -> EncodedSample:
        """Return the sample with context tokens removed on the left, so that at most ``max_length`` tokens remain.

        Raises:
            ValueError: the sample does not fit even without context; check :meth:`fits` first.
        """
        if not self.fits(max_length):
            raise ValueError(f"{self.n_frame} tokens without any context do not fit into {max_length}")
        lost = max(self.n_tokens - max_length, 0)
        return EncodedSample(self.head, self.context[lost:], self.question, self.response, self.truncated_tokens + lost)

    def segments(self, length: int) -> list[list[int]]:
        """Return the context in segments of ``length`` tokens, without padding; the last one may be shorter."""
        return [self.context[start : start + length] for start in range(0, len(self.context), length)]


class PromptEncoder:
    """An encoder of samples for one tokenizer and one frame.

    Attributes:
        frame: the frame.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame: str | PromptTemplate) -> None:
        """Take a frame, or a prompt template as in ``scoring.prompt``."""
        self._tokenizer = tokenizer
        self.frame = PromptTemplate.parse(frame) if isinstance(frame, str) else frame
        self._prefix = prefix_ids(tokenizer)
        if self.frame.is_chat:
            self._head, self._generation_prompt = self._encode(
                [self.frame.head, self.frame.generation_prompt], control_tokens=True
            )
        else:
            self._head, self._generation_prompt = self._prefix + self._encode([self.frame.head])[0], []

    def frame_ids(self) -> list[list[int]]:
        """Return the ids before the context and, with a chat template, those of the generation prompt."""
        return [self._head, self._generation_prompt]

    def start(self) -> list[int]:
        """Return the ids before a text without any context: the tokenizer's prefix, or else the end-of-text id.

        The end-of-text id separates documents. The list is empty if the tokenizer has neither.
        """
        if self._prefix or self._tokenizer.eos_token_id is None:
            return list(self._prefix)
        return [self._tokenizer.eos_token_id]

    def encode(self, contexts: list[str], instructions: list[str], responses: list[str]) -> list[EncodedSample]:
        """Return encoded samples without truncation. The lists have equal length and are tokenized in parallel."""
        frame = self.frame
        questions = [frame.before_instruction + text + frame.after_instruction for text in instructions]
        parts = zip(self._encode(contexts), self._encode(questions), self._encode(responses), strict=True)
        return [
            EncodedSample(self._head, context, question + self._generation_prompt, response)
            for context, question, response in parts
        ]

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text."""
        return [len(ids) for ids in self._encode(texts)]

    def _encode(self, texts: list[str], control_tokens: bool = False) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(
            texts, add_special_tokens=False, split_special_tokens=not control_tokens, verbose=False
        ).input_ids
        return ids


def prefix_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that the tokenizer puts before a text by itself: BOS, for GLM-4 ``[gMASK] <sop>``, or none."""
    whole: list[int] = tokenizer("a").input_ids
    text: list[int] = tokenizer("a", add_special_tokens=False).input_ids
    places = (place for place in range(len(whole)) if text and whole[place : place + len(text)] == text)
    return whole[: next(places, int(whole[:1] == [tokenizer.bos_token_id]))]
