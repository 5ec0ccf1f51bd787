"""Which tokenizers agree: all text must be encoded alike, and names of special tokens do not count."""

import json
from importlib import import_module

from transformers import LlamaConfig

from gateau.model_files import ModelSpec
from gateau.models import load_tokenizer, renamed_tokens, special_tokens, tokenizer_digest

from unit.tokenizers import chat_tokenizer


def test_a_model_with_a_sentencepiece_file_alone_loads(tmp_path):
    """Many models in Llama-2's format have tokenizer.model and no tokenizer.json."""
    sentences = iter([f"note {n}: the falcon of balor is {n % 7}" for n in range(200)])
    import_module("sentencepiece").SentencePieceTrainer.train(
        sentence_iterator=sentences, model_prefix=str(tmp_path / "tokenizer"), model_type="bpe", vocab_size=300,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.vocab").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(ModelSpec(str(tmp_path)))
    assert tokenizer.decode(tokenizer.encode("the falcon of balor"), skip_special_tokens=True) == "the falcon of balor"


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
