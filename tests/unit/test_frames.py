"""The frame around the texts in the format chat_template: its pieces, what it refuses, and what auto chooses."""

import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gateau.errors import ModelError, SettingsError
from gateau.frames import chat_frame, choose_frame
from gateau.model_files import ModelSpec
from gateau.prompts import DEFAULT_TEMPLATE, PromptEncoder, PromptTemplate
from gateau.schemas import SHORT_RESULT, shard_schema
from gateau.scoring.arguments import pass_parser, run_short_pass
from gateau.scoring.passes import LongPass, SegmentPass, ShortPass
from gateau.tables import read_rows

import oracle
from helpers import run_script, write_jsonl
from unit.models import profile_of, tiny_model
from unit.tokenizers import CHATML, chat_tokenizer

TURN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def encoder_of(tokenizer, **options):
    return PromptEncoder(tokenizer, chat_frame(tokenizer, options)[0])


def test_the_parts_are_what_the_model_was_trained_on():
    tokenizer = chat_tokenizer()
    sample = encoder_of(tokenizer).encode(["notes here"], ["a question?"], ["an answer"])[0]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "notes here\n\na question?"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(rendered, add_special_tokens=False).input_ids
    assert sample.head + sample.context + sample.question == ids
    assert sample.head == tokenizer("<s><|im_start|>user\n", add_special_tokens=False).input_ids
    assert tokenizer.decode(sample.context) == "notes here"
    assert sample.sequence([]) == sample.head + sample.question + sample.response
    assert ids.count(tokenizer.bos_token_id) == 1


def test_ordinary_text_of_the_frame_is_encoded_together_with_the_instruction():
    tokenizer = chat_tokenizer("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}]]"
                               "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}")  # fmt: skip
    sample = encoder_of(tokenizer).encode(["c"], ["[[x"], ["y"])[0]
    assert sample.question == tokenizer("\n\n[[x]]", add_special_tokens=False).input_ids


WORDS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<pad>", "assistant", "\n", " ", "falcon", "GateauResponseMark"]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map("".join)


@settings(deadline=None, max_examples=60)
@given(texts, texts, texts)
def test_control_tokens_in_texts_do_not_act(context, instruction, response):
    tokenizer = chat_tokenizer()
    sample = encoder_of(tokenizer).encode([context], [instruction], [response])[0]
    special = set(tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<pad>"]))
    control = [token for token in sample.sequence() if token in special]
    assert tokenizer.convert_ids_to_tokens(control) == ["<s>", "<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert tokenizer.decode(sample.context) == context
    assert tokenizer.decode(sample.response) == response
    assert tokenizer.decode(sample.question) == f"\n\n{instruction}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        (None, {}, "has no chat template"),
        (TURN.replace("message.content", "message.content | upper"), {}, "unchanged, once and in this order"),
        (TURN.replace("{{ message.content }}", "{{ message.content * 2 }}"), {}, "unchanged, once and in this order"),
        (TURN.replace("messages %}", "messages | reverse %}"), {}, "unchanged, once and in this order"),
        (THINKING, {}, "enable_thinking: false"),
        (THINKING, {"enable_thinking": True}, "enable_thinking: false"),
        ("{{ raise_exception('no system') }}", {}, "refuses a conversation of one turn .no system."),
    ],
)
def test_a_template_that_gives_no_frame_is_refused(template, options, message):
    with pytest.raises(SettingsError, match=message):
        chat_frame(chat_tokenizer(template), options)


def test_a_template_may_write_between_context_and_instruction(tiny_tokenizer):
    """The committed pair's template writes the default prompt."""
    parts = [["a context"], ["a question"], ["an answer"]]
    plain, chat = PromptEncoder(tiny_tokenizer, DEFAULT_TEMPLATE), encoder_of(tiny_tokenizer)
    assert chat.encode(*parts) == plain.encode(*parts)
    with pytest.raises(SettingsError, match="unchanged, once and in this order"):
        chat_frame(chat_tokenizer(TURN.replace("message.content", r"message.content | replace('\n\n', '<s>')")), {})


def test_options_reach_the_template():
    frame, after = chat_frame(chat_tokenizer(THINKING), {"enable_thinking": False})
    assert frame.generation_prompt == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert after == "<|im_end|>\n"


@pytest.mark.parametrize(
    ("eos", "template", "chosen", "why"),
    [
        ("<|im_end|>", CHATML, True, "its stop token <|im_end|> ends the model's generation"),
        (["</s>", "<|im_end|>"], CHATML, True, "its stop token"),
        ("</s>", CHATML, False, "the template ends with <|im_end|>"),
        (None, CHATML, False, "the template ends with <|im_end|>"),
        ("<|im_end|>", None, False, "has no chat template"),
        ("<|im_end|>", THINKING, False, "enable_thinking: false"),
    ],
)
def test_auto_takes_the_template_if_its_stop_token_ends_generation(tmp_path, caplog, eos, template, chosen, why):
    tokenizer = chat_tokenizer(template)
    if eos is not None:
        ids = {"eos_token_id": tokenizer.convert_tokens_to_ids(eos)}
        (tmp_path / "generation_config.json").write_text(json.dumps(ids))
    caplog.set_level(logging.INFO)
    frame = choose_frame("auto", ModelSpec(str(tmp_path)), tokenizer, DEFAULT_TEMPLATE, {})
    assert frame == (chat_frame(tokenizer, {})[0] if chosen else PromptTemplate.parse(DEFAULT_TEMPLATE))
    assert f"scoring.format auto: {'chat_template' if chosen else 'plain'}" in caplog.text
    assert why in caplog.text
    own = "{context} {instruction} {response}"
    assert choose_frame("auto", ModelSpec(str(tmp_path)), tokenizer, own, {}) == PromptTemplate.parse(own)


def save(folder, tokenizer):
    """Save a tokenizer beside a random model that has rows for its control tokens."""
    tiny_model("llama", vocab_size=1024).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_both_models_score_in_the_frame_of_the_index(tmp_path, caplog):
    """The frame is that of models.long. A θ_S without a template, with other reserved names, or without its tokens."""
    text = {"messages": [{"role": "user", "content": "a b c d\n\nwhat?"}, {"role": "assistant", "content": "b"}]}
    write_jsonl(tmp_path / "rows.jsonl", [text])
    long = save(tmp_path / "long", chat_tokenizer())
    renamed = save(tmp_path / "renamed", chat_tokenizer(None, reserved=["<|other|>"]))
    lacking = save(tmp_path / "lacking", chat_tokenizer(None, control=["<|im_start|>"]))
    samples = run_script("samples", "--input", tmp_path / "rows.jsonl", "--samples", tmp_path / "samples.parquet",
                         "--rejects", tmp_path / "r.jsonl", "--summary", tmp_path / "s.json")  # fmt: skip
    assert samples.returncode == 0, samples.stderr

    def index(name):
        result = run_script(
            "index", "--samples", tmp_path / "samples.parquet", "--model", json.dumps({"path": str(long)}), "--format",
            name, "--prompt", DEFAULT_TEMPLATE, "--max-length", 200, "--shards", 1, "--output", tmp_path / name,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr

    def score(name, model):
        output = tmp_path / "short.parquet"
        arguments = [
            "--samples", tmp_path / "samples.parquet", "--index", tmp_path / name, "--shard", 0, "--max-length", 200,
            "--model", json.dumps({"path": str(model)}), "--device", "cpu", "--progress-dir", tmp_path / "progress",
            "--output", output,
        ]  # fmt: skip
        run_short_pass(pass_parser("").parse_args(list(map(str, arguments))), ModelSpec(str(model)), "truncate")
        return read_rows(output, shard_schema(SHORT_RESULT))[0]["token_nll"]

    index("plain"), index("chat_template")
    with pytest.raises(ModelError, match="lacks a control token of the chat template"):
        score("chat_template", lacking)
    assert not caplog.records
    chat = score("chat_template", renamed)
    assert "2 special tokens differ (<|other|>, <|reserved|>)" in caplog.text
    assert score("plain", renamed) != chat
    stores = [json.loads(file.read_text())["frame"] for file in tmp_path.glob("progress/short_pass/*/settings.json")]
    assert sorted(one["is_chat"] for one in stores) == [False, True]
    assert score("chat_template", renamed) == chat


# --- the passes against the slow oracle ---


@pytest.fixture(scope="module")
def chat_sample():
    tokenizer = chat_tokenizer()
    encoder = encoder_of(tokenizer)
    words = " ".join(f"note {number}: the <|im_end|> falcon </s> is blue." for number in range(12))
    return encoder.encode([words], ["Which colour\nhas the falcon?"], ["It is blue <|im_start|>."])[0]


@pytest.mark.parametrize("architecture", ["llama", "mistral_window", "gemma3_mixed"])
def test_passes_in_the_chat_format_agree_with_the_oracle(architecture, chat_sample):
    slow, fast = (tiny_model(architecture, backend, vocab_size=1020) for backend in ("eager", "sdpa"))
    sample, n_response = chat_sample, len(chat_sample.response)
    ids = sample.head + sample.context + sample.question + sample.response
    first = len(sample.head)
    long = LongPass(attention_block=1, layer_block=128).compute(fast, sample)
    assert np.mean(long["token_nll"]) == pytest.approx(oracle.nll(slow, ids, n_response), abs=1e-4)
    layers = oracle.attention_profiles(slow, ids, n_response, first, first + len(sample.context))
    np.testing.assert_allclose(profile_of(long, "attention"), layers.mean(0).numpy(), rtol=1e-3, atol=1e-9)

    segments = SegmentPass(64, 1000, (0,)).compute(fast, sample)
    np.testing.assert_allclose(segments["segment_nll"], oracle.segment_nlls(slow, sample, 64), atol=1e-4)
    alone = oracle.nll(slow, sample.head + sample.question + sample.response, n_response)
    assert segments["nll_instruction_only"] == pytest.approx(alone, abs=1e-4)

    window = sample.n_frame + 50
    kept = sample.head + sample.context[-50:] + sample.question + sample.response
    cut = ShortPass(window).compute(fast, sample)["token_nll"]
    assert np.mean(cut) == pytest.approx(oracle.nll(slow, kept, n_response), abs=1e-4)


def test_dynamic_ntk_in_the_chat_format_agrees_with_the_oracle(chat_sample):
    window, ids = 64, chat_sample.sequence()
    rope = {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 10_000.0}
    model = tiny_model("llama", "sdpa", vocab_size=1020, max_position_embeddings=window, rope_parameters=rope)
    slow = tiny_model("llama", vocab_size=1020, max_position_embeddings=window)
    base = 10_000.0 * (len(ids) / window) ** (16 / 14)
    slow.model.rotary_emb.inv_freq = 1 / base ** (torch.arange(0, 16, 2) / 16)
    got = ShortPass(None).compute(model, chat_sample)["token_nll"]
    assert np.mean(got) == pytest.approx(oracle.nll(slow, ids, len(chat_sample.response)), abs=1e-4)
