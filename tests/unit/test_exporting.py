"""What goes out with a trained model: weights, tokenizer, template, stop token, card."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from gateau.digests import describe_files
from gateau.errors import SettingsError
from gateau.formats import FormatSettings, chat_format
from gateau.model_files import ModelSpec
from gateau.training import exporting
from gateau.training.exporting import StageSummaries, export_model
from gateau.uploads import push_to_hub

from helpers import TINY_PAIR, run_script

BASE = TINY_PAIR / "long"


def summaries(**train):
    options = {"learning_rate": 1e-3, "lora": None, "device": "cpu", "dtype": "auto"}
    return {
        "train": {
            "options": options, "dtype": "float32", "attention": "sdpa", "steps": 5, "world_size": 1,
            "deepspeed_stage": None, "losses": {"loss": [2.0, 1.0], "eval_loss_long": [3.0, 2.5]},
            "versions": {"torch": "2"}, **train,
        },
        "mixture": {"long": 4, "short": 8, "held_out": 0, "tokens": 900, "targets": 70, "longest": 300},
        "plan": {"method": "step_pack", "sequences_per_step": 4, "epochs": 2},
        "selection": {"method": "gateau", "options": {"alpha": 0.8}, "ranked": 10},
    }  # fmt: skip


def trained_weights(tmp_path):
    """The tiny model in float32 with one weight changed, as training leaves it: no tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight += 0.25
    model.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained", model


def test_an_export_loads_as_trained_and_prompts_as_trained(tmp_path):
    trained, model = trained_weights(tmp_path)
    stages = StageSummaries("mine", **summaries())
    export_model(trained, ModelSpec(str(BASE)), "longalign", FormatSettings(), stages, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "falcon"}], add_generation_prompt=True)
    assert rendered["input_ids"] == chat_format("longalign", tokenizer).prompt_ids([], "falcon")
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (generation.eos_token_id, generation.pad_token_id) == (1, 2)
    assert json.loads((tmp_path / "out/gateau.json").read_text())["chat_format"] == "longalign"
    assert not list(tmp_path.glob(".out*"))


def test_weights_in_the_right_form_are_copied_to_the_same_bytes(tmp_path, monkeypatch):
    trained, _ = trained_weights(tmp_path)
    stages = StageSummaries("mine", **summaries())
    export_model(trained, ModelSpec(str(BASE)), "longalign", FormatSettings(), stages, tmp_path / "copied")
    monkeypatch.setattr(exporting, "_can_be_copied", lambda *_: False)
    export_model(trained, ModelSpec(str(BASE)), "longalign", FormatSettings(), stages, tmp_path / "converted")
    assert describe_files(tmp_path / "copied") == describe_files(tmp_path / "converted")


def test_the_card_is_written_from_the_records_and_names_no_local_path(tmp_path):
    trained, _ = trained_weights(tmp_path)
    export_model(
        trained,
        ModelSpec(str(BASE)),
        "longalign",
        FormatSettings(),
        StageSummaries("mine", **summaries()),
        tmp_path / "out",
    )
    card = (tmp_path / "out/README.md").read_text()
    for needle in (
        "fine-tuned: mine",
        "4 long samples",
        "| ranked by | gateau |",
        "| alpha | 0.8 |",
        "2.0000, 1.0000",
        "held-out loss long",
    ):
        assert needle in card
    assert str(TINY_PAIR) not in card
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "out").glob("*.json"))


def test_adapters_are_merged_into_the_base(tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "trained")
    ids = torch.tensor([[0, 30, 40, 50]])
    with torch.no_grad():
        expected = adapted(ids).logits
    export_model(
        tmp_path / "trained",
        ModelSpec(str(BASE)),
        "longalign",
        FormatSettings(),
        StageSummaries("a", **summaries()),
        tmp_path / "out",
    )
    assert not (tmp_path / "out/adapter_config.json").exists()
    with torch.no_grad():
        got = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(ids).logits
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_weights_leave_in_the_type_that_training_computed_in(tmp_path):
    trained, _ = trained_weights(tmp_path)
    stages = StageSummaries("mine", **summaries(dtype="bfloat16"))
    export_model(trained, ModelSpec(str(BASE)), "longalign", FormatSettings(), stages, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_a_push_needs_a_token_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(SettingsError, match="HF_TOKEN is not in the environment"):
        push_to_hub(tmp_path, "me/model", private=True)


def test_a_dry_run_says_what_would_be_pushed(tmp_path):
    trained, _ = trained_weights(tmp_path)
    files = []
    for name, value in summaries().items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
        files += [f"--{'summary' if name == 'train' else name}", tmp_path / f"{name}.json"]
    result = run_script(
        "export", "--experiment", "mine", "--model", trained, *files, "--base", json.dumps({"path": str(BASE)}),
        "--format", "longalign", "--hub", '{"hub_repository": "me/model-{experiment}"}', "--dry-run",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "a push would upload these files (bytes) to me/model-mine" in result.stderr
    assert '"model.safetensors"' in result.stderr
