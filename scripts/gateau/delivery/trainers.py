"""Configurations with which other programs fine-tune on a data set: LLaMA-Factory, Axolotl and TRL.

They are run in the folder of the data set, whose files they name. Each has the run's own settings as far as the program
has a key for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from gateau.model_files import ModelSpec

TEMPLATE_FILE = "chat_template.jinja"
UNSET = "path/to/your/model"
# so many packed sequences make one step, if the program runs on one GPU
_ACCUMULATED = 8


@dataclass(frozen=True)
class TrainingSettings:
    """The settings that the configurations share.

    Attributes:
        base: the model to fine-tune.
        max_length: tokens of a packed sequence, ``tokens.max_length``.
        plan: the section ``plan``.
        train: the section ``train``.
        has_template_file: whether :data:`TEMPLATE_FILE` is beside the data, because the tokenizer's own template is not
            used.
    """

    base: ModelSpec
    max_length: int
    plan: Mapping[str, Any]
    train: Mapping[str, Any]
    has_template_file: bool

    @property
    def model(self) -> str:
        """The model's folder or name on the Hub."""
        path = UNSET if self.base.path == "unset" else self.base.location
        return str(self.base.directory.resolve()) if self.base.is_local else path

    @property
    def overrides(self) -> dict[str, Any]:
        """Entries of the model's config.json that the configuration replaces."""
        window = {"max_position_embeddings": self.base.window} if self.base.window else {}
        return {**window, **({"rope_parameters": self.base.rope_parameters} if self.base.rope_parameters else {})}


def template_beside(base: ModelSpec, given: str | None) -> str | None:
    """Return the chat template that is written beside the data, or None if the tokenizer's own is used.

    Args:
        base: the model to fine-tune.
        given: text of ``tokens.chat_template``, which takes the place of the tokenizer's.

    Returns:
        ``given``, or the format ``longalign`` for a tokenizer without a template.
    """
    if given is not None or base.path == "unset":
        return given
    from gateau.formats import FormatSettings, LongAlignFormat
    from gateau.models import load_tokenizer, resolved

    tokenizer = load_tokenizer(resolved(base))
    if tokenizer.chat_template or tokenizer.eos_token_id is None:
        return None
    return LongAlignFormat(tokenizer, FormatSettings()).chat_template()


def dataset_info(names: Mapping[str, str]) -> dict[str, Any]:
    """Return dataset_info.json of LLaMA-Factory.

    Args:
        names: name of each data set by its file.
    """
    tags = {name: name.removesuffix("_tag") for name in ("role_tag", "content_tag", "user_tag", "assistant_tag")}
    return {
        name: {
            "file_name": file,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {**tags, "system_tag": "system"},
        }
        for file, name in names.items()
    }


def llamafactory(settings: TrainingSettings, names: Sequence[str]) -> str:
    """Return llamafactory.yaml for the data sets of these names in dataset_info.json."""
    train, lora = settings.train, settings.train["lora"]
    template = "# template: not set, so that the tokenizer's chat template is used"
    if settings.has_template_file:
        template = f"# LLaMA-Factory reads the tokenizer's template: copy {TEMPLATE_FILE} into the model's folder first"
    tuning: dict[str, Any] = {"finetuning_type": "full"}
    if lora:
        targets = lora["target_modules"]
        named = targets if isinstance(targets, str) else ",".join(targets)
        tuning = {"finetuning_type": "lora", "lora_rank": lora["r"], "lora_alpha": round(lora["alpha"])}
        tuning["lora_target"] = "all" if named == "all-linear" else named
    lines = [
        "# Run it in this folder: llamafactory-cli train llamafactory.yaml",
        *_yaml({"model_name_or_path": settings.model, **_revision(settings, "model_revision")}),
        *_yaml({"trust_remote_code": True} if settings.base.trust_remote_code else {}),
        *(_config_json(settings) if settings.overrides else ()),
        *_yaml({"stage": "sft", "do_train": True, **tuning}),
        "# deepspeed: a ZeRO-3 file, for all weights of a large model",
        *_yaml({"dataset_dir": ".", "dataset": ",".join(names)}),
        template,
        *_yaml({"cutoff_len": settings.max_length, "packing": True, "neat_packing": True, "flash_attn": "fa2"}),
        *_yaml({"bf16": True, "disable_gradient_checkpointing": False}),
        *_yaml({"per_device_train_batch_size": 1, "gradient_accumulation_steps": _ACCUMULATED}),
        *_yaml({"num_train_epochs": float(settings.plan["epochs"]), **_optimizer(train)}),
        *_yaml({"adam_beta1": train["adam_beta1"], "adam_beta2": train["adam_beta2"], "seed": train["seed"]}),
        *_yaml({"output_dir": "output", "logging_steps": 1, "save_strategy": "epoch", "report_to": "none"}),
    ]
    return "\n".join(lines) + "\n"


def axolotl(settings: TrainingSettings, files: Sequence[str]) -> str:
    """Return axolotl.yaml for these Parquet files."""
    train, lora = settings.train, settings.train["lora"]
    common = {"ds_type": "parquet", "split": "train", "type": "chat_template", "field_messages": "messages"}
    data = [{"path": file, **common, "roles_to_train": ["assistant"], "train_on_eos": "turn"} for file in files]
    template: dict[str, Any] = {"chat_template": "tokenizer_default"}
    if settings.has_template_file:
        template = {"chat_template": "jinja", "chat_template_jinja": TEMPLATE_FILE}
    adapter: dict[str, Any] = {}
    if lora:
        adapter = {"adapter": "lora", "lora_r": lora["r"], "lora_alpha": round(lora["alpha"])}
        is_all = lora["target_modules"] == "all-linear"
        adapter |= {"lora_target_linear": True} if is_all else {"lora_target_modules": lora["target_modules"]}
    names = {"optim": "optimizer", "lr_scheduler_type": "lr_scheduler"}
    optimizer = {names.get(name, name): value for name, value in _optimizer(train).items()}
    lines = [
        "# Run it in this folder: axolotl train axolotl.yaml",
        *_yaml({"base_model": settings.model, **_revision(settings, "revision_of_model"), **adapter}),
        *_yaml({"trust_remote_code": True} if settings.base.trust_remote_code else {}),
        *_yaml({"overrides_of_model_config": settings.overrides} if settings.overrides else {}),
        "# deepspeed: a ZeRO-3 file, for all weights of a large model",
        *_yaml({"datasets": data, **template, "dataset_prepared_path": "prepared"}),
        *_yaml({"sequence_len": settings.max_length, "sample_packing": True, "excess_length_strategy": "drop"}),
        *_yaml({"attn_implementation": "flash_attention_2", "bf16": True, "gradient_checkpointing": True}),
        *_yaml({"micro_batch_size": 1, "gradient_accumulation_steps": _ACCUMULATED}),
        *_yaml({"num_epochs": settings.plan["epochs"], **optimizer}),
        *_yaml({"adam_beta1": train["adam_beta1"], "adam_beta2": train["adam_beta2"], "seed": train["seed"]}),
        *_yaml({"output_dir": "output", "logging_steps": 1}),
    ]
    return "\n".join(lines) + "\n"


def trl(settings: TrainingSettings, files: Sequence[str]) -> str:
    """Return trl.py, a script that fine-tunes on these Parquet files."""
    train, lora = settings.train, settings.train["lora"]
    options = {
        "max_length": settings.max_length, "packing": True, "bf16": True, "gradient_checkpointing": True,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": _ACCUMULATED,
        "num_train_epochs": settings.plan["epochs"], **_optimizer(train, "warmup_steps"),
        "adam_beta1": train["adam_beta1"],
        "adam_beta2": train["adam_beta2"], "seed": train["seed"], "output_dir": "output", "logging_steps": 1,
        "save_strategy": "epoch", "report_to": "none",
    }  # fmt: skip
    if settings.has_template_file:
        options["chat_template_path"] = TEMPLATE_FILE
    peft, further = "None", ""
    if lora:
        further = "from peft import LoraConfig\n"
        peft = f"LoraConfig(r={lora['r']}, lora_alpha={lora['alpha']!r}, target_modules={lora['target_modules']!r})"
    model = {"revision": settings.base.revision, "trust_remote_code": settings.base.trust_remote_code}
    given = {name: value for name, value in model.items() if value}
    return f'''# Run it in this folder: accelerate launch trl.py
# All weights of a large model need DeepSpeed or FSDP: see accelerate config.
import torch
from datasets import load_dataset
{further}from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

MODEL = {json.dumps(settings.model)}
LOADING = {given!r}
OVERRIDES = {settings.overrides!r}
OPTIONS = {{
{chr(10).join(f"    {name!r}: {value!r}," for name, value in options.items())}
}}


def as_prompt(row):
    """Learn the last response only: earlier turns are a part of the prompt."""
    return {{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}}


def main(model=MODEL, attention="flash_attention_2", dtype=torch.bfloat16, **changes):
    rows = load_dataset("parquet", data_files={list(files)!r}, columns=["messages"], split="train")
    rows = rows.filter(lambda row: row["messages"][-1]["role"] == "assistant")
    rows = rows.map(as_prompt, remove_columns=["messages"])
    config = AutoConfig.from_pretrained(model, **LOADING)
    for name, value in OVERRIDES.items():
        own = getattr(config, name, None)
        setattr(config, name, {{**own, **value}} if isinstance(own, dict) else value)
    weights = AutoModelForCausalLM.from_pretrained(
        model, config=config, dtype=dtype, attn_implementation=attention, **LOADING
    )
    tokenizer = AutoTokenizer.from_pretrained(model, **LOADING)
    options = SFTConfig(**{{**OPTIONS, **changes}})
    trainer = SFTTrainer(
        weights, args=options, train_dataset=rows, processing_class=tokenizer, peft_config={peft}
    )
    trainer.train()
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    main()
'''


def _optimizer(train: Mapping[str, Any], warmup: str = "warmup_ratio") -> dict[str, Any]:
    """Return the options of the optimizer under the names of transformers.

    ``warmup`` is the name of the share of steps in which the learning rate rises: transformers has renamed it.
    """
    return {
        "optim": train["optimizer"], "learning_rate": train["learning_rate"],
        "lr_scheduler_type": train["lr_scheduler"], warmup: train["warmup_share"],
        "weight_decay": train["weight_decay"], "max_grad_norm": train["max_grad_norm"],
    }  # fmt: skip


def _revision(settings: TrainingSettings, key: str) -> dict[str, str]:
    return {key: settings.base.revision} if settings.base.revision else {}


def _config_json(settings: TrainingSettings) -> list[str]:
    """Return a remark for a program that has no key for these settings."""
    return [f"# write this into the model's config.json first: {json.dumps(settings.overrides)}"]


def _yaml(entries: Mapping[str, Any]) -> list[str]:
    return yaml.safe_dump(dict(entries), sort_keys=False, width=1000).splitlines() if entries else []
