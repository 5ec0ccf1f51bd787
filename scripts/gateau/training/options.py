"""Options and files of a training, and what they mean for DeepSpeed and transformers' Trainer."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from gateau.errors import SettingsError


@dataclass(frozen=True)
class TrainOptions:
    """The settings of the section ``train`` that change the result. ``config/README.md`` describes each of them."""

    learning_rate: float
    lr_scheduler: str
    warmup_share: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    max_grad_norm: float
    optimizer: str
    lora: Mapping[str, Any] | None
    dtype: str
    attention: str
    device: str
    seed: int


@dataclass(frozen=True)
class RunOptions:
    """The settings of the section ``train`` that do not change the result: where and how the training runs."""

    gradient_checkpointing: bool
    deepspeed: str | None
    nodes: int
    ranks_per_node: int
    threads: int
    evaluate_steps: int
    save_steps: int
    checkpoint_dir: str
    resume: str
    report_to: str
    peak_tflops: float | None
    log_dir: str


@dataclass(frozen=True)
class TrainFiles:
    """Paths of the inputs and outputs of a training.

    Attributes:
        mixture: table of the rows to train on and the held-out rows.
        plan: the batch plan.
        tokens: token tables by source, ``long`` and, if there are short chats, ``short``.
        model: output folder of the weights.
        history: output file of the log history, jsonl.
        summary: output file of the summary, JSON.
    """

    mixture: str
    plan: str
    tokens: Mapping[str, str]
    model: str
    history: str
    summary: str


def check_installed(options: TrainOptions, run: RunOptions) -> None:
    """Raise SettingsError if a setting needs a package that is not installed, before anything is loaded."""
    wanted = {"wandb": run.report_to == "wandb", "bitsandbytes": options.optimizer == "adamw_8bit"}
    for package, is_wanted in wanted.items():
        if is_wanted and find_spec(package) is None:
            setting = "report_to: wandb" if package == "wandb" else "optimizer: adamw_8bit"
            raise SettingsError(f"train.{setting} needs the package {package}: pip install {package}")


def deepspeed_config(path: str | None, on_cpu: bool) -> dict[str, Any] | None:
    """Read the DeepSpeed configuration; None trains without DeepSpeed."""
    if path is None:
        return None
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise SettingsError(f"train.deepspeed: cannot read {path} ({error}); see config/deepspeed") from error
    if not isinstance(config, dict) or "stage" not in config.get("zero_optimization", {}):
        raise SettingsError(f"train.deepspeed: {path} lacks zero_optimization.stage; see config/deepspeed")
    return config


def training_arguments(
    options: TrainOptions,
    run: RunOptions,
    folder: Path,
    n_steps: int,
    on_cpu: bool,
    dtype: torch.dtype,
    deepspeed: dict[str, Any] | None,
    experiment: str,
) -> TrainingArguments:
    """Return the arguments of transformers' Trainer for a plan of ``n_steps`` steps; ``folder`` takes checkpoints."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = run.log_dir
    return TrainingArguments(
        output_dir=str(folder),
        run_name=experiment,
        num_train_epochs=1,  # the plan contains all epochs
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,  # one item of the data set is a whole step with all its micro-batches
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.lr_scheduler,
        warmup_steps=math.ceil(options.warmup_share * n_steps),
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        max_grad_norm=options.max_grad_norm,
        optim=options.optimizer,
        seed=options.seed,
        use_cpu=on_cpu,
        bf16=dtype == torch.bfloat16,
        activation_checkpointing=run.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        deepspeed=deepspeed,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        ignore_data_skip=True,  # the sampler itself starts after the last step done
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_steps=run.evaluate_steps,
        save_strategy="steps",
        save_steps=run.save_steps,
        report_to=run.report_to,
        disable_tqdm=True,
        log_level="error",
    )
