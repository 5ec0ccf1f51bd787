"""The memory that a training takes on each device, item by item, before anything is loaded.

Three moments compete for the peak:

``loss``      logits and the final norm, while the saved tensors of all layers exist
``backward``  one layer is recomputed and differentiated, while the inputs of all layers exist
``step``      the optimiser updates the weights; no activations are left

The terms are those of transformers' Llama under flash attention, counted tensor by tensor. The tests compare them with
simulated allocations of a 7B at 64k tokens and with the resident memory of a small real model. Other decoders count as
a Llama of their widths, an upper bound for those without a gated MLP. Fragmentation is a flat share. Three things are
left out: communication buffers whose sizes DeepSpeed does not publish, the workspace of the attention kernels, and the
S × S tensors of eager attention and of sdpa's mask.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateau.errors import SettingsError
from gateau.places import ROOT
from gateau.training.checkpoints import KEPT
from gateau.work import DecoderShape

MOMENTS = ("loss", "backward", "step")
_COMPUTING = ("loss", "backward")
_SLACK = 0.05
_CONTEXT = 1e9  # bytes of the CUDA context and NCCL, as a rule of thumb
_CHUNK = 1024  # targets whose logits exist at once, as in gateau.training.objective
_HALF, _SINGLE = 2, 4
_FINAL_NORM = 28  # bytes per feature: input, normalised, output, and their gradients in float32


@dataclass(frozen=True)
class Engine:
    """What a DeepSpeed configuration says about memory. ``bucket`` is a number of elements; None is ``auto``."""

    stage: int
    offload_optimizer: bool = False
    offload_weights: bool = False
    bucket: int | None = None
    live_parameters: int = 1_000_000_000

    @classmethod
    def read(cls, path: str) -> Engine | None:
        """Read DeepSpeed's JSON, with DeepSpeed's own defaults for absent keys; None for ``none``.

        Raises:
            SettingsError: the file cannot be read, or has no stage.
        """
        if path == "none":
            return None
        file = ROOT / path
        try:
            zero = json.loads(file.read_text(encoding="utf-8"))["zero_optimization"]
            bucket = zero.get("reduce_bucket_size", 500_000_000)
            optimizer, weights = (
                (zero.get(key) or {}).get("device", "none") != "none" for key in ("offload_optimizer", "offload_param")
            )
            live = int(zero.get("stage3_max_live_parameters", cls.live_parameters))
            return cls(int(zero["stage"]), optimizer, weights, None if bucket == "auto" else int(bucket), live)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingsError(f"train.deepspeed: cannot read {file} ({error!r}); see config/deepspeed") from error


@dataclass(frozen=True)
class TrainingSetup:
    """The properties of a training that determine its memory.

    Without an ``engine`` every device holds everything (one process, or DDP).
    """

    shape: DecoderShape
    tokens: int  # of the largest micro-batch on one device
    devices: int
    devices_per_node: int
    half: bool  # computes in bfloat16
    checkpointing: bool
    engine: Engine | None
    optimizer: str = "adamw_torch"
    adapters: int | None = None  # parameters of LoRA
    on_cuda: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shape: DecoderShape, devices: int | None = None) -> TrainingSetup:
        """Return the configured training, on ``devices`` in place of the configured number if given."""
        train, lora = config["train"], config["train"]["lora"]
        devices, on_cuda = devices or train["nodes"] * train["ranks_per_node"], train["device"] != "cpu"
        packed = config["plan"]["method"] != "sort"
        return cls(
            shape=shape,
            tokens=config["plan"]["token_budget"] if packed else config["tokens"]["max_length"],
            devices=devices,
            devices_per_node=min(train["ranks_per_node"], devices),
            half=on_cuda if train["dtype"] == "auto" else train["dtype"] == "bfloat16",
            checkpointing=train["gradient_checkpointing"],
            engine=Engine.read(train["deepspeed"]),
            optimizer=train["optimizer"],
            adapters=lora["r"] * adapted_features(shape, lora.get("target_modules", "all-linear")) if lora else None,
            on_cuda=on_cuda,
        )

    @property
    def trained(self) -> int:
        """Number of trained parameters."""
        return self.adapters or self.shape.parameters

    @property
    def compute_bytes(self) -> int:
        """Bytes of an activation."""
        return _HALF if self.half else _SINGLE

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight of the model: float32 if it is trained without an engine that keeps a float32 copy."""
        return self.compute_bytes if self.engine or self.adapters else _SINGLE

    @property
    def casts(self) -> bool:
        """Whether autocast makes its own copy in half precision for every linear layer."""
        return self.half and self.engine is None

    @property
    def optimizer_bytes(self) -> float:
        """Bytes of Adam's two moments, and of DeepSpeed's float32 copy of the weights, over all devices."""
        copy = _SINGLE if self.engine and (self.half or self.engine.stage < 3) else 0
        return float(((2 if self.optimizer == "adamw_8bit" else 2 * _SINGLE) + copy) * self.trained)

    @property
    def checkpoint_bytes(self) -> float:
        """Bytes of one checkpoint on disk; frozen weights are not saved.

        The Trainer writes weights and optimiser states. DeepSpeed's states always hold float32 weights beside the
        moments, and below stage 3 it writes the weights a second time.
        """
        if self.engine is None:
            return _SINGLE * self.trained + self.optimizer_bytes
        copies = 1 if self.engine.stage == 3 else 2
        return float((copies * self.compute_bytes + 3 * _SINGLE) * self.trained)

    @property
    def file_bytes(self) -> tuple[float, float, float]:
        """Bytes on disk: of the newest checkpoints, of the trained model and of the exported one."""
        trained = self.trained * (_SINGLE if self.adapters else self.weight_bytes)
        return KEPT * self.checkpoint_bytes, trained, self.shape.parameters * self.compute_bytes

    @property
    def host_bytes(self) -> float:
        """Bytes on each node for what DeepSpeed offloads: states, gradients in both precisions, weights."""
        if self.engine is None:
            return 0.0
        optimizer = self.optimizer_bytes + (self.compute_bytes + _SINGLE) * self.trained
        weights = self.compute_bytes * self.shape.parameters
        offloaded = optimizer * self.engine.offload_optimizer + weights * self.engine.offload_weights
        return offloaded * min(self.devices_per_node / self.devices, 1.0)

    def share(self, stage: int) -> float:
        """Return the share that one device holds of something that ZeRO divides from ``stage`` on."""
        return 1 / self.devices if self.engine and self.engine.stage >= stage else 1.0


def adapted_features(shape: DecoderShape, target_modules: str | Sequence[str]) -> int:
    """Return the inputs and outputs of all layers that LoRA adapts, which are its parameters at rank 1.

    ``target_modules`` are LoRA's as peft reads them: ``all-linear``, a regular expression, or names. The layers are
    those of Llama.
    """
    query, key, hidden, mlp = shape.query_width, shape.key_width, shape.hidden, shape.mlp_width
    widths = {
        "self_attn.q_proj": hidden + query, "self_attn.k_proj": hidden + key, "self_attn.v_proj": hidden + key,
        "self_attn.o_proj": query + hidden, "mlp.gate_proj": hidden + mlp, "mlp.up_proj": hidden + mlp,
        "mlp.down_proj": mlp + hidden,
    }  # fmt: skip

    def is_adapted(name: str) -> bool:
        if isinstance(target_modules, str):
            return target_modules == "all-linear" or re.fullmatch(target_modules, name) is not None
        return any(name.endswith(f".{target}") for target in target_modules)

    return sum(
        width for layer in range(shape.layers) for name, width in widths.items()
        if is_adapted(f"model.layers.{layer}.{name}")
    )  # fmt: skip


@dataclass(frozen=True)
class Item:
    """Bytes on each device, and the moments when they exist."""

    name: str
    size: float
    moments: tuple[str, ...] = MOMENTS


def memory_items(setup: TrainingSetup) -> list[Item]:
    """Return what a training holds on each device, then what the allocator and CUDA add; no item is zero."""
    items = [item for item in (*_states(setup), *_activations(setup), *_transient(setup)) if item.size]
    slack = [Item("allocator slack", _SLACK * peak_bytes(items))]
    return [*items, *slack, *([Item("CUDA context, NCCL", _CONTEXT)] if setup.on_cuda else [])]


def bytes_at(items: Sequence[Item], moment: str) -> float:
    """Return the sum of all items of a moment."""
    return sum(item.size for item in items if moment in item.moments)


def peak_bytes(items: Sequence[Item]) -> float:
    """Return the largest sum of all moments."""
    return max(bytes_at(items, moment) for moment in MOMENTS)


def _states(setup: TrainingSetup) -> list[Item]:
    """Return what stays from step to step: weights, gradients, and states of the optimiser."""
    engine, trained = setup.engine or Engine(0), setup.trained
    each = setup.compute_bytes if setup.engine else _SINGLE  # of a gradient; adapters have weights of the same size
    weights = setup.weight_bytes * setup.shape.parameters + each * (setup.adapters or 0)
    on_device = not engine.offload_optimizer
    copies = setup.engine is None and setup.devices > 1
    return [
        Item("weights", weights * setup.share(3) * (not engine.offload_weights)),
        Item("gradients", each * trained * setup.share(2) * on_device),
        Item("optimizer states", setup.optimizer_bytes * setup.share(1) * on_device),
        Item("DDP buckets", float(_SINGLE * trained * copies)),
    ]


def _activations(setup: TrainingSetup) -> list[Item]:
    """Return what grows with the tokens of a micro-batch.

    Autograd keeps these tensors of a layer. A norm keeps its input in float32, the normalised input (for the gradient
    of its weight) and its output: one output for all linear layers that read it (query, key, value; gate, up), or under
    autocast one for each. Attention keeps query, key, value and output, and for each head and position the logarithm of
    the softmax's sum. The MLP keeps the gate, its activation, the up projection, and their product. The gradients of a
    layer's backward pass are two tensors of the hidden states' width and two of the MLP's; adapters in float32 double
    the latter.
    """
    shape, tokens, size = setup.shape, setup.tokens, setup.compute_bytes
    normalised, outputs = 0 if setup.adapters else setup.weight_bytes, 5 if setup.casts else 2
    norms = shape.hidden * (2 * (_SINGLE + normalised) + outputs * size)
    attention = 2 * (shape.query_width + shape.key_width) * size + _SINGLE * shape.heads
    casting_adapters = bool(setup.adapters and setup.casts)
    attention += shape.query_width * size * casting_adapters  # the adapter of the output projection casts its own input
    layer = tokens * (norms + attention + 4.0 * shape.mlp_width * size)
    gradients = tokens * size * (2.0 * shape.hidden + (4 if casting_adapters else 2) * shape.mlp_width)
    expert_width = shape.hidden * shape.all_experts_width
    matrices = shape.layers * (shape.attention_weights + 3 * expert_width) + shape.vocabulary * shape.hidden
    copies = _HALF * matrices if setup.casts and setup.weight_bytes == _SINGLE else 0.0  # kept until a forward's end
    if setup.checkpointing:
        inputs = float(shape.layers * tokens * shape.hidden * setup.weight_bytes)
        kept = [Item("layer inputs", inputs, _COMPUTING), Item("one layer recomputed", layer, ("backward",))]
    else:
        kept = [Item("saved tensors of all layers", shape.layers * layer, _COMPUTING)]
    return [
        Item("autocast's bfloat16 weights", copies, ("loss",) if setup.checkpointing else _COMPUTING),
        *kept,
        Item("one layer's gradients", gradients, ("backward",)),
    ]


def _transient(setup: TrainingSetup) -> list[Item]:
    """Return what exists for a moment only: gathered weights and buckets, the loss, the optimiser's temporaries.

    On CUDA, Adam without fused kernels takes the roots of all second moments at once. DeepSpeed casts the gradients to
    float32, in stage 3 by groups of at most its ``sub_group_size`` of 1e9.
    """
    engine, shape, size = setup.engine, setup.shape, setup.compute_bytes
    gathered = buckets = 0.0
    own = setup.trained * setup.share(1)
    if engine:
        bucket = shape.hidden**2 if engine.bucket is None else engine.bucket  # transformers' meaning of "auto"
        buckets = 2.0 * size * min(bucket, setup.trained)
        if engine.stage == 3:
            gathered, own = float(size * min(engine.live_parameters, shape.parameters)), min(own, 1e9)
    roots = setup.on_cuda and setup.optimizer == "adamw_torch"
    temporaries = _SINGLE * own * (roots + bool(engine and setup.half))
    head_gradient = 0 if setup.adapters else shape.vocabulary * shape.hidden * setup.weight_bytes
    logits = 3 * min(_CHUNK, setup.tokens) * shape.vocabulary * _SINGLE + head_gradient
    return [
        Item("gathered weights", gathered, _COMPUTING),
        Item("reduce buckets", buckets, _COMPUTING),
        Item("final norm", float(setup.tokens * shape.hidden * _FINAL_NORM), ("loss",)),
        Item("logits at targets", float(logits), ("loss",)),
        Item("optimizer's temporaries", 0.0 if engine and engine.offload_optimizer else temporaries, ("step",)),
    ]
