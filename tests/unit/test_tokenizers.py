"""Which tokenizers agree: all text must be encoded alike, and names of special tokens do not count."""

import json

from gateau.models import renamed_tokens, special_tokens, tokenizer_digest

from unit.tokenizers import chat_tokenizer


def test_names_of_reserved_tokens_do_not_matter_but_the_encoding_of_text_does():
    """Llama-3 and Llama-3.1 differ in the names of reserved tokens, Qwen2.5's Base and Instruct in nothing."""
    from tokenizers import normalizers, pre_tokenizers

    def changed(change):
        other = chat_tokenizer()
        change(other.backend_tokenizer)
        return tokenizer_digest(other)

    one, other = chat_tokenizer(), chat_tokenizer(reserved=["<|fim_pad|>", "<|eom|>"])
    assert tokenizer_digest(one) == tokenizer_digest(other) == tokenizer_digest(chat_tokenizer(control=[]))
    names = renamed_tokens(special_tokens(one), special_tokens(other))
    assert names == "3 special tokens differ (<|eom|>, <|fim_pad|>, <|reserved|>)"
    assert renamed_tokens(special_tokens(one), special_tokens(chat_tokenizer())) == ""
    moved = chat_tokenizer(control=["<|im_end|>", "<|im_start|>"])
    assert renamed_tokens(special_tokens(one), special_tokens(moved)).startswith("2 special tokens differ (<|im_end|>")

    def other_merges(backend):
        model = json.loads(backend.to_str())["model"]
        merges = [tuple(pair) for pair in model["merges"]]
        place = len(merges) // 2
        merges[place : place + 40] = merges[place : place + 40][::-1]
        backend.model = type(backend.model)(vocab=model["vocab"], merges=merges[:-30])

    different = [
        changed(other_merges),
        changed(lambda backend: setattr(backend, "normalizer", normalizers.NFKC())),
        changed(lambda backend: setattr(backend, "normalizer", normalizers.Lowercase())),
        changed(lambda backend: setattr(
            backend, "pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), backend.pre_tokenizer])
        )),
        changed(lambda backend: backend.add_tokens(["<tool>"])),
    ]  # fmt: skip
    assert tokenizer_digest(one) not in different
    assert len(set(different)) == len(different)
