"""What a configuration says about its training and its device, for the estimate of memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gateau.costs.training_memory import Engine, TrainedModel, TrainingSetup
from gateau.errors import SettingsError
from gateau.model_files import ModelSpec
from gateau.models import Runtime
from gateau.places import ROOT

_ASSUMED_GIB = 80.0


@dataclass(frozen=True)
class Target:
    """The device that a training is planned for: ``memory`` in bytes of one device, or of one process on the CPU."""

    name: str
    on_cuda: bool
    is_here: bool
    memory: float


def choose_target(config: Mapping[str, Any], gpu_memory_gib: float | None) -> Target:
    """Return the GPU of this machine, else an assumed one, or the CPU if ``train.device`` says so.

    ``gpu_memory_gib`` replaces the memory of the GPU, and also the CPU by an assumed GPU.
    """
    train = config["train"]
    if gpu_memory_gib is None and train["device"] == "cpu":
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Target("the CPU, memory shared by its processes", False, True, total / train["ranks_per_node"])
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        memory = found.total_memory if gpu_memory_gib is None else gpu_memory_gib * 2**30
        return Target(found.name, True, True, memory)
    assumed = gpu_memory_gib or _ASSUMED_GIB
    return Target(f"an assumed GPU of {assumed:g} GiB (there is none here)", True, False, assumed * 2**30)


def training_attention(config: Mapping[str, Any], model_config: Any, target: Target) -> tuple[str, str]:
    """Return the attention backend of training, and why."""
    train = config["train"]
    if train["attention"] != "auto":
        return train["attention"], "as train.attention says"
    if target.on_cuda and not target.is_here:
        return "flash_attention_2", "assumed: there is no CUDA device here to ask; pip install '.[gpu]' there"
    return _chosen(Runtime(train["device"], train["dtype"], setting="train"), model_config, packed=True)


def scoring_attention(config: Mapping[str, Any], model_config: Any) -> tuple[str, str]:
    """Return the attention backend of the scoring passes on this machine, and why."""
    scoring = config["scoring"]
    if scoring["attention"] != "auto":
        return scoring["attention"], "as scoring.attention says"
    if scoring["device"].startswith("cuda") and not torch.cuda.is_available():
        return "unknown", "scoring.device is cuda, and there is no CUDA device here to ask"
    return _chosen(Runtime(scoring["device"], scoring["dtype"]), model_config, packed=False)


def _chosen(runtime: Runtime, model_config: Any, packed: bool) -> tuple[str, str]:
    attention = runtime.resolved_attention(model_config, packed=packed)
    if attention.startswith("flash"):
        return attention, "the best of those installed for this device"
    if attention == "eager":
        return attention, "the model caps attention logits, which sdpa cannot"
    if runtime.resolved_device().type != "cuda":
        return attention, "on the CPU"
    if runtime.resolved_dtype() == torch.float32:
        return attention, "flash-attn does not compute in float32"
    mask = "; sdpa would mask packed sequences with S x S" if attention == "flex_attention" else ""
    return attention, f"no flash-attn is installed (pip install '.[gpu]'){mask}"


def training_setup(
    config: Mapping[str, Any], spec: ModelSpec, model_config: Any, target: Target, devices: int | None = None
) -> TrainingSetup:
    """Return the configured training of a model, on ``devices`` in place of the configured number if given.

    Raises:
        SettingsError: the DeepSpeed file cannot be read, or cannot be used with the optimizer.
        ModelError: the model is not configured like Llama.
    """
    train, lora = config["train"], config["train"]["lora"]
    devices = devices or train["nodes"] * train["ranks_per_node"]
    packed = config["plan"]["method"] != "sort"
    if train["deepspeed"] and train["optimizer"] == "adamw_8bit":
        raise SettingsError("train.optimizer adamw_8bit cannot be used with DeepSpeed; set train.deepspeed: null")
    return TrainingSetup(
        model=TrainedModel.from_config(
            model_config, (lora or {}).get("target_modules", "all-linear"), spec.trust_remote_code
        ),
        tokens=config["plan"]["token_budget"] if packed else config["tokens"]["max_length"],
        devices=devices,
        devices_per_node=min(train["ranks_per_node"], devices),
        half=target.on_cuda if train["dtype"] == "auto" else train["dtype"] == "bfloat16",
        attention=training_attention(config, model_config, target)[0],
        packed=packed,
        checkpointing=train["gradient_checkpointing"],
        optimizer=train["optimizer"],
        engine=_engine(train["deepspeed"]),
        lora_rank=lora["r"] if lora else None,
        on_cuda=target.on_cuda,
    )


def _engine(path: str | None) -> Engine | None:
    if path is None:
        return None
    file = ROOT / path
    try:
        return Engine.from_config(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"train.deepspeed: cannot read {file} ({error!r}); see config/deepspeed") from error
