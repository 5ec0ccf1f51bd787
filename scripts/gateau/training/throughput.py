"""Work of a training step and what a device could do at most: for the share of the peak that is used (MFU)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# dense bfloat16 operations per second, from the makers' data sheets; matched as part of the device's name
_PEAKS = {
    "A100": 312e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12, "B200": 2250e12, "L40S": 362e12, "A6000": 155e12,
    "4090": 165e12, "MI300X": 1307e12,
}  # fmt: skip


def peak_flops(device_name: str) -> float | None:
    """Peak bfloat16 operations per second of a device by its name; None for one that is not known."""
    return next((peak for name, peak in sorted(_PEAKS.items(), key=lambda item: -len(item[0])) if name in device_name), None)


def training_flops(config: Any, lengths: Sequence[int]) -> float:
    """Operations of forward and backward over sequences, without recomputation.

    Matrix work is 2 operations per weight and token, causal attention 2·T²·width per layer (half of both products of
    S x S); a backward pass is twice a forward. ``config`` is a transformers configuration of a decoder.
    """
    width = config.hidden_size
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or width // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    attention = width * head_width * (2 * heads + 2 * key_heads)
    weights = config.num_hidden_layers * (attention + 3 * width * config.intermediate_size) + width * config.vocab_size
    quadratic = 2 * config.num_hidden_layers * heads * head_width
    return 3.0 * (2 * weights * sum(lengths) + quadratic * sum(length**2 for length in lengths))
