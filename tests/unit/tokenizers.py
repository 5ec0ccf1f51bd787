"""The committed pair's tokenizer, as the tokenizer of a chat model."""

from tokenizers import processors
from transformers import AutoTokenizer, ByT5Tokenizer

from helpers import TINY_PAIR

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(template=CHATML, control=("<|im_start|>", "<|im_end|>"), reserved=("<|reserved|>",)):
    """The committed pair's tokenizer with a chat template, its control tokens, and tokens that nothing uses."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_PAIR / "long")
    tokenizer.add_special_tokens({"additional_special_tokens": [*control, *reserved]})
    tokenizer.chat_template = template
    return tokenizer


def prefixed_tokenizer():
    """The committed pair's tokenizer, but without BOS, and with two tokens of its own before a text, as GLM-4 has."""
    tokenizer = chat_tokenizer(None, ("[gMASK]", "<sop>"))
    prefix = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[gMASK]", "<sop>")]
    tokenizer.bos_token = None
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("[gMASK] <sop> $A", None, prefix)
    return tokenizer, [number for _, number in prefix]


def python_tokenizer(template=None):
    """A tokenizer that is written in Python alone and has no tokenizer.json. Each byte is a token."""
    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.chat_template = template
    return tokenizer
