"""The three passes: batches, tiles, windows and edges. test_families.py compares each family with the slow oracle."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gateau.attention_profiles import block_means, segment_means
from gateau.errors import ModelError
from gateau.model_files import ModelSpec
from gateau.models import Runtime, load_config, load_model
from gateau.scoring import passes, perplexity
from gateau.scoring.attention import AttentionRecording, _visible_rows, mean_attention, record_attention
from gateau.scoring.passes import LongPass, SegmentPass, ShortPass
from gateau.scoring.perplexity import reset_rotary_scaling, response_nll
from gateau.selection.awareness import contextual_awareness

import oracle
from unit.models import profile_of, random_sample, tiny_model

SEGMENT = 64
ON_CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.mark.parametrize("architecture", ["llama", "mistral_window", "gemma3_mixed"])
def test_batch_composition_does_not_change_results(architecture):
    model, sample = tiny_model(architecture, "sdpa"), random_sample()
    one_by_one = SegmentPass(SEGMENT, 1, (0,)).compute(model, sample)
    together = SegmentPass(SEGMENT, 10**6, (0,)).compute(model, sample)
    np.testing.assert_allclose(one_by_one["segment_nll"], together["segment_nll"], atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma2_softcap"])
def test_few_logits_exist_at_once_and_their_number_does_not_matter(architecture, monkeypatch):
    """Gemma 2 caps its logits behind the output layer."""
    model, sample = tiny_model(architecture, "eager"), random_sample()
    rows = []
    model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, logits: rows.append(logits[..., 0].numel())
    )
    scoring_pass = SegmentPass(SEGMENT, 10**6, (0,))
    whole = scoring_pass.compute(model, sample)
    assert max(rows) == len(sample.context) // SEGMENT * len(sample.response)
    rows.clear()
    monkeypatch.setattr(perplexity, "LOGITS_BYTES", 7 * 4 * model.config.vocab_size)
    parts = scoring_pass.compute(model, sample)
    assert max(rows) == 7
    np.testing.assert_allclose(parts["segment_nll"], whole["segment_nll"], atol=1e-6)
    assert parts["nll_instruction_only"] == pytest.approx(whole["nll_instruction_only"], abs=1e-6)


@pytest.mark.parametrize("change", ["skips its layers", "gives one row"])
def test_logits_that_cannot_be_computed_in_parts_are_refused(change, monkeypatch):
    model, sample = tiny_model("llama"), random_sample()
    own = model.forward
    if change == "skips its layers":
        monkeypatch.setattr(
            model, "forward", lambda input_ids, **given: SimpleNamespace(logits=torch.zeros(1, 23, 160))
        )
    else:
        monkeypatch.setattr(model, "forward", lambda **given: own(**{**given, "logits_to_keep": 1}))
    with pytest.raises(ModelError, match=r"LlamaForCausalLM does not compute its logits from the output of LlamaModel"):
        response_nll(model, torch.tensor([sample.sequence()]), 23)


@pytest.mark.parametrize("architecture", ["llama", "gemma2_softcap"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_CUDA)])
def test_models_in_half_precision_give_float32_logits(architecture, dtype, device, monkeypatch):
    """Gemma 2 caps its logits behind the output layer, and then does so in float32."""
    model, sample = tiny_model(architecture, "eager").to(device, dtype), random_sample()
    ids = torch.tensor([sample.sequence()], device=device)
    weights = model.get_output_embeddings().weight
    weights.data *= 30  # so that logits are as large as those of trained models
    with torch.no_grad():
        rounded = model(ids).logits[0, -24:-1].float()
        logits = model.model(ids).last_hidden_state[0, -24:-1].float() @ weights.float().T
    if architecture == "gemma2_softcap":
        logits = torch.tanh(logits / model.config.final_logit_softcapping) * model.config.final_logit_softcapping
    expected, coarse = (torch.nn.functional.cross_entropy(x, ids[0, -23:], reduction="none") for x in (logits, rounded))
    monkeypatch.setattr(perplexity, "_COPIED_BYTES", 4 * 7 * weights.shape[1])  # seven tokens of the vocabulary at once
    got = response_nll(model, ids, 23)[0]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)
    assert (coarse - expected).abs().max() > 1e-3
    assert "forward" not in vars(model.get_output_embeddings()), "the model is as before"


def test_out_of_memory_halves_the_batches(monkeypatch, caplog):
    model, sample = tiny_model("llama", "sdpa"), random_sample()
    sizes = []

    def scarce(model, ids, n_response):
        sizes.append(len(ids))
        if len(ids) > largest:
            raise torch.OutOfMemoryError("no memory left")
        return response_nll(model, ids, n_response)

    monkeypatch.setattr(passes, "response_nll", scarce)
    scoring_pass, largest = SegmentPass(SEGMENT, 10**6, (0,)), 10
    whole = scoring_pass.compute(model, sample)
    largest = 1
    monkeypatch.setattr(passes, "_halvings", 0)
    halved = scoring_pass.compute(model, sample)
    np.testing.assert_allclose(halved["segment_nll"], whole["segment_nll"], atol=1e-6)
    assert "out of memory with 4 segments in a batch" in caplog.text
    assert "out of memory with 2 segments in a batch" in caplog.text
    sizes.clear()
    assert scoring_pass.compute(model, sample) == halved
    assert max(sizes) == 1, "later samples do not try larger batches"
    largest = 0
    with pytest.raises(torch.OutOfMemoryError):
        scoring_pass.compute(model, sample)


@pytest.mark.parametrize("architecture", ["llama", "mistral_window"])
def test_probe_leaves_the_output_alone_and_tiles_do_not_matter(architecture):
    model, sample = tiny_model(architecture, "sdpa"), random_sample()
    ids = torch.tensor([sample.sequence()])
    plain = response_nll(model, ids, 23)
    profiles = []
    for tile_bytes in (1, 10_000, 2**28):
        with record_attention(model, ids.shape[1] - 23, 3, 303, tile_bytes) as recording:
            torch.testing.assert_close(response_nll(model, ids, 23), plain, rtol=0, atol=0)
        profiles.append(recording.profiles())
    torch.testing.assert_close(profiles[0], profiles[2], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(profiles[1], profiles[2], rtol=1e-5, atol=1e-9)


def test_attention_sinks_take_their_share():
    torch.manual_seed(0)
    query, key, sinks = torch.randn(4, 3, 8), torch.randn(2, 10, 8), torch.randn(4)
    visible = torch.ones(3, 10, dtype=torch.bool)
    got = mean_attention(query, key, 2, 9, scaling=0.3, visible=lambda rows: visible[rows], sinks=sinks)
    scores = query @ key.repeat_interleave(2, 0).transpose(1, 2) * 0.3
    weights = torch.cat([scores, sinks[:, None, None].expand(4, 3, 1)], -1).softmax(-1)[..., 2:9]
    torch.testing.assert_close(got, weights.mean((0, 1)))


@pytest.mark.parametrize("window", [None, 5])
def test_without_a_dense_mask_rows_are_causal_with_their_window(window):
    """What flash backends rely on: they get no mask, only the size of the window."""
    recording = AttentionRecording(first_query=6, first_key=0, last_key=10)
    visible = _visible_rows(recording, None, 10, window, torch.device("cpu"))(slice(1, 4))
    expected = [[key <= query and (window is None or key > query - window) for key in range(10)] for query in (7, 8, 9)]
    assert visible.tolist() == expected


def test_a_mask_with_a_bias_or_of_several_heads_is_refused():
    def visible(mask):
        recording = AttentionRecording(first_query=1, first_key=0, last_key=3)
        return _visible_rows(recording, mask, 3, None, torch.device("cpu"))(slice(0, 2)).tolist()

    causal = torch.ones(1, 1, 3, 3).tril() == 1
    for hidden in (-1e4, torch.finfo(torch.float32).min, float("-inf")):
        assert visible(torch.zeros(1, 1, 3, 3).masked_fill(~causal, hidden)) == visible(causal)
    alibi = torch.tensor([[[[0.0, hidden, hidden], [-1, 0, hidden], [-2, -1, 0]]]])
    with pytest.raises(ModelError, match=r"adds a bias to its attention scores, .* set models\.long"):
        visible(alibi)
    with pytest.raises(ModelError, match=r"masks each of its 4 heads in its own way, .* set models\.long"):
        visible(causal.expand(1, 4, 3, 3))


def test_a_model_outside_the_attention_interface_is_an_error():
    model = tiny_model("llama", "sdpa")
    with record_attention(model, 0, 0, 1) as recording:
        pass
    with pytest.raises(ModelError, match="attention interface"):
        recording.profiles()


# --- θ_S: the window is truly extended ---


def scaled(window=128, factor=1.0):
    rope = {"rope_type": "dynamic", "factor": factor, "rope_theta": 10_000.0}
    return tiny_model("llama", "sdpa", max_position_embeddings=window, rope_parameters=rope)


def test_dynamic_ntk_frequencies_are_in_use_beyond_the_window():
    window, sample = 128, random_sample()
    model = scaled(window)
    plain = tiny_model("llama", "sdpa", max_position_embeddings=window)
    within = random_sample(n_context=60)
    torch.testing.assert_close(ShortPass(None).compute(model, within), ShortPass(None).compute(plain, within))

    long_nll = ShortPass(None).compute(model, sample)["token_nll"]
    base = 10_000.0 * (sample.n_tokens / window) ** (16 / 14)
    expected = 1 / base ** (torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)
    assert np.abs(np.subtract(long_nll, ShortPass(None).compute(plain, sample)["token_nll"])).max() > 0.01

    # and the oracle with these frequencies, set by hand, agrees
    oracle_model = tiny_model("llama", max_position_embeddings=window)
    oracle_model.model.rotary_emb.inv_freq = expected
    assert np.mean(long_nll) == pytest.approx(oracle.nll(oracle_model, sample.sequence(), 23), abs=1e-4)


def test_scores_do_not_depend_on_the_samples_before():
    model, samples = scaled(), [random_sample(n, seed=n) for n in (200, 600, 150, 30)]
    forwards = [ShortPass(None).compute(model, sample)["token_nll"] for sample in samples]
    backwards = [ShortPass(None).compute(model, sample)["token_nll"] for sample in reversed(samples)][::-1]
    assert forwards == backwards
    # without the reset they would: the frequencies of the longest sample stay
    ids = torch.tensor([samples[2].sequence()])
    reset_rotary_scaling(model)
    alone = response_nll(model, ids, 23)
    response_nll(model, torch.tensor([samples[1].sequence()]), 23)
    assert (response_nll(model, ids, 23) - alone).abs().max() > 1e-4


def test_only_dynamic_scaling_costs_a_reset():
    """What has no state gets no forward of one token; a class that is not of transformers may have any state."""

    def resets(model):
        lengths = []
        model.register_forward_pre_hook(
            lambda module, arguments, options: lengths.append(options["input_ids"].shape[1]), with_kwargs=True
        )
        LongPass(16, 128).compute(model, random_sample())
        return lengths.count(1)

    own = tiny_model("llama", "sdpa")
    own.__class__ = type("OwnModel", (type(own),), {"__module__": "transformers_modules.own"})
    models = [scaled(), own, *(tiny_model(name, "sdpa") for name in ("llama", "qwen2_yarn", "gemma3_mixed"))]
    assert [resets(model) for model in models] == [1, 1, 0, 0, 0]


def test_layer_types_with_scales_of_their_own_are_reset_too(tmp_path):
    """Gemma 3: the full-attention layers are scaled, and again no sample depends on the one before."""
    tiny_model("gemma3_mixed", max_position_embeddings=128).save_pretrained(tmp_path)
    spec = ModelSpec(str(tmp_path))
    model = load_model(spec, load_config(spec, dynamic_ntk=True), Runtime("cpu"))
    samples = [random_sample(n, seed=n) for n in (200, 600, 150)]
    forwards = [ShortPass(None).compute(model, sample)["token_nll"] for sample in samples]
    backwards = [ShortPass(None).compute(model, sample)["token_nll"] for sample in reversed(samples)][::-1]
    assert forwards == backwards
    plain = load_model(spec, load_config(spec), Runtime("cpu"))
    assert ShortPass(None).compute(plain, samples[0])["token_nll"] != forwards[0]


def test_truncate_keeps_the_last_window_tokens_of_the_whole_sequence():
    model, sample = tiny_model("llama", "sdpa"), random_sample(n_context=300)
    window = 100
    got = ShortPass(window).compute(model, sample)["token_nll"]
    kept = sample.head + sample.context[-(window - sample.n_frame) :] + sample.question + sample.response
    assert len(kept) == window
    assert np.mean(got) == pytest.approx(oracle.nll(tiny_model("llama"), kept, 23), abs=1e-4)
    assert not ShortPass(sample.n_frame - 1).fits(sample.n_frame)
    assert ShortPass(sample.n_frame).fits(sample.n_frame)


# --- edges ---


def test_a_context_of_one_token():
    model, sample = tiny_model("llama", "sdpa"), random_sample(n_context=1)
    long, segments = LongPass(16, 128).compute(model, sample), SegmentPass(SEGMENT, 1000, ()).compute(model, sample)
    assert (len(long["attention"]), len(segments["segment_nll"])) == (1, 1)
    attention = segment_means(long["attention"], long["attention_peak"], 1, 16, SEGMENT)
    cas = contextual_awareness(segments["segment_nll"], attention, "inverse_ppl")
    assert cas == pytest.approx(1)


def test_no_context_gives_perplexities_but_no_profile():
    model, sample = tiny_model("llama", "sdpa"), random_sample(n_context=0)
    long, segments = LongPass(16, 128).compute(model, sample), SegmentPass(SEGMENT, 1000, ()).compute(model, sample)
    assert (long["attention"], long["layer_attention"], segments["segment_nll"]) == ([], [], [])
    assert np.mean(long["token_nll"]) == pytest.approx(segments["nll_instruction_only"], abs=1e-5)


def test_a_lone_token_that_nothing_can_precede_has_no_likelihood_of_its_own():
    model, sample = tiny_model("llama", "sdpa"), random_sample(n_response=1)
    assert SegmentPass(SEGMENT, 1000, ()).compute(model, sample)["nll_response_only"] is None
    assert math.isfinite(SegmentPass(SEGMENT, 1000, (0,)).compute(model, sample)["nll_response_only"])


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=ON_CUDA)])
@pytest.mark.parametrize("architecture", ["llama", "mistral_window"])
def test_on_cuda_in_bfloat16_scores_stay_close_to_the_oracle(architecture, device):
    from transformers.utils.import_utils import is_flash_attn_2_available

    backend = "flash_attention_2" if is_flash_attn_2_available() else "sdpa"
    sample, slow = random_sample(), tiny_model(architecture, initializer_range=0.05)
    fast = tiny_model(architecture, backend, initializer_range=0.05).to(device, torch.bfloat16)
    long = LongPass(16, 128).compute(fast, sample)
    assert np.mean(long["token_nll"]) == pytest.approx(oracle.nll(slow, sample.sequence(), 23), rel=0.02)
    expected = block_means(oracle.attention_profiles(slow, sample.sequence(), 23, 3, 303).mean(0), 16)
    np.testing.assert_allclose(profile_of(long, "attention").sum(), expected.sum(), rtol=0.02)
