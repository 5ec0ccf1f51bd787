"""Each family of models through all passes, against the slow oracle: eager attention in float32, full logits.

The models are random and tiny. Their weights are large enough that attention is far from uniform, and the sequences are
longer than their sliding windows and than the window that their rotary embeddings are scaled from.
"""

import logging
from functools import cache

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING

from gateau.attention_profiles import block_means, segment_means
from gateau.errors import ModelError
from gateau.model_files import ModelSpec
from gateau.models import Runtime, load_config, load_model
from gateau.scoring import passes
from gateau.scoring.passes import LongPass, SegmentPass, ShortPass
from gateau.scoring.perplexity import check_logits_to_keep
from gateau.selection.awareness import contextual_awareness

import oracle
from unit.models import ARCHITECTURES, profile_of, random_chat, random_sample, tiny_model

SEGMENT, WINDOW = 64, 128
FORMATS = {"plain": random_sample, "chat_template": random_chat}
# sdpa can compute neither capped logits nor sinks
EAGER_ONLY = ("gemma2_softcap", "gpt_oss")
ATTENDING = {"qwen3_next": [1, 3]}  # the other layers are linear; all four layers of the other families attend
# their rotary embeddings are scaled already; OPT has none
SCALED = ("llama3_scaled", "qwen2_yarn", "phi3_longrope", "gpt_oss", "gemma4_shared", "gemma4_images")
model_of = cache(tiny_model)


def backend_of(architecture):
    return "eager" if architecture in EAGER_ONLY else "sdpa"


CASES = [(name, backend_of(name), form) for name in ARCHITECTURES for form in FORMATS]
CASES += [(name, "eager", "plain") for name in ("llama", "mistral_window", "gemma3_mixed", "qwen3_next")]


@pytest.mark.parametrize(("architecture", "backend", "form"), CASES)
def test_passes_agree_with_the_oracle(architecture, backend, form):
    slow, fast, sample = model_of(architecture), model_of(architecture, backend), FORMATS[form]()
    check_logits_to_keep(fast)
    ids, n_response, first = sample.sequence(), len(sample.response), len(sample.head)

    long = LongPass(attention_block=16, layer_block=128).compute(fast, sample)
    assert np.mean(long["token_nll"]) == pytest.approx(oracle.nll(slow, ids, n_response), abs=1e-4)
    layers = oracle.attention_profiles(slow, ids, n_response, first, first + len(sample.context))
    assert len(layers) == long["n_layers"] == len(ATTENDING.get(architecture, range(4)))
    expected = layers.mean(0).numpy()
    np.testing.assert_allclose(profile_of(long, "attention"), block_means(expected, 16), rtol=1e-3, atol=1e-9)
    half = layers[len(layers) // 2 :].mean(0).numpy()
    np.testing.assert_allclose(profile_of(long, "attention_second_half"), block_means(half, 16), rtol=1e-3, atol=1e-9)
    blocks = np.reshape(profile_of(long, "layer_attention"), (long["n_layers"], 3))
    np.testing.assert_allclose(blocks[:, 0], layers[:, :128].mean(1).numpy(), rtol=1e-3, atol=1e-9)

    short = ShortPass(WINDOW).compute(fast, sample)["token_nll"]
    kept = sample.head + sample.context[-(WINDOW - sample.n_frame) :] + sample.question + sample.response
    assert np.mean(short) == pytest.approx(oracle.nll(slow, kept, n_response), abs=1e-4)

    segments = SegmentPass(SEGMENT, 1000, (0,)).compute(fast, sample)
    slow_segments = oracle.segment_nlls(slow, sample, SEGMENT)
    np.testing.assert_allclose(segments["segment_nll"], slow_segments, atol=1e-4)
    alone, nothing = oracle.nll(slow, sample.sequence([]), n_response), [0, *sample.response]
    assert segments["nll_instruction_only"] == pytest.approx(alone, abs=1e-4)
    assert segments["nll_response_only"] == pytest.approx(oracle.nll(slow, nothing, n_response), abs=1e-4)

    attention = segment_means(long["attention"], long["attention_peak"], len(sample.context), 16, SEGMENT)
    cas = contextual_awareness(segments["segment_nll"], attention, "softmax_neg_ppl")
    assert cas == pytest.approx(oracle.contextual_awareness(slow_segments, expected, SEGMENT), abs=1e-4)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in (*SCALED, "opt")])
def test_dynamic_ntk_agrees_with_frequencies_set_by_hand(architecture, tmp_path):
    slow, sample = tiny_model(architecture, max_position_embeddings=WINDOW), random_sample()
    slow.save_pretrained(tmp_path)
    spec = ModelSpec(str(tmp_path))
    config = load_config(spec, dynamic_ntk=True)
    scaled, rope = load_model(spec, config, Runtime("cpu")), config.get_text_config().rope_parameters
    (rotary,) = (part for part in slow.modules() if type(part).__name__.endswith("RotaryEmbedding"))
    plain = oracle.nll(slow, sample.sequence(), len(sample.response))
    name = "full_attention_inv_freq" if "full_attention" in rope else "inv_freq"
    n = 2 * len(getattr(rotary, name))
    base = rope.get("full_attention", rope)["rope_theta"] * (sample.n_tokens / WINDOW) ** (n / (n - 2))
    setattr(rotary, name, 1 / base ** (torch.arange(0, n, 2) / n))
    expected = oracle.nll(slow, sample.sequence(), len(sample.response))
    assert abs(expected - plain) > 1e-3, "the scaling changes something"
    assert np.mean(ShortPass(None).compute(scaled, sample)["token_nll"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("architecture", SCALED)
def test_dynamic_ntk_is_refused_for_models_that_are_scaled_already(architecture, tmp_path):
    model_of(architecture).config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"scales its rotary embeddings itself .*; use scoring\.short_context: none"):
        load_config(ModelSpec(str(tmp_path)), dynamic_ntk=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_auto_attention_is_one_that_the_model_supports(architecture):
    assert Runtime("cpu").resolved_attention(model_of(architecture).config) == backend_of(architecture)


def test_auto_attention_on_a_gpu_takes_an_installed_flash_that_the_model_supports(monkeypatch):
    monkeypatch.setattr(Runtime, "resolved_device", lambda self: torch.device("cuda"))
    for installed, expected in (
        ([2], ("flash_attention_2", "eager")),
        ([2, 4], ("flash_attention_2", "flash_attention_4")),
    ):
        names = [f"flash_attention_{version}" for version in installed]
        monkeypatch.setattr("gateau.models._installed_flash", lambda names=names: names)
        found = (Runtime().resolved_attention(model_of(name).config) for name in ("llama", "gpt_oss"))
        assert tuple(found) == expected
    assert Runtime(dtype="float32").resolved_attention(model_of("llama").config) == "sdpa"
    # flash-attn computes no heads wider than 256: Gemma 4's global layers have 512
    for config in (CONFIG_MAPPING["gemma4_text"](), CONFIG_MAPPING["gemma4"](), CONFIG_MAPPING["llama"](head_dim=512)):
        assert Runtime().resolved_attention(config) == "sdpa"
    assert Runtime().resolved_attention(CONFIG_MAPPING["gemma4_text"](global_head_dim=256)) == "flash_attention_2"


def test_layers_without_attention_are_reported_once(caplog):
    passes._report_unmeasured.cache_clear()
    with caplog.at_level(logging.WARNING):
        for architecture in ("qwen3_next", "llama", "qwen3_next"):
            LongPass(16, 128).compute(model_of(architecture), random_sample(n_context=20))
    (warning,) = caplog.messages
    assert warning.startswith("Qwen3NextForCausalLM: 2 of its 4 layers attend to tokens")
