"""The memory that a training takes on each device, item by item, before anything is loaded.

Three moments compete for the peak:

``loss``      logits and the final norm, while the saved tensors of all layers exist
``backward``  one layer is recomputed and differentiated, while the inputs of all layers exist
``step``      the optimiser updates the weights; no activations are left

The terms are those of transformers' Llama, counted tensor by tensor. The tests compare them with simulated allocations
of a 7B at 64k tokens and with the resident memory of a small real model. Other decoders count as a Llama of their
widths, an upper bound for those without a gated MLP. Fragmentation is a flat share. Two things are left out:
communication buffers whose sizes DeepSpeed does not publish, and the workspace of the attention kernels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from gateau.reports import si
from gateau.training.checkpoints import KEPT
from gateau.training.objective import DENSE_MASK_LIMIT
from gateau.work import DecoderShape

MOMENTS = ("loss", "backward", "step")
_COMPUTING = ("loss", "backward")
_SLACK = 0.05
_CONTEXT = 1e9  # bytes of the CUDA context and NCCL, as a rule of thumb
_CHUNK = 1024  # targets whose logits exist at once, as in gateau.training.objective
_HALF, _SINGLE = 2, 4
_MOMENTS_OF_ADAM = {"adamw_8bit": 2}  # bytes per weight; other optimisers keep two float32
_FINAL_NORM = 28  # bytes per feature: input, normalised, output, and their gradients in float32


@dataclass(frozen=True)
class TrainedModel:
    """A model as its training sees it: the decoder's shape, and exact numbers of elements."""

    decoder: DecoderShape
    parameters: int
    embedding_parameters: int
    matrix_parameters: int  # weights of linear layers and experts, the output layer included
    adapter_features: int  # inputs and outputs of the layers that LoRA adapts: its parameters at rank 1

    @classmethod
    def from_config(
        cls, config: Any, target_modules: str | Sequence[str] = "all-linear", trust_remote_code: bool = False
    ) -> TrainedModel:
        """Count the elements of a transformers configuration's model, built without memory on the meta device.

        ``target_modules`` are LoRA's as peft reads them: ``all-linear``, a regular expression, or names.
        """
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        head = model.get_output_embeddings()  # type: ignore[operator]
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        experts = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 3)
        return cls(
            decoder=DecoderShape.from_config(config),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            embedding_parameters=sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)),
            matrix_parameters=experts + sum(module.weight.numel() for module in linear.values()),
            adapter_features=sum(
                module.in_features + module.out_features
                for name, module in linear.items()
                if module is not head and _is_adapted(name, target_modules)
            ),
        )


def _is_adapted(name: str, target_modules: str | Sequence[str]) -> bool:
    if isinstance(target_modules, str):
        return target_modules == "all-linear" or re.fullmatch(target_modules, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in target_modules)


@dataclass(frozen=True)
class Engine:
    """What a DeepSpeed configuration says about memory. Sizes are numbers of elements; None is DeepSpeed's ``auto``."""

    stage: int
    offload_optimizer: bool = False
    offload_weights: bool = False
    bucket: int | None = None
    prefetch: int | None = None
    live_parameters: int = 1_000_000_000

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Engine:
        """Read DeepSpeed's JSON, with DeepSpeed's own defaults for absent keys.

        Raises:
            KeyError: zero_optimization or its stage is missing.
        """
        zero = config["zero_optimization"]

        def size(key: str, default: int) -> int | None:
            value = zero.get(key, default)
            return None if value == "auto" else int(value)

        def offloads(key: str) -> bool:
            return bool((zero.get(key) or {}).get("device", "none") != "none")

        return cls(
            stage=int(zero["stage"]),
            offload_optimizer=offloads("offload_optimizer"),
            offload_weights=offloads("offload_param"),
            bucket=size("reduce_bucket_size", 500_000_000),
            prefetch=size("stage3_prefetch_bucket_size", 50_000_000),
            live_parameters=size("stage3_max_live_parameters", 1_000_000_000) or 1_000_000_000,
        )


@dataclass(frozen=True)
class TrainingSetup:
    """The properties of a training that determine its memory.

    Without an ``engine`` every device holds everything (one process, or DDP).
    """

    model: TrainedModel
    tokens: int  # of the largest micro-batch on one device
    devices: int
    devices_per_node: int
    half: bool  # computes in bfloat16
    attention: str
    packed: bool  # several sequences in a micro-batch
    checkpointing: bool
    optimizer: str
    engine: Engine | None
    lora_rank: int | None = None
    on_cuda: bool = True

    @property
    def trained(self) -> int:
        """Number of trained parameters."""
        return self.lora_rank * self.model.adapter_features if self.lora_rank else self.model.parameters

    @property
    def compute_bytes(self) -> int:
        """Bytes of an activation."""
        return _HALF if self.half else _SINGLE

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight of the model: float32 if it is trained without an engine that keeps a float32 copy."""
        return self.compute_bytes if self.engine or self.lora_rank else _SINGLE

    @property
    def casts(self) -> bool:
        """Whether autocast makes its own copy in half precision for every linear layer."""
        return self.half and self.engine is None

    def share(self, stage: int) -> float:
        """Return the share that one device holds of something that ZeRO divides from ``stage`` on."""
        return 1 / self.devices if self.engine and self.engine.stage >= stage else 1.0


@dataclass(frozen=True)
class Item:
    """Bytes on each device, the moments when they exist, and how they come about."""

    name: str
    size: float
    moments: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Estimate:
    """Memory of a training, in bytes."""

    items: tuple[Item, ...]
    host: float  # on each node, for what is offloaded

    def at(self, moment: str) -> float:
        """Return the sum of all items of a moment, on one device."""
        return sum(item.size for item in self.items if moment in item.moments)

    @property
    def peak_moment(self) -> str:
        """The moment that needs the most memory."""
        return max(MOMENTS, key=self.at)

    @property
    def peak(self) -> float:
        """The largest amount of memory that one device ever needs."""
        return self.at(self.peak_moment)


def estimate(setup: TrainingSetup) -> Estimate:
    """Return the memory of a training: all items that are not zero, then what the allocator and CUDA add."""
    items = [item for item in (*_states(setup), *_activations(setup), *_transient(setup)) if item.size]
    peak = Estimate(tuple(items), 0.0).peak
    items.append(Item("allocator slack", _SLACK * peak, MOMENTS, f"{_SLACK:.0%} of the peak"))
    if setup.on_cuda:
        items.append(Item("CUDA context, NCCL", _CONTEXT, MOMENTS, "rule of thumb"))
    return Estimate(tuple(items), _host(setup))


def _states(setup: TrainingSetup) -> list[Item]:
    """Return what stays from step to step: weights, gradients, and states of the optimiser."""
    engine, parameters, trained = setup.engine, setup.model.parameters, setup.trained
    gradient = setup.compute_bytes if engine else _SINGLE  # adapters have weights of the same size
    weights = setup.weight_bytes * parameters + gradient * (trained if setup.lora_rank else 0)
    states = _optimizer_bytes(setup)
    keeps_weights = not (engine and engine.offload_weights)
    keeps_states = not (engine and engine.offload_optimizer)
    note = f", 1/{setup.devices} each" if engine and setup.devices > 1 else ""

    def why(each: float, count: int, stage: int) -> str:
        return f"{each:.3g} B x {si(count)}" + (note if setup.share(stage) < 1 else "")

    copy = ", float32 weights included" if engine and setup.half else ""
    return [
        Item("weights", weights * setup.share(3) * keeps_weights, MOMENTS, why(setup.weight_bytes, parameters, 3)),
        Item("gradients", gradient * trained * setup.share(2) * keeps_states, MOMENTS, why(gradient, trained, 2)),
        Item(
            "optimizer states",
            states * setup.share(1) * keeps_states,
            MOMENTS,
            f"{states / trained:.3g} B x {si(trained)}{copy}{note}",
        ),
        Item(
            "DDP buckets",
            0.0 if engine or setup.devices == 1 else _SINGLE * trained,
            MOMENTS,
            "a second copy of the gradients",
        ),
    ]


def _optimizer_bytes(setup: TrainingSetup) -> float:
    """Return the bytes of Adam's two moments, and of DeepSpeed's float32 copy of the weights, over all devices.

    8-bit Adam keeps float32 moments for embeddings, as transformers configures it.
    """
    moments = _MOMENTS_OF_ADAM.get(setup.optimizer, 2 * _SINGLE)
    exact = setup.model.embedding_parameters if moments < 2 * _SINGLE and not setup.lora_rank else 0
    master = _SINGLE if setup.engine and (setup.half or setup.engine.stage < 3) else 0
    return (moments + master) * (setup.trained - exact) + (2 * _SINGLE + master) * exact


def _activations(setup: TrainingSetup) -> list[Item]:
    """Return what grows with the tokens of a micro-batch."""
    shape, tokens = setup.model.decoder, setup.tokens
    kept = layer_bytes(setup)
    saved = sum(kept.values())
    terms = ", ".join(f"{name} {size / 1e9:.2g}" for name, size in kept.items())
    copies = _HALF * setup.model.matrix_parameters if setup.casts and setup.weight_bytes == _SINGLE else 0.0
    mask = min(tokens, DENSE_MASK_LIMIT) ** 2 if setup.packed and setup.attention in ("sdpa", "eager") else 0.0
    if setup.checkpointing:
        reason = f"{shape.layers} x {tokens} tokens x {shape.hidden} x {setup.weight_bytes} B"
        inputs = shape.layers * (tokens * shape.hidden * setup.weight_bytes)
        layers = [
            Item("layer inputs", inputs, _COMPUTING, reason),
            Item("one layer recomputed", saved, ("backward",), terms),
        ]
    else:
        reason = f"{shape.layers} x ({terms})"
        layers = [Item("saved tensors of all layers", shape.layers * saved, _COMPUTING, reason)]
    return [
        Item(
            "bfloat16 weights",
            copies,
            ("loss",) if setup.checkpointing else _COMPUTING,
            "autocast's copies, kept until the end of a forward",
        ),
        Item("attention mask", mask, _COMPUTING, f"S x S of at most {DENSE_MASK_LIMIT} packed tokens"),
        *layers,
        Item("one layer's gradients", gradient_bytes(setup), ("backward",), "of hidden states and MLP"),
    ]


def layer_bytes(setup: TrainingSetup) -> dict[str, float]:
    """Return the bytes that autograd keeps of one layer, by part.

    A norm keeps its input in float32, the normalised input (for the gradient of its weight) and its output: one output
    for all linear layers that read it (query, key, value; gate, up), or under autocast one for each. Attention keeps
    query, key, value and output, and for each head and position the logarithm of the softmax's sum. Eager attention
    also keeps S × S weights in float32 and in half precision, and sdpa keeps the mask as numbers. The MLP keeps the
    gate, its activation, the up projection, and their product.
    """
    shape, tokens, size = setup.model.decoder, setup.tokens, setup.compute_bytes
    normalised = 0 if setup.lora_rank else setup.weight_bytes
    outputs = 5 if setup.casts else 2
    norms = tokens * shape.hidden * (2 * (_SINGLE + normalised) + outputs * size)
    attention = tokens * (2 * (shape.query_width + shape.key_width) * size + _SINGLE * shape.heads)
    if setup.lora_rank and setup.casts:  # the adapter of the output projection casts its own input
        attention += tokens * shape.query_width * size
    squared = 0.0
    if setup.attention == "eager":
        squared = shape.heads * tokens**2 * (_SINGLE + (size if setup.half else 0))
    elif setup.attention == "sdpa" and setup.packed:
        squared = size * min(tokens, DENSE_MASK_LIMIT) ** 2
    parts = {"norms": norms, "attention": attention, "S x S": squared, "MLP": 4 * tokens * shape.mlp_width * size}
    return {name: float(part) for name, part in parts.items() if part}


def gradient_bytes(setup: TrainingSetup) -> float:
    """Return the bytes of gradients at the peak of a layer's backward pass, beyond what autograd has kept.

    In the MLP these are two tensors of the hidden states' width and two of the MLP's; adapters in float32 double the
    latter. In eager attention, after the MLP's tensors are freed, they are the gradients of the S × S weights and of
    the float32 scores before them.
    """
    shape, tokens, size = setup.model.decoder, setup.tokens, setup.compute_bytes
    wide = 4 if setup.lora_rank and setup.casts else 2
    mlp = tokens * size * (2 * shape.hidden + wide * shape.mlp_width)
    if setup.attention != "eager":
        return float(mlp)
    squared = shape.heads * tokens**2 * (_SINGLE + (_HALF if setup.half else _SINGLE))
    return float(max(mlp, squared - 4 * tokens * shape.mlp_width * size))


def _transient(setup: TrainingSetup) -> list[Item]:
    """Return what exists for a moment only: gathered weights and buckets, the loss, the optimiser's temporaries."""
    engine, shape = setup.engine, setup.model.decoder
    square = shape.hidden**2  # DeepSpeed's "auto" sizes are in units of it
    gathered = buckets = 0.0
    if engine:
        buckets = 2.0 * setup.compute_bytes * min(square if engine.bucket is None else engine.bucket, setup.trained)
        if engine.stage == 3:
            prefetch = round(0.9 * square) if engine.prefetch is None else engine.prefetch
            live = min(engine.live_parameters + prefetch, setup.model.parameters)
            gathered = float(setup.compute_bytes * live)
    chunk = min(_CHUNK, setup.tokens)
    head_gradient = 0 if setup.lora_rank else shape.vocabulary * shape.hidden * setup.weight_bytes
    final_norm = setup.tokens * shape.hidden * _FINAL_NORM
    logits = 3 * chunk * shape.vocabulary * _SINGLE + head_gradient
    roots = "roots of second moments"
    return [
        Item("gathered weights", gathered, _COMPUTING, "ZeRO-3's max_live_parameters and prefetch bucket"),
        Item("reduce buckets", buckets, _COMPUTING, "two, while gradients are sent"),
        Item("final norm", final_norm, ("loss",), f"{_FINAL_NORM} B x {setup.tokens} tokens x {shape.hidden}"),
        Item(
            "logits at targets",
            logits,
            ("loss",),
            f"3 x {chunk} x {shape.vocabulary} x 4 B" + (", the layer's gradient" if head_gradient else ""),
        ),
        Item(
            "optimizer's temporaries",
            _step_bytes(setup),
            ("step",),
            f"float32 gradients and {roots}" if engine else roots,
        ),
    ]


def _step_bytes(setup: TrainingSetup) -> float:
    """Return the bytes of the optimiser's temporaries.

    On CUDA, Adam without fused kernels takes the roots of all second moments at once. DeepSpeed casts the gradients to
    float32, in stage 3 by groups of at most its ``sub_group_size`` of 1e9.
    """
    engine = setup.engine
    if engine and engine.offload_optimizer:
        return 0.0
    own = setup.trained * setup.share(1)
    if engine and engine.stage == 3:
        own = min(own, 1e9)
    roots = _SINGLE * own if setup.optimizer == "adamw_torch" and setup.on_cuda else 0.0
    return roots + (_SINGLE * own if engine and setup.half else 0.0)


def _host(setup: TrainingSetup) -> float:
    """Return the bytes on each node for what DeepSpeed offloads: states, gradients in both precisions, weights."""
    engine = setup.engine
    if engine is None:
        return 0.0
    part = min(setup.devices_per_node / setup.devices, 1.0)
    optimizer = _optimizer_bytes(setup) + (setup.compute_bytes + _SINGLE) * setup.trained
    weights = setup.compute_bytes * setup.model.parameters
    return part * (optimizer * engine.offload_optimizer + weights * engine.offload_weights)


def checkpoint_bytes(setup: TrainingSetup) -> float:
    """Return the bytes of one checkpoint on disk; frozen weights are not saved.

    The Trainer writes weights and optimiser states. DeepSpeed's states always hold float32 weights beside the moments,
    and below stage 3 it writes the weights a second time.
    """
    if setup.engine is None:
        return _SINGLE * setup.trained + _optimizer_bytes(setup)
    copies = 1 if setup.engine.stage == 3 else 2
    return float((copies * setup.compute_bytes + 3 * _SINGLE) * setup.trained)


def checkpoints_bytes(setup: TrainingSetup) -> float:
    """Return the largest size on disk: the checkpoints that are kept, and one more while it is written."""
    return (KEPT + 1) * checkpoint_bytes(setup)
