"""Hugging Face's Trainer, adapted to a batch plan and to a loss that is the mean over sequences.

The stock Trainer normalises the loss by the tokens of the global batch and uses a fixed number of micro-batches per
step. Here, one item of the data set is a whole optimiser step. It contains the micro-batches planned for this rank and
the number of sequences of all ranks.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from gateau.errors import TrainingError
from gateau.training.batching import Step
from gateau.training.checkpoints import mark_complete, prune
from gateau.training.objective import SequenceMeanLoss
from gateau.training.packing import MixtureReader, PackedBatch
from gateau.work import DecoderShape, peak_flops, training_flops

logger = logging.getLogger(__name__)

_LINE_SECONDS = 10.0


@dataclass(frozen=True)
class RankStep:
    """One optimiser step of one rank.

    Attributes:
        batches: this rank's micro-batches.
        n_sequences: number of sequences of all ranks.
        sizes: tokens and targets of each sequence of all ranks.
    """

    batches: list[PackedBatch]
    n_sequences: int
    sizes: list[tuple[int, int]]


class RankSteps(Dataset[RankStep]):
    """The steps of a plan for one rank. Each step is read from the token tables when it is accessed."""

    def __init__(self, steps: Sequence[Step], rank: int, reader: MixtureReader) -> None:
        self._steps, self._rank, self._reader = steps, rank, reader

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, number: int) -> RankStep:
        step = self._steps[number]
        batches = [self._reader.batch(batch) for batch in step.ranks[self._rank]]
        return RankStep(batches, len(step.sequences), self._reader.sizes(step.sequences))


class _Remaining(Sampler[int]):
    """Yields the numbers of the remaining steps. The Trainer's own skipping would read all finished steps first."""

    def __init__(self, trainer: Trainer, count: int) -> None:
        self._trainer, self._count = trainer, count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._trainer.state.global_step, self._count))

    def __len__(self) -> int:
        return self._count


class SequenceMeanTrainer(Trainer):
    """Trains on planned steps and measures the held-out loss of each source.

    Args:
        model: the model to train.
        args: arguments of the Trainer.
        steps: the steps of the training, in order.
        held_out: for each source, its held-out sequences as one step.
        epochs: the epoch of each step, for the log.
        peak_tflops: peak TFLOP/s of one device; None is the known peak of the device, if any.
        frozen_weights: only adapters are trained, which needs fewer operations.
        callbacks: callbacks of the Trainer.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        steps: RankSteps,
        held_out: Mapping[str, RankSteps],
        epochs: Sequence[int],
        peak_tflops: float | None,
        frozen_weights: bool,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.objective: SequenceMeanLoss = SequenceMeanLoss(model)
        self._held_out, self._epochs = held_out, epochs
        super().__init__(model=model, args=args, train_dataset=steps, eval_dataset=steps, callbacks=callbacks)
        self.speed = Speed(model.config, frozen_weights, args.world_size, _peak(peak_tflops, args.device), len(steps))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of whole steps.

        Each step already contains only this rank's part, so accelerate must not shard the data again. The loader draws
        a seed that nothing uses. It has a generator of its own for it, so that a training that continues has the same
        dropout as one that was not stopped.
        """
        steps: Any = self.train_dataset
        return DataLoader(steps, batch_size=None, sampler=_Remaining(self, len(steps)), generator=torch.Generator())

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the next step, as a list of one item, and its number of sequences."""
        step = next(epoch_iterator)
        return [step], step.n_sequences

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Run forward and backward for all micro-batches of one step. Gradients are synchronised in the last one.

        Returns:
            This rank's share of the step's loss, multiplied by the world size, so that the mean over ranks is the loss.

        Raises:
            TrainingError: if the loss is not finite.
        """
        model.train()
        self.speed.begin()
        deepspeed = self.is_deepspeed_enabled
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs.batches, start=1):
            last = number == len(inputs.batches)
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last or deepspeed else self.accelerator.no_sync(model=model):
                loss = self._loss(model, batch) * (self.args.world_size / num_items_in_batch)
                # without scale_wrt_gas, DeepSpeed would divide the loss by a fixed number of micro-steps
                self.accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))
            total += loss.detach()
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {float(total)} in step {self.state.global_step + 1}: lower train.learning_rate, or look "
                "for a damaged row among those of this step in plan.parquet"
            )
        self.speed.end(inputs.sizes)
        return total

    def _loss(self, model: Any, batch: PackedBatch) -> torch.Tensor:
        with self.compute_loss_context_manager():
            loss: torch.Tensor = self.objective(model, batch.to(self.args.device))
            return loss

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as Trainer does, then give each parameter group its own step counter.

        When ZeRO-3 of DeepSpeed 0.19 loads a universal checkpoint, all groups share one step tensor. Each group would
        advance it, and Adam's bias correction would use a step count that is too high.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.is_deepspeed_enabled:
            engine: Any = self.model_wrapped
            for state in engine.optimizer.optimizer.state.values():
                if torch.is_tensor(state.get("step")):
                    state["step"] = state["step"].clone()

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0, because :class:`Speed` counts operations from the lengths of the sequences."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the held-out loss: the mean over sequences of their mean token loss, for each source and over all."""
        model: Any = self.model_wrapped
        model.eval()
        sums: dict[str, tuple[float, int]] = {}
        with torch.no_grad():
            for source, steps in self._held_out.items():
                step = steps[0]
                total = torch.zeros((), device=self.args.device)
                for batch in step.batches:
                    total += self._loss(model, batch)
                sums[source] = (float(self.accelerator.reduce(total)), step.n_sequences)
        model.train()
        metrics = {f"eval_loss_{source}": total / count for source, (total, count) in sums.items()}
        metrics["eval_loss"] = sum(total for total, _ in sums.values()) / sum(count for _, count in sums.values())
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add speed and epoch to the log entry, and log a readable line at most every ten seconds."""
        done = self.state.global_step
        within = sum(epoch == self._epochs[done - 1] for epoch in self._epochs[:done]) if done else 0
        whole = self._epochs.count(self._epochs[done - 1]) if done else 1
        self.state.epoch = (self._epochs[done - 1] if done else 0) + within / whole
        if "loss" in logs:
            logs.update(self.speed.metrics())
            self.speed.report(self.state.global_step, logs, self.is_world_process_zero())
        elif self.is_world_process_zero() and "eval_loss" in logs:
            losses = ", ".join(f"{name.removeprefix('eval_')} {value:.4f}" for name, value in logs.items())
            logger.info("held out after step %d: %s", done, losses)
        super().log(logs, start_time)


class Speed:
    """Measures tokens per second, the share of the devices' peak FLOP/s (MFU), and the time left.

    Args:
        config: config of the model.
        frozen_weights: only adapters are trained.
        world_size: number of devices.
        peak: peak FLOP/s of one device, or None if unknown.
        n_steps: steps of the whole training.
    """

    def __init__(self, config: Any, frozen_weights: bool, world_size: int, peak: float | None, n_steps: int) -> None:
        self._shape, self._frozen_weights = DecoderShape.from_config(config), frozen_weights
        self._peak, self._n_steps = peak and peak * world_size, n_steps
        self._started = self._line_at = 0.0
        self._tokens = self._flops = self._seconds = 0.0
        self.total_tokens, self.total_flops, self.total_seconds, self.n_done = 0, 0.0, 0.0, 0

    def begin(self) -> None:
        """Note the start time of the first step."""
        self._started = self._started or time.monotonic()

    def end(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Count a finished step. ``sizes`` are the tokens and targets of each sequence of all ranks."""
        now = time.monotonic()
        elapsed, self._started = now - self._started, now
        tokens = sum(length for length, _ in sizes)
        flops = sum(training_flops(self._shape, *size, self._frozen_weights) for size in sizes)
        self._tokens, self._flops = self._tokens + tokens, self._flops + flops
        self._seconds += elapsed
        self.total_tokens, self.total_flops = self.total_tokens + tokens, self.total_flops + flops
        self.total_seconds, self.n_done = self.total_seconds + elapsed, self.n_done + 1

    def metrics(self) -> dict[str, float]:
        """Return the figures since the last call: ``tokens_per_second`` and, if the peak is known, ``mfu``."""
        seconds = max(self._seconds, 1e-9)
        figures = {"tokens_per_second": self._tokens / seconds}
        if self._peak:
            figures["mfu"] = self._flops / seconds / self._peak
        self._tokens = self._flops = self._seconds = 0.0
        return figures

    def totals(self) -> dict[str, float | int | None]:
        """Return the figures of the whole run, for the summary."""
        seconds = max(self.total_seconds, 1e-9)
        return {
            "tokens_per_second": self.total_tokens / seconds,
            "tflops_per_second": self.total_flops / seconds / 1e12,
            "mfu": self.total_flops / seconds / self._peak if self._peak else None,
        }

    def report(self, step: int, logs: Mapping[str, float], is_main: bool) -> None:
        """Log a readable line about a step, unless the last one is less than ten seconds old."""
        now = time.monotonic()
        if not is_main or (now - self._line_at < _LINE_SECONDS and step < self._n_steps):
            return
        self._line_at = now
        left = self.total_seconds / max(self.n_done, 1) * (self._n_steps - step)
        mfu = f", {logs['mfu']:.0%} of peak" if "mfu" in logs else ""
        logger.info(
            "step %d of %d: loss %.4f, gradient norm %.3g, learning rate %.3g, %.0f tokens/s%s, %s left",
            step, self._n_steps, logs["loss"], logs.get("grad_norm", math.nan), logs["learning_rate"],
            logs["tokens_per_second"], mfu, _duration(left),
        )  # fmt: skip


class CompleteCheckpoints(TrainerCallback):
    """Marks a checkpoint as complete once all ranks have written their files, then deletes older checkpoints."""

    def __init__(self) -> None:
        self.trainer: Trainer | None = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the new checkpoint as complete and delete older ones."""
        if self.trainer is None:
            raise RuntimeError("CompleteCheckpoints needs its trainer")
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            mark_complete(folder / f"checkpoint-{state.global_step}", args.world_size)
            prune(folder)
        self.trainer.accelerator.wait_for_everyone()


class Preemption(TrainerCallback):
    """Stops the training on SIGTERM or SIGUSR1.

    If any rank receives one of these signals, all ranks save a checkpoint at the end of the step and stop.

    Attributes:
        requested: this rank has received a signal.
        stopped: the ranks have agreed to stop before the last step.
    """

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self.requested = self.stopped = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True
        logger.warning("got %s: saving a checkpoint at the end of this step", signal.Signals(number).name)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop if any rank has received a signal. All ranks decide together, so that they save the same step."""
        if self.trainer is None:
            raise RuntimeError("Preemption needs its trainer")
        flag = torch.tensor(int(self.requested), device=args.device)
        if int(self.trainer.accelerator.reduce(flag)) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True


def _peak(peak_tflops: float | None, device: torch.device) -> float | None:
    """Return the peak FLOP/s of one device, or None if unknown."""
    if peak_tflops is not None:
        return peak_tflops * 1e12
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
