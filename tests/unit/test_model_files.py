"""Fingerprints and checks of models from their files."""

import json
import os
import shutil

import pytest

from gateau.errors import ModelError, SettingsError
from gateau.model_files import ModelSpec, tokenizer_fingerprint, weights_fingerprint
from gateau.models import Runtime, load_config, load_model, load_tokenizer, tokenizer_digest

from helpers import TINY_PAIR, run_script


def copy(tmp_path, name="m"):
    return shutil.copytree(TINY_PAIR / "long", tmp_path / name)


def test_fingerprint_follows_weights_and_config_not_path_or_time(tmp_path):
    original = weights_fingerprint(str(TINY_PAIR / "long"), None)
    same = copy(tmp_path, "same")
    os.utime(same / "model.safetensors", (1, 1))
    assert weights_fingerprint(str(same), None) == original
    assert weights_fingerprint(str(TINY_PAIR / "short"), None) != original
    changed = copy(tmp_path, "changed")
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1000:] = bytes(1000)
    (changed / "model.safetensors").write_bytes(weights)
    assert weights_fingerprint(str(changed), None) != original
    configured = copy(tmp_path, "configured")
    config = json.loads((configured / "config.json").read_text())
    (configured / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert weights_fingerprint(str(configured), None) != original
    assert tokenizer_fingerprint(str(configured), None) == tokenizer_fingerprint(str(TINY_PAIR / "short"), None)
    assert weights_fingerprint("org/name", "abc") == "hub:org/name@abc"


def test_a_missing_model_says_what_to_do(tmp_path):
    spec = ModelSpec(str(tmp_path / "nowhere"))
    for attempt in (load_tokenizer, load_config):
        with pytest.raises(ModelError, match=r"no such model directory; set models\.short"):
            attempt(spec)
    with pytest.raises(ModelError, match="hub name that is cached"):
        load_tokenizer(ModelSpec("surely-not/here"))


def test_a_broken_model_says_what_is_wrong(tmp_path):
    broken = copy(tmp_path)
    (broken / "model.safetensors").unlink()
    spec = ModelSpec(str(broken))
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_model(spec, load_config(spec), Runtime())
    (broken / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        spec.config()


def test_window_and_rope_parameters_replace_the_models_own():
    spec = ModelSpec(str(TINY_PAIR / "long"), window=77, rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    config = load_config(spec)
    assert config.max_position_embeddings == 77
    assert config.rope_parameters == {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 80_000.0}


def test_scaling_a_model_without_rotary_embeddings_is_refused(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"use scoring\.short_context: truncate"):
        load_config(ModelSpec(str(tmp_path), rope_parameters={"rope_type": "dynamic", "factor": 1.0}))


def test_auto_resolves_to_what_is_there():
    import torch

    config = load_config(ModelSpec(str(TINY_PAIR / "long")))
    described = Runtime("cpu").describe(config)
    assert described == {"device": "cpu", "dtype": "float32", "attention": "sdpa"}
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="sees no CUDA device"):
            Runtime("cuda").resolved_device()


def test_homologous_tokenizers_agree_and_others_do_not(tmp_path, tiny_tokenizer):
    from copy import deepcopy

    from tokenizers import processors

    assert tokenizer_digest(tiny_tokenizer) == tokenizer_digest(load_tokenizer(ModelSpec(str(TINY_PAIR / "short"))))
    no_bos = deepcopy(tiny_tokenizer)
    no_bos.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    assert tokenizer_digest(no_bos) != tokenizer_digest(tiny_tokenizer)


def test_training_the_pair_works_in_a_few_steps(tmp_path):
    """The script that made the committed pair runs; the full training takes minutes and is not repeated here."""
    result = run_script("train_tiny_pair", tmp_path, "--scale", "0.002")
    assert result.returncode == 0, result.stderr
    for name, window in (("short", 256), ("long", 1024)):
        spec = ModelSpec(str(tmp_path / name))
        model = load_model(spec, load_config(spec), Runtime("cpu"))
        assert model.config.max_position_embeddings == window
        assert tokenizer_digest(load_tokenizer(spec)) == tokenizer_digest(
            load_tokenizer(ModelSpec(str(TINY_PAIR / name)))
        )
