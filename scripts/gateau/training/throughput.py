"""Work of a training step and what a device could do at most: for the share of the peak that is used (MFU)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# dense bfloat16 operations per second, from the makers' data sheets; matched as part of the device's name
_PEAKS = {
    "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12,
    "L40S": 362e12, "A6000": 155e12, "4090": 165e12, "MI300X": 1307e12,
}  # fmt: skip


def peak_flops(device_name: str) -> float | None:
    """Peak bfloat16 operations per second of a device by its name; None for one that is not known."""
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)


def training_flops(config: Any, lengths: Sequence[int], frozen_weights: bool = False) -> float:
    """Operations of forward and backward over sequences, without recomputation, as MFU is usually counted.

    Matrix work is 2 operations per weight and token, the output layer counted at every token (this project computes it
    at targets only: 2 % less at 7B). Causal attention is 4·width operations per pair of positions, T²/2 pairs a layer,
    fewer behind a sliding window. A backward pass is twice a forward; under LoRA (``frozen_weights``) it has no
    gradients of weights and its matrix work is once a forward.

    Args:
        config: a transformers configuration of a decoder. Of experts, those that a token goes through count.
        lengths: tokens of each sequence; packed sequences do not see each other.
    """
    config = config.get_text_config()
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    attention = config.hidden_size * head_width * (2 * heads + 2 * key_heads)
    weights = config.num_hidden_layers * (attention + 3 * config.hidden_size * active_width(config))
    weights += config.hidden_size * config.vocab_size
    pairs = sum(count * sum(_pairs(length, window) for length in lengths) for window, count in _windows(config).items())
    linear, quadratic = 2.0 * weights * sum(lengths), 4.0 * heads * head_width * pairs
    return float((2 if frozen_weights else 3) * linear + 3 * quadratic)


def active_width(config: Any) -> int:
    """Features between the two matrices of a layer's MLP, of all experts that one token goes through."""
    experts = getattr(config, "num_experts_per_tok", None)
    if not experts:
        return int(config.intermediate_size)
    return int(experts * (getattr(config, "moe_intermediate_size", None) or config.intermediate_size))


def _windows(config: Any) -> dict[int | None, int]:
    """Layers by their sliding window; None sees everything."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    sliding = sum(kind == "sliding_attention" for kind in kinds) if window else 0
    return {window: sliding, None: config.num_hidden_layers - sliding} if sliding else {None: config.num_hidden_layers}


def _pairs(length: int, window: int | None) -> float:
    """Pairs of a position and one that it sees, in the usual approximation T²/2."""
    beyond = max(length - window, 0) if window else 0
    return (length**2 - beyond**2) / 2
