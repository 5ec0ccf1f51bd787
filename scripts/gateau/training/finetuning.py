"""The fine-tuning of one rank: model, optimiser settings, the checkpoint to resume from, and the output files."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
import transformers
from transformers.trainer_utils import IntervalStrategy

from gateau.digests import meaning_digest
from gateau.errors import SettingsError
from gateau.files import atomic_path, write_json
from gateau.model_files import ModelSpec, weights_fingerprint
from gateau.models import Runtime, config_window, load_config, load_pretrained, resolved
from gateau.schemas import MIXTURE, TOKENS
from gateau.tables import read_metadata, read_rows
from gateau.training.batching import assign_to_ranks
from gateau.training.checkpoints import Checkpoint, convert_to_universal, newest_checkpoint, training_digest
from gateau.training.objective import check_dense_mask
from gateau.training.options import (
    RunOptions,
    TrainFiles,
    TrainOptions,
    check_installed,
    deepspeed_config,
    training_arguments,
)
from gateau.training.packing import MixtureReader
from gateau.training.plans import Plan, read_plan
from gateau.training.trainer import CompleteCheckpoints, Preemption, RankSteps, SequenceMeanTrainer

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
_NUMERICS = (
    "models.py",
    "training/objective.py",
    "training/options.py",
    "training/packing.py",
    "training/trainer.py",
    "training/finetuning.py",
)


def finetune(experiment: str, spec: ModelSpec, options: TrainOptions, run: RunOptions, files: TrainFiles) -> bool:
    """Train one experiment. Every rank calls this function; rank 0 writes the outputs.

    Args:
        experiment: name of the experiment.
        spec: the model to fine-tune.
        options: settings that change the result.
        run: settings that do not change the result.
        files: inputs and outputs.

    Returns:
        True if the training is finished, or False if a signal stopped it early after saving a checkpoint.

    Raises:
        SettingsError: if a setting cannot work; the message says what to change.
        ModelError: if the model cannot be loaded or cannot be trained on packed sequences.
        TrainingError: if the loss is not finite.
    """
    started = time.time()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # caused by DeepSpeed
    spec = resolved(spec)
    torch.set_num_threads(run.threads)
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    runtime = Runtime(options.device, options.dtype, options.attention, setting="train")
    on_cpu = runtime.resolved_device().type == "cpu"
    dtype = runtime.resolved_dtype()
    deepspeed = deepspeed_config(run.deepspeed, on_cpu)
    check_installed(options, run)

    mixture = read_rows(files.mixture, MIXTURE)
    lengths = [row["n_tokens"] for row in mixture]
    plan = read_plan(files.plan).for_world(world_size, lengths)
    digest = training_digest(_settings(spec, options, dtype, deepspeed, plan, mixture, files))
    # two experiments that select the same rows are equal trainings, and may run at the same time
    folder = Path(run.checkpoint_dir) / f"{experiment}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = newest_checkpoint(folder) if run.resume == "auto" else None
    if rank == 0:
        logger.info(
            "checkpoints of this training: %s (%s)", folder, checkpoint.directory.name if checkpoint else "none"
        )
    start = _start(checkpoint, deepspeed, world_size, rank)

    n_steps = len(plan.steps)
    # DeepSpeed's loading hooks are active as long as these arguments exist, so create them before the model
    held_out = any(row["split"] == "held_out" for row in mixture)
    arguments = training_arguments(options, run, folder, n_steps, on_cpu, dtype, deepspeed, experiment)
    arguments.eval_strategy = IntervalStrategy.STEPS if held_out else IntervalStrategy.NO
    arguments.eval_on_start = held_out and start is None
    device = arguments.device  # reading it starts the process group, which sharded loading needs
    if deepspeed:
        _start_deepspeed(on_cpu)
    config = load_config(spec)
    config.use_cache = False
    attention = runtime.resolved_attention(config, packed=True)
    check_dense_mask(attention, _longest_packed(plan, lengths))
    _check_window(spec, config, max(lengths))
    # without DeepSpeed, trained weights are float32 and autocast computes in dtype; frozen weights can be in dtype
    weights_dtype = dtype if deepspeed or options.lora else torch.float32
    model = load_pretrained(spec, config, weights_dtype, attention)
    if options.lora:
        model = _with_adapters(model, options, run)
    reader = MixtureReader(mixture, files.tokens)
    preemption, markers = Preemption(), CompleteCheckpoints()
    trainer = SequenceMeanTrainer(
        model,
        arguments,
        RankSteps(plan.steps, rank, reader),
        _held_out(mixture, plan, lengths, world_size, rank, reader),
        plan.epochs,
        run.peak_tflops,
        bool(options.lora),
        [preemption, markers],
    )
    preemption.trainer = markers.trainer = trainer
    trainer.remove_callback(transformers.PrinterCallback)
    if rank == 0:
        logger.info(
            "%s: %d steps over %d sequences an epoch on %d ranks, attention %s, %s, %s", experiment, n_steps,
            sum(row["split"] == "train" for row in mixture), world_size, attention, str(dtype).removeprefix("torch."),
            f"DeepSpeed ZeRO-{deepspeed['zero_optimization']['stage']}" if deepspeed else "without DeepSpeed",
        )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    if preemption.stopped:
        logger.warning("stopped after step %d of %d; run again to go on", trainer.state.global_step, n_steps)
        return False
    _save_model(trainer, Path(files.model), rank)
    if rank == 0:
        _write_history(files.history, trainer.state.log_history)
        described = {
            "attention": attention,
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
        }
        write_json(
            files.summary,
            {
                "experiment": experiment,
                "base": {"path": spec.path, "revision": spec.revision},
                "options": asdict(options),
                **described,
                "deepspeed_stage": deepspeed["zero_optimization"]["stage"] if deepspeed else None,
                "world_size": world_size,
                "steps": n_steps,
                "epochs": plan.options.epochs,
                "sequences": dict(Counter(row["source"] for row in mixture if row["split"] == "train")),
                "tokens": sum(lengths[sequence] for step in plan.steps for sequence in step.sequences),
                "losses": _first_and_last(trainer.state.log_history),
                "resumed_from_step": checkpoint.step if checkpoint else None,
                "seconds_of_this_run": time.time() - started,
                "speed_of_this_run": trainer.speed.totals(),
                "peak_gpu_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
                "versions": _versions(),
            },
        )
    trainer.accelerator.wait_for_everyone()
    return True


def _settings(
    spec: ModelSpec,
    options: TrainOptions,
    dtype: torch.dtype,
    deepspeed: Mapping[str, Any] | None,
    plan: Plan,
    mixture: Sequence[Mapping[str, Any]],
    files: TrainFiles,
) -> dict[str, Any]:
    """Return all settings that change the weights beyond rounding: the key of this training's checkpoints.

    The number of ranks and the packing are not part of it.
    """
    stage = deepspeed["zero_optimization"]["stage"] if deepspeed else None
    return {
        "weights": weights_fingerprint(spec.path, spec.revision),
        "window": spec.window,
        "rope_parameters": spec.rope_parameters,
        "options": {**asdict(options), "dtype": str(dtype), "device": None, "attention": None},
        "engine": f"zero{stage}" if deepspeed else "plain",  # the engines' checkpoints have different formats
        "steps": plan.composition_digest(),
        "mixture": training_digest({"rows": [[row["source"], row["row"]] for row in mixture]}),
        "tokens": {source: read_metadata(path, TOKENS)["content"] for source, path in files.tokens.items()},
        "code": meaning_digest(_PACKAGE / name for name in _NUMERICS),
    }


def _start_deepspeed(on_cpu: bool) -> None:
    import deepspeed

    if on_cpu:  # avoid compiling DeepSpeed's shared-memory collectives, which takes a minute and needs a compiler
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else None)


def _start(checkpoint: Checkpoint | None, deepspeed: dict[str, Any] | None, world_size: int, rank: int) -> Path | None:
    """Return the folder to resume from, or None.

    Under DeepSpeed, a checkpoint of another number of ranks is converted first, by rank 0.
    """
    if checkpoint is None or not deepspeed or checkpoint.world_size == world_size:
        return checkpoint.directory if checkpoint else None
    deepspeed["checkpoint"] = {**deepspeed.get("checkpoint", {}), "load_universal": True}
    if rank == 0:
        return convert_to_universal(checkpoint)
    target = checkpoint.directory.with_name(f"universal-{checkpoint.step}")
    while not (target / "complete.json").exists():  # poll, because there is no process group yet
        time.sleep(1)
    return target


def _check_window(spec: ModelSpec, config: Any, longest: int) -> None:
    window = config_window(config)
    if window and window < longest and not spec.rope_parameters:
        raise SettingsError(
            f"the longest sequence has {longest} tokens, but models.base ({spec.path}) has a window of {window}: lower "
            "tokens.max_length or scale the model with models.base.rope_parameters"
        )


def _longest_packed(plan: Plan, lengths: Sequence[int]) -> int:
    """Return the maximum tokens of a micro-batch with several sequences, or 0 if there is none."""
    packed = (batch for step in plan.steps for rank in step.ranks for batch in rank if len(batch) > 1)
    return max((sum(lengths[sequence] for sequence in batch) for batch in packed), default=0)


def _with_adapters(model: Any, options: TrainOptions, run: RunOptions) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = dict(options.lora or {})
    if run.gradient_checkpointing:
        model.enable_input_require_grads()
    return get_peft_model(
        model,
        LoraConfig(
            r=lora["r"],
            lora_alpha=lora.get("alpha", 2 * lora["r"]),
            target_modules=lora.get("target_modules", "all-linear"),
            task_type="CAUSAL_LM",
        ),
    )


def _held_out(
    mixture: Sequence[Mapping[str, Any]],
    plan: Plan,
    lengths: Sequence[int],
    world_size: int,
    rank: int,
    reader: MixtureReader,
) -> dict[str, RankSteps]:
    """Return one step of all held-out rows for each source that has any."""
    steps = {}
    for source in ("long", "short"):
        rows = [n for n, row in enumerate(mixture) if row["split"] == "held_out" and row["source"] == source]
        if rows:
            step = assign_to_ranks(rows, lengths, plan.options.method, world_size, plan.options.token_budget)
            steps[source] = RankSteps([step], rank, reader)
    return steps


def _save_model(trainer: SequenceMeanTrainer, target: Path, rank: int) -> None:
    """Save weights and config to the folder ``target``, which appears only once it is complete."""
    temporary = target.with_name(f".{target.name}.tmp")
    if rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(temporary))
    trainer.accelerator.wait_for_everyone()
    if rank == 0:
        (temporary / "training_args.bin").unlink(missing_ok=True)  # a pickle that contains paths of this machine
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)


def _write_history(path: str, log_history: Sequence[Mapping[str, float]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for entry in log_history:
            file.write(json.dumps(entry) + "\n")


def _first_and_last(log_history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the first and the last value of each logged loss."""
    names = ("loss", "eval_loss", "eval_loss_long", "eval_loss_short")
    values = {name: [entry[name] for entry in log_history if name in entry] for name in names}
    return {name: [found[0], found[-1]] for name, found in values.items() if found}


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "numpy": np.__version__,
    }
