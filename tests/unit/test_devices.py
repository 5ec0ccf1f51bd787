"""Models whose layers lie on several devices: the same scores and answers, and clear refusals.

Two GPUs are simulated by a device map that leaves some layers on disk and keeps the others on the CPU. accelerate's
hooks then load and move tensors as they do between GPUs.
"""

import numpy as np
import pytest
import torch

from gateau.costs.passes import forward_bytes, largest_share
from gateau.costs.run import Stage
from gateau.errors import ModelError, SettingsError
from gateau.evaluation.answering.generation import Generator
from gateau.evaluation.answering.prompting import Prompter
from gateau.evaluation.answering.questions import Question
from gateau.model_files import ModelSpec
from gateau.models import Runtime, input_device, load_config, load_model, load_pretrained
from gateau.scoring.passes import LongPass, SegmentPass, ShortPass
from gateau.scoring.settings import pass_settings
from gateau.scoring_section import check_gpus
from gateau.work import DecoderShape

from helpers import TINY_PAIR
from unit.models import random_sample, tiny_model

PASSES = (ShortPass(None), LongPass(16, 64), SegmentPass(64, 200, (0,)))
SAMPLES = [random_sample(n, seed=n) for n in (150, 40)]


def spread(spec, config, folder, attention="sdpa", dtype="float32"):
    """Load a model with its embeddings and every other layer on disk, and the rest on the CPU."""
    layers = {f"model.layers.{n}": ("disk", "cpu")[n % 2] for n in range(config.num_hidden_layers)}
    ends = {"model.embed_tokens": "disk", "lm_head": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    device_map = {**ends, **layers}
    placement = {"device_map": device_map, "offload_folder": folder}
    return load_pretrained(spec, config, getattr(torch, dtype), attention, **placement).eval()


@pytest.mark.parametrize(
    ("architecture", "attention", "dtype"),
    [
        ("llama", "sdpa", "float32"),
        ("llama", "sdpa", "bfloat16"),
        ("gemma3_mixed", "sdpa", "float32"),
        ("gemma2_softcap", "eager", "bfloat16"),
        ("gpt_oss", "eager", "float32"),
    ],
)
def test_layers_on_several_devices_score_alike(architecture, attention, dtype, tmp_path):
    """Dynamic NTK is on, whose frequencies each sample must find reset."""
    layers = {} if architecture == "llama" else {"layer_types": ["sliding_attention", "full_attention"]}
    model = tiny_model(architecture, max_position_embeddings=128, num_hidden_layers=2, **layers)
    model.save_pretrained(tmp_path / "model")
    spec = ModelSpec(str(tmp_path / "model"))
    is_scaled = architecture != "gpt_oss"  # it scales its frequencies itself
    whole = load_model(spec, load_config(spec, dynamic_ntk=is_scaled), Runtime("cpu", dtype, attention))
    model = spread(spec, load_config(spec, dynamic_ntk=is_scaled), tmp_path / "offloaded", attention, dtype)
    assert {str(weight.device) for weight in model.parameters()} == {"cpu", "meta"}, "a part is on disk"
    assert input_device(model).type == "cpu"
    for one in PASSES:
        for sample in SAMPLES:
            assert one.compute(model, sample) == one.compute(whole, sample), one.name


def test_layers_on_several_devices_answer_alike(tiny_tokenizer, tmp_path):
    spec = ModelSpec(str(TINY_PAIR / "long"))
    prompter = Prompter(tiny_tokenizer, "longalign", 500, 1024)
    questions = [Question("b", str(n), ("Note falcon says balor. " * n + "What?",), max_new_tokens=8) for n in (1, 5)]
    whole = load_model(spec, load_config(spec), Runtime("cpu"))
    answers = Generator(spread(spec, load_config(spec), tmp_path), prompter).answer(questions)
    assert answers == Generator(whole, prompter).answer(questions)
    assert all(answer.turns[0].new_tokens for answer in answers)


def test_the_first_gpus_are_filled_and_nothing_else(monkeypatch):
    assert Runtime().placement() == {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: {0: 10, 1: 20, 2: 30, "cpu": 40})
    assert Runtime(gpus=2).placement() == {"device_map": "balanced", "max_memory": {0: 10, 1: 20}}
    with pytest.raises(SettingsError, match=r"evaluate\.generate\.gpus_per_job is 4, but torch sees 3 CUDA devices"):
        Runtime(setting="evaluate.generate", gpus=4).placement()


def test_a_model_that_does_not_fit_its_gpus_is_refused(monkeypatch):
    spec = ModelSpec(str(TINY_PAIR / "long"))
    layers = {f"model.layers.{n}": "disk" for n in range(load_config(spec).num_hidden_layers)}
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    monkeypatch.setattr(Runtime, "placement", lambda self: {"device_map": {**layers, **rest}})
    with pytest.raises(ModelError, match=r"does not fit 2 GPUs; raise scoring\.gpus_per_job"):
        load_model(spec, load_config(spec), Runtime("cpu", gpus=2))


def test_results_are_stored_under_the_same_key():
    spec = ModelSpec(str(TINY_PAIR / "long"))
    one, four = (pass_settings(spec, load_config(spec), Runtime("cpu", gpus=gpus), "", 10) for gpus in (1, 4))
    assert one == four


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda:1"])
def test_several_gpus_need_a_device_that_is_all_gpus(device):
    with pytest.raises(SettingsError, match=rf"gpus_per_job is 2, but scoring.device is {device}; set scoring.device"):
        check_gpus("scoring", {"gpus_per_job": 2, "device": device})
    check_gpus("scoring", {"gpus_per_job": 1, "device": device})
    check_gpus("scoring", {"gpus_per_job": 2, "device": "auto"})


def test_the_share_of_one_gpu_is_what_accelerate_may_put_on_it():
    """The map is accelerate's own, of a model without weights, on GPUs with room enough."""
    from transformers.integrations.accelerate import expand_device_map, get_balanced_memory, infer_auto_device_map

    with torch.device("meta"):
        model = tiny_model("llama", num_hidden_layers=24, vocab_size=2000)
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    for gpus in (2, 3, 4):
        memory = get_balanced_memory(model, dict.fromkeys(range(gpus), 10**9), model._no_split_modules)
        places = expand_device_map(infer_auto_device_map(model, memory, model._no_split_modules), sizes)
        largest = max(sum(sizes[name] for name in sizes if places[name] == number) for number in range(gpus))
        share = largest_share(DecoderShape.from_config(model.config), gpus)
        assert largest / sum(sizes.values()) <= share * 1.001 < 1
    assert largest_share(DecoderShape.from_config(model.config), 1) == 1


def test_a_70b_fits_four_gpus_of_80_gb_but_not_one():
    config = {
        "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64, "num_key_value_heads": 8,
        "intermediate_size": 28672, "vocab_size": 128256, "tie_word_embeddings": False,
    }  # fmt: skip
    shape = DecoderShape.from_config(config)
    needed = {n: forward_bytes(shape, 64000, 501, 2, probe=True, share=largest_share(shape, n)) for n in (1, 2, 4)}
    assert 145e9 < needed[1] < 170e9
    assert needed[4] < 60e9 < 80e9 < needed[2] < 100e9


def test_gpus_that_wait_for_another_one_count_as_hours():
    stage = Stage("long_pass", "", 1, 4, "", flops=3.6e15)
    assert stage.device_hours(1e12) == 4
    assert Stage("train", "", 1, 4, "", flops=3.6e15).device_hours(1e12) == 1


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_score_as_one(tmp_path):
    tiny_model("llama", max_position_embeddings=128).save_pretrained(tmp_path)
    spec = ModelSpec(str(tmp_path))
    one, two = (
        load_model(spec, load_config(spec, dynamic_ntk=True), Runtime("cuda", "float32", "sdpa", gpus=gpus))
        for gpus in (1, 2)
    )
    assert {weight.device.index for weight in two.parameters()} == {0, 1}
    for scoring_pass in PASSES:
        for sample in SAMPLES:
            expected, got = (scoring_pass.compute(model, sample) for model in (one, two))
            for column, value in expected.items():
                np.testing.assert_allclose(got[column], value, rtol=1e-5)
