"""Fingerprints and checks of models from their files."""

import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from gateau.errors import ModelError, SettingsError
from gateau.model_files import ModelSpec, check_window, tokenizer_fingerprint, weights_fingerprint
from gateau.models import Runtime, config_window, load_config, load_model, load_tokenizer, resolved, tokenizer_digest
from gateau.scoring.settings import pass_settings

from helpers import ROOT, TINY_PAIR, run_script
from unit.tokenizers import prefixed_tokenizer


def copy(tmp_path, name="m"):
    return shutil.copytree(TINY_PAIR / "long", tmp_path / name)


def test_fingerprint_follows_weights_and_config_not_path_or_time(tmp_path):
    original = weights_fingerprint(str(TINY_PAIR / "long"), None)
    same = copy(tmp_path, "same")
    os.utime(same / "model.safetensors", (1, 1))
    assert weights_fingerprint(str(same), None) == original
    assert weights_fingerprint(str(TINY_PAIR / "short"), None) != original
    changed = copy(tmp_path, "changed")
    for name in ("model.layers.2.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight"):
        weights = load_file(TINY_PAIR / "long/model.safetensors")
        weights[name] *= 1.01
        save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
        weights_fingerprint.cache_clear()
        assert weights_fingerprint(str(changed), None) != original
    configured = copy(tmp_path, "configured")
    config = json.loads((configured / "config.json").read_text())
    (configured / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert weights_fingerprint(str(configured), None) != original
    assert tokenizer_fingerprint(str(configured), None) == tokenizer_fingerprint(str(TINY_PAIR / "short"), None)
    assert weights_fingerprint("org/name", "abc") == "hub:org/name@abc"


def test_the_fingerprint_of_an_embedding_model_follows_all_of_its_modules(tmp_path):
    """Another pooling, dense layer or prompt gives other vectors from the same weights."""
    model = copy(tmp_path)
    plain = weights_fingerprint(str(TINY_PAIR / "long"), None)

    def module(name, kind):
        return {"idx": 0, "name": name, "path": name, "type": f"sentence_transformers.models.{kind}"}

    for folder in ("1_Pooling", "2_Dense"):
        (model / folder).mkdir()
    listed = json.dumps([module("", "Transformer"), module("1_Pooling", "Pooling"), module("2_Dense", "Dense")])
    dense = load_file(model / "model.safetensors")["model.norm.weight"]
    changes = [
        lambda: (model / "modules.json").write_text(listed),
        lambda: (model / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}'),
        lambda: (model / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": false}'),
        lambda: save_file({"linear.weight": dense}, model / "2_Dense/model.safetensors"),
        lambda: save_file({"linear.weight": dense * 2}, model / "2_Dense/model.safetensors"),
        lambda: (model / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}'),
        lambda: (model / "sentence_bert_config.json").write_text('{"max_seq_length": 128}'),
    ]
    found = [plain]
    for change in changes:
        change()
        weights_fingerprint.cache_clear()
        found.append(weights_fingerprint(str(model), None))
    assert len(set(found)) == len(found)
    (model / "README.md").write_text("words")
    weights_fingerprint.cache_clear()
    assert weights_fingerprint(str(model), None) == found[-1]
    (model / "modules.json").write_text("{")
    weights_fingerprint.cache_clear()
    with pytest.raises(ModelError, match=r"modules\.json: not a list of modules .*; copy the model again"):
        weights_fingerprint(str(model), None)


@pytest.mark.parametrize(
    ("file", "fingerprint"), [("config.json", weights_fingerprint), ("tokenizer_config.json", tokenizer_fingerprint)]
)
def test_fingerprints_follow_the_code_that_a_model_names(tmp_path, file, fingerprint):
    model = copy(tmp_path)

    def after(code):
        (model / "own.py").write_text(code)
        fingerprint.cache_clear()
        return fingerprint(str(model), None)

    assert after("a = 1") == after("a = 2") == fingerprint(str(TINY_PAIR / "long"), None)
    settings = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps({**settings, "auto_map": {"AutoConfig": "own.Own"}}))
    assert after("a = 1") != after("a = 2")


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


def test_a_checkpoint_with_missing_or_cut_off_tensors_is_refused(tmp_path):
    """Without this check, transformers would fill missing tensors with random values."""
    broken = copy(tmp_path)
    weights = load_file(broken / "model.safetensors")
    gone = [name for name in weights if ".layers.2." in name]
    save_file(
        {k: v for k, v in weights.items() if k not in gone}, broken / "model.safetensors", metadata={"format": "pt"}
    )
    spec = ModelSpec(str(broken))
    with pytest.raises(ModelError, match=f"{len(gone)} tensors of the model are not in its weights"):
        load_model(spec, load_config(spec), Runtime("cpu"))
    whole = (TINY_PAIR / "long/model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_model(spec, load_config(spec), Runtime("cpu"))


def test_a_path_in_the_home_directory(tmp_path, monkeypatch):
    copy(tmp_path, "home_model")
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = ModelSpec("~/home_model")
    assert load_model(spec, load_config(spec), Runtime("cpu")).config.num_hidden_layers == 4
    load_tokenizer(spec)


def test_dynamic_ntk_does_not_overwrite_a_scaling_of_the_models_own(tmp_path):
    scaled = copy(tmp_path)
    config = json.loads((scaled / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    (scaled / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"scales its rotary embeddings itself \(linear\)"):
        load_config(ModelSpec(str(scaled)), dynamic_ntk=True)
    chosen = load_config(ModelSpec(str(scaled), rope_parameters={"factor": 2.0}), dynamic_ntk=True)
    assert chosen.rope_parameters["factor"] == 2.0
    assert chosen.rope_parameters["rope_type"] == "dynamic"


def test_dynamic_ntk_leaves_sliding_layers_alone(tmp_path):
    from unit.models import tiny_model

    tiny_model("gemma3_mixed").config.save_pretrained(tmp_path)
    plain, scaled = load_config(ModelSpec(str(tmp_path))), load_config(ModelSpec(str(tmp_path)), dynamic_ntk=True)
    assert scaled.rope_parameters["full_attention"]["rope_type"] == "dynamic"
    assert scaled.rope_parameters["sliding_attention"] == plain.rope_parameters["sliding_attention"]


def test_a_hub_model_is_filed_under_its_commit(tmp_path):
    """When ``main`` moves to another commit in the hub cache, the settings of a pass change."""
    code = (
        "from gateau.models import Runtime, load_config, load_tokenizer, resolved\n"
        "from gateau.model_files import ModelSpec\n"
        "from gateau.scoring.settings import pass_settings\n"
        "import pathlib, sys\n"
        "for commit in 'a' * 40, 'b' * 40:\n"
        "    pathlib.Path(sys.argv[1]).write_text(commit)\n"
        "    spec = resolved(ModelSpec('org/name'))\n"
        "    load_tokenizer(spec)\n"
        "    print(pass_settings(spec, load_config(spec), Runtime('cpu'), 'p', 10)['weights'])\n"
    )
    repository = tmp_path / "hub/models--org--name"
    (repository / "refs").mkdir(parents=True)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "scripts")}
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(TINY_PAIR / "long", repository / "snapshots" / commit)
    command = [sys.executable, "-c", code, str(repository / "refs/main")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [f"hub:org/name@{commit}" for commit in ("a" * 40, "b" * 40)]
    local = ModelSpec(str(TINY_PAIR / "long"))
    assert resolved(local) == local


def test_a_window_that_is_too_short_is_refused():
    window = load_config(ModelSpec(str(TINY_PAIR / "long"))).max_position_embeddings
    check_window(ModelSpec("org/name"), window, 1024)
    check_window(ModelSpec("org/name"), None, 10**6)
    check_window(ModelSpec("org/name", rope_parameters={"rope_type": "yarn"}), window, 10**6)
    with pytest.raises(ModelError, match="window of 1024 tokens"):
        check_window(ModelSpec("org/name"), window, 1025)


def test_window_and_rope_parameters_replace_the_models_own():
    spec = ModelSpec(str(TINY_PAIR / "long"), window=77, rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    config = load_config(spec)
    assert config.max_position_embeddings == 77
    assert config.rope_parameters == {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 80_000.0}


@pytest.mark.parametrize(
    ("architecture", "given"),
    [
        ("phi3_longrope", {}),
        ("qwen2", {"rope_type": "yarn", "factor": 4.0}),
        ("gemma3_mixed", {"rope_type": "yarn", "factor": 4.0}),  # one scaling per layer type
        ("llama", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
    ],
)
def test_another_window_changes_no_frequency(architecture, given, tmp_path):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from unit.models import tiny_model

    tiny_model(architecture).config.save_pretrained(tmp_path)
    layer = {"layer_type": "full_attention"} if architecture == "gemma3_mixed" else {}
    found = []
    for window in (None, 512, 8192):
        config = load_config(ModelSpec(str(tmp_path), window=window, rope_parameters=given))
        assert config_window(config) == (window or 2048)
        rope = config.rope_parameters["full_attention"] if layer else config.rope_parameters
        frequencies, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=1000, **layer)
        found.append([factor, *frequencies.tolist()])
    assert found[0] == found[1] == found[2]


def test_another_window_of_a_model_with_dynamic_ntk_of_its_own_is_refused(tmp_path):
    from unit.models import tiny_model

    own = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    tiny_model("llama", rope_parameters=own).config.save_pretrained(tmp_path)
    assert config_window(load_config(ModelSpec(str(tmp_path), window=2048))) == 2048
    with pytest.raises(ModelError, match=r"beyond 2048 tokens \(dynamic\), .* leave out window, and set") as error:
        load_config(ModelSpec(str(tmp_path), window=4096))
    assert "{rope_type: dynamic, factor: 2.0}" in str(error.value)
    given = ModelSpec(str(tmp_path), rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    assert load_config(given).rope_parameters == own


def test_scaling_a_model_without_rotary_embeddings_is_refused(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"use scoring\.short_context: truncate"):
        load_config(ModelSpec(str(tmp_path), rope_parameters={"rope_type": "dynamic", "factor": 1.0}))


def test_the_window_of_a_model_that_reads_images_is_that_of_its_text_model(tmp_path):
    from unit.models import tiny_model

    tiny_model("gemma3_images").config.save_pretrained(tmp_path)
    assert config_window(load_config(ModelSpec(str(tmp_path)))) == ModelSpec(str(tmp_path)).context_window() == 2048
    assert config_window(load_config(ModelSpec(str(tmp_path), window=99))) == 99


def test_auto_resolves_to_what_is_there():
    import torch

    config = load_config(ModelSpec(str(TINY_PAIR / "long")))
    described = Runtime("cpu").describe(config)
    assert described == {"device": "cpu", "dtype": "float32", "attention": "sdpa"}
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="sees no CUDA device"):
            Runtime("cuda").resolved_device()


def test_a_model_with_code_of_its_own_gets_the_attention_that_transformers_chooses(tmp_path, caplog):
    copy(tmp_path)
    (tmp_path / "m/own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n    _supports_sdpa = False\n"
    )
    config = json.loads((tmp_path / "m/config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (tmp_path / "m/config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": classes}))
    spec = ModelSpec(str(tmp_path / "m"), trust_remote_code=True)
    with caplog.at_level(logging.INFO):
        model = load_model(spec, load_config(spec), Runtime("cpu"))
    assert model.config._attn_implementation == "eager"
    assert caplog.messages[-1].endswith("transformers chose attention eager")
    key = pass_settings(spec, load_config(spec), Runtime("cpu"), {}, 10)
    assert key["attention"] == "auto", "the same before and after the model is loaded"
    with pytest.raises(ModelError, match=r"OwnModel does not support .*; set evaluate\.generate\.attention: eager$"):
        load_model(spec, load_config(spec), Runtime("cpu", attention="sdpa", setting="evaluate.generate"))


def test_mistral_common_does_not_replace_the_tokenizer(tmp_path, monkeypatch):
    """MistralCommonBackend takes over where mistral-common is installed and the folder has a tekken.json."""
    from transformers.models.auto import tokenization_auto

    copy(tmp_path)
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    (tmp_path / "m/tekken.json").write_text("{}")
    monkeypatch.setattr("transformers.integrations.mistral.tokenizer.is_mistral_common_available", lambda: True)
    monkeypatch.setitem(tokenization_auto.TOKENIZER_MAPPING_NAMES, "mistral", "MistralCommonBackend")
    spec = ModelSpec(str(tmp_path / "m"))
    expected = tokenizer_digest(load_tokenizer(ModelSpec(str(TINY_PAIR / "long"))))
    assert tokenizer_digest(load_tokenizer(spec)) == expected
    asked = {}
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda path, **given: asked.update(given))
    monkeypatch.delattr(tokenization_auto, "_use_mistral_format")
    load_tokenizer(spec)
    assert "mistral_format" not in asked, "an older transformers would take it for an option of the tokenizer"


def test_homologous_tokenizers_agree_and_others_do_not(tmp_path, tiny_tokenizer):
    from copy import deepcopy

    from tokenizers import processors

    assert tokenizer_digest(tiny_tokenizer) == tokenizer_digest(load_tokenizer(ModelSpec(str(TINY_PAIR / "short"))))
    no_bos = deepcopy(tiny_tokenizer)
    no_bos.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    digests = [tokenizer_digest(one)[:8] for one in (tiny_tokenizer, no_bos)]
    assert digests == ["adb6c558", "cb0de332"], "as before other tokens than BOS were known"
    other, _ = prefixed_tokenizer()
    without = deepcopy(other)
    without.backend_tokenizer.post_processor = no_bos.backend_tokenizer.post_processor
    assert tokenizer_digest(other) != tokenizer_digest(without)


def test_training_the_pair_works_in_a_few_steps(tmp_path):
    """The script that made the committed pair works. The full training takes minutes and is not repeated here."""
    result = run_script("train_tiny_pair", tmp_path, "--scale", "0.002", "--width", "64", "--layers", "2")
    assert result.returncode == 0, result.stderr
    for name, window in (("short", 256), ("long", 1024), ("short_chat", 256)):
        spec = ModelSpec(str(tmp_path / name))
        model = load_model(spec, load_config(spec), Runtime("cpu"))
        assert model.config.max_position_embeddings == window
        assert (model.config.hidden_size, model.config.num_hidden_layers) == (64, 2)
        assert tokenizer_digest(load_tokenizer(spec)) == tokenizer_digest(
            load_tokenizer(ModelSpec(str(TINY_PAIR / name)))
        )
