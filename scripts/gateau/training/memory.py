"""Memory that a training takes on each device, estimated item by item from the model's shape before anything is loaded.

Three moments compete for the peak:

``loss``      logits and final norm, while all layers' saved tensors are there
``backward``  one layer is recomputed and differentiated, while the inputs of all layers are there
``step``      the optimiser updates the weights; no activations are left

The terms are those of transformers' Llama, counted tensor by tensor; the tests hold them against simulated allocations
of a 7B at 64k tokens and against the resident memory of a small real model. Other decoders are taken for a Llama of
their widths, an upper bound for those without a gated MLP. Fragmentation is a flat share. Not considered: communication
buffers of sizes that DeepSpeed does not let be known, and the attention kernels' own workspace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from gateau.training.checkpoints import KEPT
from gateau.training.objective import DENSE_MASK_LIMIT
from gateau.training.throughput import active_width

MOMENTS = ("loss", "backward", "step")
_COMPUTING = ("loss", "backward")
_SLACK = 0.05
_CONTEXT = 1e9  # CUDA context and NCCL, as a rule of thumb
_CHUNK = 1024  # targets whose logits exist at once, as in gateau.training.objective
_HALF, _SINGLE = 2, 4
_MOMENTS_OF_ADAM = {"adamw_8bit": 2}  # bytes per weight; else two float32
_FINAL_NORM = 28  # bytes per feature: input, normalised, output, and their gradients in float32


@dataclass(frozen=True)
class ModelShape:
    """What of a decoder decides its memory. Widths are features per token, the rest are numbers of elements."""

    layers: int
    hidden: int
    heads: int
    query_width: int
    key_width: int
    mlp_width: int  # of all experts that a token goes through
    vocabulary: int
    parameters: int
    embedding_parameters: int
    matrix_parameters: int  # weights of linear layers and experts, the output layer included
    adapter_features: int  # inputs and outputs of the layers that LoRA adapts: its parameters at rank 1


def model_shape(
    config: Any, target_modules: str | Sequence[str] = "all-linear", trust_remote_code: bool = False
) -> ModelShape:
    """Shape of the model of a transformers configuration, built without memory on the meta device.

    ``target_modules`` are LoRA's as peft reads them: ``all-linear``, a regular expression, or names.
    """
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    experts = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 3)
    config = config.get_text_config()
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        query_width=config.num_attention_heads * head_width,
        key_width=key_heads * head_width,
        mlp_width=active_width(config),
        vocabulary=config.vocab_size,
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
        """From DeepSpeed's JSON, whose own defaults hold for what it leaves out."""
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
    """A training as far as memory goes. Without an ``engine`` every device holds everything (one process, or DDP)."""

    shape: ModelShape
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
        """Parameters that are trained."""
        return self.lora_rank * self.shape.adapter_features if self.lora_rank else self.shape.parameters

    @property
    def compute_bytes(self) -> int:
        """Of an activation."""
        return _HALF if self.half else _SINGLE

    @property
    def weight_bytes(self) -> int:
        """Of a weight of the model: float32 where it is trained without an engine that keeps a float32 copy."""
        return self.compute_bytes if self.engine or self.lora_rank else _SINGLE

    @property
    def casts(self) -> bool:
        """Whether autocast makes a copy of its own in half precision for every linear layer."""
        return self.half and self.engine is None

    def share(self, stage: int) -> float:
        """What one device holds of something that ZeRO divides from ``stage`` on."""
        return 1 / self.devices if self.engine and self.engine.stage >= stage else 1.0


@dataclass(frozen=True)
class Item:
    """So many bytes on each device, at these moments, and how they come about."""

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
        """All that is there at a moment, on one device."""
        return sum(item.size for item in self.items if moment in item.moments)

    @property
    def peak_moment(self) -> str:
        """The moment with the most."""
        return max(MOMENTS, key=self.at)

    @property
    def peak(self) -> float:
        """The most there ever is on one device."""
        return self.at(self.peak_moment)


def estimate(setup: TrainingSetup) -> Estimate:
    """All items, zero ones left out; the last is the slack."""
    items = [item for item in (*_states(setup), *_activations(setup), *_transient(setup)) if item.size]
    peak = Estimate(tuple(items), 0.0).peak
    items.append(Item("allocator slack", _SLACK * peak, MOMENTS, f"{_SLACK:.0%} of the peak"))
    if setup.on_cuda:
        items.append(Item("CUDA context, NCCL", _CONTEXT, MOMENTS, "rule of thumb"))
    return Estimate(tuple(items), _host(setup))


def _states(setup: TrainingSetup) -> list[Item]:
    """What stays from step to step: weights, gradients, optimiser."""
    engine, shape = setup.engine, setup.shape
    adapters = setup.trained if setup.lora_rank else 0
    adapter_bytes = setup.compute_bytes if engine else _SINGLE
    weights = setup.weight_bytes * shape.parameters + adapter_bytes * adapters
    on_device = not (engine and engine.offload_weights)
    gradient_bytes = setup.compute_bytes if engine else _SINGLE
    optimizer_on_device = not (engine and engine.offload_optimizer)
    note = f", 1/{setup.devices} each" if engine and setup.devices > 1 else ""
    return [
        Item(
            "weights",
            weights * setup.share(3) * on_device,
            MOMENTS,
            f"{setup.weight_bytes} B x {_count(shape.parameters)}" + (note if setup.share(3) < 1 else ""),
        ),
        Item(
            "gradients",
            gradient_bytes * setup.trained * setup.share(2) * optimizer_on_device,
            MOMENTS,
            f"{gradient_bytes} B x {_count(setup.trained)}" + (note if setup.share(2) < 1 else ""),
        ),
        Item(
            "optimizer states",
            _optimizer_bytes(setup) * setup.share(1) * optimizer_on_device,
            MOMENTS,
            f"{_optimizer_bytes(setup) / setup.trained:.3g} B x {_count(setup.trained)}"
            + (", float32 weights included" if engine and setup.half else "")
            + note,
        ),
        Item(
            "DDP buckets",
            0.0 if engine or setup.devices == 1 else _SINGLE * setup.trained,
            MOMENTS,
            "a second copy of the gradients",
        ),
    ]


def _optimizer_bytes(setup: TrainingSetup) -> float:
    """Adam's two moments, and the float32 weights that DeepSpeed keeps beside those in half precision, of all devices.

    8-bit Adam keeps float32 moments for embeddings, as transformers sets it up.
    """
    moments = _MOMENTS_OF_ADAM.get(setup.optimizer, 2 * _SINGLE)
    exact = setup.shape.embedding_parameters if moments < 2 * _SINGLE and not setup.lora_rank else 0
    master = _SINGLE if setup.engine and (setup.half or setup.engine.stage < 3) else 0
    return (moments + master) * (setup.trained - exact) + (2 * _SINGLE + master) * exact


def _activations(setup: TrainingSetup) -> list[Item]:
    """What grows with the tokens of a micro-batch."""
    shape, tokens = setup.shape, setup.tokens
    residual = tokens * shape.hidden * setup.weight_bytes
    kept = layer_bytes(setup)
    saved = sum(kept.values())
    terms = ", ".join(f"{name} {size / 1e9:.2g}" for name, size in kept.items())
    copies = Item(
        "bfloat16 weights",
        _HALF * shape.matrix_parameters if setup.casts and setup.weight_bytes == _SINGLE else 0.0,
        ("loss",) if setup.checkpointing else _COMPUTING,
        "autocast's copies, kept until the end of a forward",
    )
    mask = Item(
        "attention mask",
        min(tokens, DENSE_MASK_LIMIT) ** 2 if setup.packed and setup.attention in ("sdpa", "eager") else 0.0,
        _COMPUTING,
        f"S x S of at most {DENSE_MASK_LIMIT} packed tokens",
    )
    if setup.checkpointing:
        inputs = f"{shape.layers} x {tokens} tokens x {shape.hidden} x {setup.weight_bytes} B"
        kept_items = [
            Item("layer inputs", shape.layers * residual, _COMPUTING, inputs),
            Item("one layer recomputed", saved, ("backward",), terms),
        ]
    else:
        kept_items = [
            Item("saved tensors of all layers", shape.layers * saved, _COMPUTING, f"{shape.layers} x ({terms})")
        ]
    return [
        copies,
        mask,
        *kept_items,
        Item("one layer's gradients", gradient_bytes(setup), ("backward",), "of hidden states and MLP"),
    ]


def layer_bytes(setup: TrainingSetup) -> dict[str, float]:
    """Bytes that autograd keeps of one layer, by part.

    Norms keep their input in float32, the normalised input (for the gradient of their weight) and their output: one for
    all linear layers behind it (query, key, value; gate, up), or under autocast one each. Attention keeps query, key,
    value and output, and for each head and position the logarithm of the softmax's sum; eager attention keeps S x S
    weights in float32 and in half precision, sdpa the mask as numbers. The MLP keeps gate, its activation, up, and
    their product.
    """
    shape, tokens, size = setup.shape, setup.tokens, setup.compute_bytes
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
    """Bytes of gradients at the peak of a layer's backward pass, beyond what autograd has kept.

    In the MLP: two of the hidden states' width, two of the MLP's; adapters in float32 double the latter. In eager
    attention, when the MLP's tensors are gone: those of S x S weights and of the float32 scores before them.
    """
    shape, tokens, size = setup.shape, setup.tokens, setup.compute_bytes
    wide = 4 if setup.lora_rank and setup.casts else 2
    mlp = tokens * size * (2 * shape.hidden + wide * shape.mlp_width)
    if setup.attention != "eager":
        return float(mlp)
    squared = shape.heads * tokens**2 * (_SINGLE + (_HALF if setup.half else _SINGLE))
    return float(max(mlp, squared - 4 * tokens * shape.mlp_width * size))


def _transient(setup: TrainingSetup) -> list[Item]:
    """What comes and goes: gathered weights and buckets, the loss, the optimiser's temporaries."""
    engine, shape = setup.engine, setup.shape
    square = shape.hidden**2
    gathered = buckets = 0.0
    if engine:
        bucket = square if engine.bucket is None else engine.bucket
        buckets = 2.0 * setup.compute_bytes * min(bucket, setup.trained)
        if engine.stage == 3:
            prefetch = round(0.9 * square) if engine.prefetch is None else engine.prefetch
            gathered = float(setup.compute_bytes * min(engine.live_parameters + prefetch, shape.parameters))
    chunk = min(_CHUNK, setup.tokens)
    head_gradient = 0 if setup.lora_rank else shape.vocabulary * shape.hidden * setup.weight_bytes
    return [
        Item("gathered weights", gathered, _COMPUTING, "ZeRO-3's max_live_parameters and prefetch bucket"),
        Item("reduce buckets", buckets, _COMPUTING, "two, while gradients are sent"),
        Item(
            "final norm",
            setup.tokens * shape.hidden * _FINAL_NORM,
            ("loss",),
            f"{_FINAL_NORM} B x {setup.tokens} tokens x {shape.hidden}",
        ),
        Item(
            "logits at targets",
            3 * chunk * shape.vocabulary * _SINGLE + head_gradient,
            ("loss",),
            f"3 x {chunk} x {shape.vocabulary} x 4 B" + (", the layer's gradient" if head_gradient else ""),
        ),
        Item("optimizer's temporaries", _step_bytes(setup), ("step",), _step_reason(setup)),
    ]


def _step_bytes(setup: TrainingSetup) -> float:
    """Adam without fusing takes a root of all second moments at once on CUDA; DeepSpeed casts gradients to float32."""
    engine = setup.engine
    if engine and engine.offload_optimizer:
        return 0.0
    own = setup.trained * setup.share(1)
    if engine and engine.stage == 3:
        own = min(own, 1e9)  # its sub_group_size
    roots = _SINGLE * own if setup.optimizer == "adamw_torch" and setup.on_cuda else 0.0
    return roots + (_SINGLE * own if engine and setup.half else 0.0)


def _step_reason(setup: TrainingSetup) -> str:
    return "float32 gradients and roots of second moments" if setup.engine else "roots of second moments"


def _host(setup: TrainingSetup) -> float:
    """Bytes on each node for what DeepSpeed offloads: states, gradients in both precisions, weights."""
    engine = setup.engine
    if engine is None:
        return 0.0
    part = min(setup.devices_per_node / setup.devices, 1.0)
    optimizer = _optimizer_bytes(setup) + (setup.compute_bytes + _SINGLE) * setup.trained
    weights = setup.compute_bytes * setup.shape.parameters
    return part * (optimizer * engine.offload_optimizer + weights * engine.offload_weights)


def checkpoint_bytes(setup: TrainingSetup) -> float:
    """Bytes of one checkpoint on disk; frozen weights are not saved.

    The Trainer writes weights and optimiser states. DeepSpeed's states always hold float32 weights beside the moments,
    and below stage 3 it writes the weights a second time.
    """
    if setup.engine is None:
        return _SINGLE * setup.trained + _optimizer_bytes(setup)
    copies = 1 if setup.engine.stage == 3 else 2
    return float((copies * setup.compute_bytes + 3 * _SINGLE) * setup.trained)


def checkpoints_bytes(setup: TrainingSetup) -> float:
    """Bytes on disk at the most: the checkpoints that are kept, and one more while it is written."""
    return (KEPT + 1) * checkpoint_bytes(setup)


@dataclass(frozen=True)
class Knob:
    """A change of settings, as one would write it, what it costs, and the training that it makes."""

    change: str
    price: str
    setup: TrainingSetup


def knobs(setup: TrainingSetup, max_length: int, memory: float) -> list[Knob]:
    """Changes that lower the peak, the cheapest first.

    Args:
        max_length: tokens of the longest sequence, below which a micro-batch cannot go.
        memory: bytes of a device; where a size can be chosen, the first that fits is.
    """
    found = [*_same_result(setup, max_length, memory), *_other_result(setup, max_length, memory)]
    now = estimate(setup).peak
    return [knob for knob in found if estimate(knob.setup).peak < 0.99 * now]


def _same_result(setup: TrainingSetup, max_length: int, memory: float) -> list[Knob]:
    """Changes that cost time or machines only."""
    engine, offloading = setup.engine, Engine(3, offload_optimizer=True)
    found = []
    if setup.attention in ("eager", "sdpa") and setup.on_cuda:
        found.append(
            Knob(
                "train.attention: flash_attention_2",
                "none (pip install '.[gpu]')",
                replace(setup, attention="flash_attention_2"),
            )
        )
    if max_length < setup.tokens:
        found.append(Knob(f"plan.token_budget: {max_length}", "more micro-steps", replace(setup, tokens=max_length)))
    if not setup.checkpointing:
        found.append(
            Knob("train.gradient_checkpointing: true", "a third more computing", replace(setup, checkpointing=True))
        )
    sharded = replace(setup, engine=Engine(3), optimizer="adamw_torch")
    if setup.devices > 1 and (engine is None or engine.stage < 3):
        found.append(Knob("train.deepspeed: config/deepspeed/zero3.json", "more communication", sharded))
    base, how = (setup, "") if engine else (sharded, ", train.deepspeed: config/deepspeed/zero3.json")
    doubled = [replace(base, devices=base.devices * 2**power) for power in (1, 2, 3)]
    more = next((one for one in doubled if estimate(one).peak <= memory), doubled[-1])
    found.append(Knob(f"train.nodes x train.ranks_per_node: {more.devices}{how}", "more devices", more))
    if setup.on_cuda and not (engine and engine.offload_optimizer):
        offloaded = replace(sharded, engine=offloading)
        found.append(_offload("zero3_offload_optimizer", offloaded))
    if setup.on_cuda and not (engine and engine.offload_weights):
        found.append(_offload("zero3_offload_all", replace(sharded, engine=replace(offloading, offload_weights=True))))
    return found


def _offload(name: str, setup: TrainingSetup) -> Knob:
    price = f"slower steps, {estimate(setup).host / 1e9:.0f} GB of memory on each node"
    return Knob(f"train.deepspeed: config/deepspeed/{name}.json", price, setup)


def _other_result(setup: TrainingSetup, max_length: int, memory: float) -> list[Knob]:
    """Changes after which another model comes out."""
    found = []
    if setup.on_cuda and setup.optimizer != "adamw_8bit" and not setup.lora_rank:
        change = "train.optimizer: adamw_8bit" + (", train.deepspeed: null" if setup.engine else "")
        found.append(
            Knob(change, "optimizer states rounded to 8 bits", replace(setup, optimizer="adamw_8bit", engine=None))
        )
    if not setup.lora_rank:
        found.append(Knob("train.lora: {r: 16}", "trains adapters only", replace(setup, lora_rank=16)))
    shorter = [tokens for tokens in (max_length // 2, max_length // 4, max_length // 8) if tokens >= _CHUNK]
    fitting = [replace(setup, tokens=min(tokens, setup.tokens)) for tokens in shorter]
    if fitting:
        lower = next((one for one in fitting if estimate(one).peak <= memory), fitting[-1])
        change = f"tokens.max_length and plan.token_budget: {lower.tokens}"
        found.append(Knob(change, "longer rows are left out or cut", lower))
    return found


def _count(number: float) -> str:
    """A number of parameters for people."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"
