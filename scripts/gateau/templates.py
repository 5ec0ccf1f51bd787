"""A tokenizer's chat template: what it renders, where its control tokens are, and what a model sees as its prompt.

Training, scoring and answering render conversations here. A template that asks for today's date always gets the same
one, so that a run does not depend on the day on which its jobs start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.conversations import UnusableConversation
from gateau.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]

# Templates known by name, for a tokenizer that has none. The end of a response is within the generation marks.
KNOWN_TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|eot_id|>' }}"
        "{% endgeneration %}{% else %}{{ message['content'] + '<|eot_id|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
}
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# shadows the function of the same name that reads the clock; the date is the default of Llama 3.1's template
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format | replace('%Y', '2024') | replace('%m', '07') | replace('%d', '26')"
    " | replace('%b', 'Jul') | replace('%B', 'July') | replace('%y', '24') }}{%- endmacro -%}"
)


def template_text(name: str) -> str:
    """Return the chat template of a name in :data:`KNOWN_TEMPLATES`, or of a file.

    Raises:
        SettingsError: there is neither.
    """
    if name in KNOWN_TEMPLATES:
        return KNOWN_TEMPLATES[name]
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"chat_template: {name!r} is neither one of {', '.join(KNOWN_TEMPLATES)} nor a readable file ({error})"
        ) from error


class ChatTemplate:
    """A chat template, with the options that every rendering gets.

    Attributes:
        text: the Jinja template.
        has_marks: whether it marks what the assistant generates (``{% generation %}``).
        control: all texts that the tokenizer would turn into a control token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the template ``text``, or the tokenizer's own.

        Args:
            tokenizer: the tokenizer whose control tokens the template writes.
            text: a Jinja template; None takes the tokenizer's own.
            options: variables that the template reads, such as ``enable_thinking``.

        Raises:
            SettingsError: there is no template.
        """
        if text is None and not tokenizer.chat_template:
            raise SettingsError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; set tokens.chat_template to a file or "
                f"to one of {', '.join(KNOWN_TEMPLATES)}, or use the longalign format"
            )
        self._tokenizer = tokenizer
        self.text = str(tokenizer.get_chat_template() if text is None else text)
        self._options = dict(options or {})
        self.has_marks = bool(_MARKS.search(self.text))
        self.control = control_tokens(tokenizer)

    def render(self, messages: Iterable[Message], generation_prompt: bool = False) -> str:
        """Return the text that the template renders.

        Raises:
            UnusableConversation: the template refuses the conversation.
        """
        return self._render(messages, generation_prompt, marks=False)[0]

    def marked(self, messages: Iterable[Message]) -> tuple[str, list[tuple[int, int]]]:
        """Return the rendered text, and the (start, stop) of each part that the template marks as generated.

        Raises:
            UnusableConversation: the template refuses the conversation.
        """
        return self._render(messages, False, marks=True)

    def _render(
        self, messages: Iterable[Message], generation_prompt: bool, marks: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        outcome: Any  # texts of all conversations, and the spans of all
        try:
            outcome = render_jinja_template(
                [[dict(message) for message in messages]],
                chat_template=_FIXED_DATE + self.text,
                return_assistant_tokens_mask=marks,
                add_generation_prompt=generation_prompt,
                **{**self._tokenizer.special_tokens_map, **self._options},
            )
        except (TemplateError, TypeError, ValueError) as error:  # what templates and their operators raise
            raise UnusableConversation(
                "refused_by_template", f"the chat template refuses the conversation ({error})"
            ) from error
        (text,), spans = outcome
        return str(text), [(start, stop) for start, stop in spans[0]] if marks else []

    def refuse_control_tokens(self, texts: Iterable[str]) -> None:
        """Check that no text of the data would become a control token.

        Raises:
            UnusableConversation: one would.
        """
        found = next((token for text in texts for token in self.control if token in text), None)
        if found is not None:
            raise UnusableConversation(
                "control_token_in_text",
                f"the row holds {found}, which the template would take for a control token; mend the row",
            )


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return all texts that a chat template would mistake for its own control tokens, sorted."""
    # all_special_tokens lacks the role markers of some models
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | {str(token) for token in tokenizer.all_special_tokens})


def messages_of(turns: Sequence[tuple[str, str]], system: str | None = None) -> list[Message]:
    """Return the messages of complete turns, each a (question, answer) pair, after the system message if any."""
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for user, assistant in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return messages
