"""A training step against a bare forward and backward, and its memory against the estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig

from gateau.costs.training_memory import TrainingSetup, bytes_at, memory_items
from gateau.training.objective import SequenceMeanLoss
from gateau.training.packing import PackedBatch, TokenRow, pack
from gateau.work import DecoderShape, peak_flops, recomputation_flops, training_flops

from benchmark.harness import PeakMemory, Row, Settings, alternate, in_child, matmul_flops_per_second
from benchmark.passes import RATE, bench_model, random_model

LEARNT = 8  # every eighth token is a target
KEPT = ("weights", "gradients", "optimizer states", "allocator slack", "CUDA context, NCCL")


def training(settings: Settings) -> Iterator[Row]:
    """A training step without the optimizer: against a bare forward and backward of the same tokens, logits at targets.

    Recomputed layers (gradient checkpointing) and logits cost what the bound says. MFU is the share of the matmul rate
    for the operations that no training can avoid. The memory beyond the states is compared with the estimate of
    ``gateau doctor``; 1.00 means that the estimate is right, above 1 that it is too high.
    """
    tokens = 128 if settings.quick else 2048
    ours, plain = bench_model(settings).train(), bench_model(settings).train()
    plain.load_state_dict(ours.state_dict())
    objective, shape = SequenceMeanLoss(ours), DecoderShape.from_config(ours.config)
    dtype, side = str(ours.dtype).removeprefix("torch."), 256 if settings.quick else 2048
    rows = {"one sequence": [tokens], "four packed sequences": [tokens // 4] * 4}
    for name, lengths in rows.items():
        batch = pack([row(length) for length in lengths]).to(ours.device)
        alone = [pack([row(length)]).to(plain.device) for length in lengths]
        work = sum(training_flops(shape, length, length // LEARNT) for length in lengths)
        ways: dict[str, Callable[[], object]] = {
            "bare": partial(bare_step, plain, alone), "step": partial(step, objective, ours, batch, False),
            "checkpointing": partial(step, objective, ours, batch, True),
            "matmul": partial(matmul_flops_per_second, settings.device, dtype, side),
        }  # fmt: skip
        for way in ("bare", "checkpointing", "step"):  # the first call is slower
            ways[way]()
        taken = alternate(ways, settings.rounds, settings.device)
        case = f"{name}, {tokens} tokens"
        for way, checkpointing in (("step", False), ("checkpointing", True)):
            again = sum(recomputation_flops(shape, length, length // LEARNT, checkpointing) for length in lengths)
            yield Row("training", case, "bare forward, backward", way, "s", taken["bare"], taken[way],
                      "operations and those computed again", work / (work + again))  # fmt: skip
        at_rate = [work / rate for rate in taken["matmul"]]
        yield Row("training", case, "at matmul rate (MFU)", "step", "s", at_rate, taken["step"], RATE)
        if settings.device == "cuda" and (peak := peak_flops(torch.cuda.get_device_name())):
            yield Row("training", case, "at the data sheet's peak", "step", "s", [work / peak] * len(at_rate),
                      taken["step"], "operations of work.py at the peak")  # fmt: skip
    sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
    tokens = 256 if settings.quick else 2048
    for checkpointing in (True, False):
        arguments = ({**sizes, "vocab_size": 4096}, tokens, checkpointing, settings.device)
        measure = step_peak if settings.quick else partial(in_child, "benchmark.finetuning:step_peak")
        peaks = [measure(*arguments) for _ in range(settings.script_rounds)]
        case = f"{tokens} tokens, {'with' if checkpointing else 'without'} checkpointing"
        expected = estimated_bytes(*arguments)
        yield Row("training", case, "the doctor's estimate", "peak beyond states", "B", [expected] * len(peaks), peaks,
                  "what the estimate counts")  # fmt: skip


def row(length: int) -> TokenRow:
    """Return a sequence of which every eighth token is learnt."""
    ids = np.arange(length, dtype=np.int32) % 50 + 3
    return TokenRow.whole(ids, np.where(np.arange(length) % LEARNT == LEARNT - 1, ids, -100).astype(np.int32))


def step(objective: SequenceMeanLoss, model: Any, batch: PackedBatch, checkpointing: bool) -> None:
    """Run forward and backward as the trainer does."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    objective(model, batch).backward()


def bare_step(model: Any, batches: list[PackedBatch]) -> None:
    """Run forward and backward of each sequence on its own, with logits at its targets."""
    for batch in batches:
        logits = model(input_ids=batch.input_ids, use_cache=False, logits_to_keep=batch.target_places).logits[0]
        torch.nn.functional.cross_entropy(logits.float(), batch.targets).backward()


def step_peak(sizes: dict[str, int], tokens: int, checkpointing: bool, device: str) -> float:
    """Return the peak bytes of one step of a random model beyond its weights and gradients."""
    model = random_model(LlamaConfig(**sizes), device).train()
    objective = SequenceMeanLoss(model)
    step(objective, model, pack([row(64)]).to(model.device), checkpointing)  # gradients, thread pools, workspaces
    batch = pack([row(tokens)]).to(model.device)
    with PeakMemory(device) as used:
        step(objective, model, batch, checkpointing)
    return float(used.added)


def estimated_bytes(sizes: dict[str, int], tokens: int, checkpointing: bool, device: str) -> float:
    """Return the doctor's estimate of the same bytes."""
    setup = TrainingSetup(
        shape=DecoderShape.from_config(LlamaConfig(**sizes)), tokens=tokens, devices=1, devices_per_node=1,
        half=device == "cuda", checkpointing=checkpointing, engine=None, on_cuda=device == "cuda",
    )  # fmt: skip
    items = [item for item in memory_items(setup) if item.name not in KEPT]
    return max(bytes_at(items, moment) for moment in ("loss", "backward"))
