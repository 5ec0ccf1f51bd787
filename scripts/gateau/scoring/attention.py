"""The attention probe: how much attention the response pays to each context token, without materialising attention.

During an ordinary forward pass the probe sees the queries and keys that the attention backend sees, lets the backend
compute the output, and beside it softmaxes only the response's query rows, in tiles, in float32. The attention weights
of a 64k sequence are never held: the extra memory is one tile. In half precision the mean weights (about 1e-5) would be
subnormal, hence float32 throughout.

The probe wraps the backend's registered function under the backend's own name in transformers' ``AttentionInterface``.
Under a name of its own the flash backends would look for a kernel of that name, and masks would need a second
registration that fails silently when forgotten. Without an active recording the wrapper only passes through.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gateau.errors import ModelError

TILE_BYTES = 256 * 2**20

AttentionFunction = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass
class AttentionRecording:
    """What one forward pass recorded: for each layer that attends, the mean weight on each key of the span."""

    first_query: int
    first_key: int
    last_key: int
    layers: dict[int, torch.Tensor] = field(default_factory=dict)
    tile_bytes: int = TILE_BYTES

    def profiles(self) -> torch.Tensor:
        """float32 ``[L, K]``: per layer, mean over heads and query rows, for the K keys of the span.

        Raises ModelError when the model never came through the attention interface.
        """
        if not self.layers:
            raise ModelError(
                "the model did not use transformers' attention interface, so its attention cannot be measured; "
                "use a model class that supports it (trust_remote_code models often do not)"
            )
        return torch.stack([self.layers[layer] for layer in sorted(self.layers)])


_active: AttentionRecording | None = None
_wrapped: set[str] = set()


@contextmanager
def record_attention(
    model: PreTrainedModel, first_query: int, first_key: int, last_key: int, tile_bytes: int = TILE_BYTES
) -> Iterator[AttentionRecording]:
    """Record the attention of the query rows from ``first_query`` on to the keys ``[first_key, last_key)``.

    Run exactly one forward pass of one sequence inside the ``with`` block. ``tile_bytes`` bounds the extra memory.
    """
    global _active
    _wrap_backend(model.config._attn_implementation)
    _active = AttentionRecording(first_query, first_key, last_key, tile_bytes=tile_bytes)
    try:
        yield _active
    finally:
        _active = None


def _wrap_backend(name: str) -> None:
    if name in _wrapped:
        return
    backend = None if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]

    def attention_with_probe(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if _active is not None:
            _record_layer(_active, module, query, key, attention_mask, kwargs)
        attend = backend or _eager_function(module)
        return attend(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(name, attention_with_probe)
    _wrapped.add(name)


def _eager_function(module: torch.nn.Module) -> AttentionFunction:
    """The eager function of the module's own modelling file: the interface has none of its own."""
    function: AttentionFunction = sys.modules[type(module).__module__].eager_attention_forward
    return function


def _record_layer(
    recording: AttentionRecording,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: Any,
    options: dict[str, Any],
) -> None:
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ValueError(f"the probe takes one whole sequence at a time, got queries {tuple(query.shape)}")
    if options.get("position_bias") is not None:
        raise ModelError(
            f"{type(module).__name__} adds a position bias to its attention, which the probe does not know"
        )
    layer = getattr(module, "layer_idx", None)
    if layer is None or layer in recording.layers:
        raise ModelError(f"{type(module).__name__} attends without a layer index of its own; it cannot be measured")
    sinks = options.get("s_aux")
    recording.layers[layer] = mean_attention(
        query[0, :, recording.first_query :],
        key[0],
        recording.first_key,
        recording.last_key,
        scaling=options.get("scaling"),
        softcap=options.get("softcap"),
        sinks=sinks if sinks is not None else getattr(module, "sinks", None),
        visible=_visible_rows(recording, attention_mask, query.shape[2], options.get("sliding_window"), query.device),
        tile_bytes=recording.tile_bytes,
    )


def _visible_rows(
    recording: AttentionRecording,
    attention_mask: Any,
    n_keys: int,
    sliding_window: int | None,
    device: torch.device,
) -> Callable[[slice], torch.Tensor]:
    """A function from a slice of query rows to bool ``[rows, S]``: which keys each row may see.

    A dense mask made by transformers is used as it is, whatever its pattern; a backend without one (flash) is causal,
    with its window if it has one.
    """
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 4:
        mask = attention_mask[0, 0, recording.first_query :, :n_keys]
        return lambda rows: mask[rows] if mask.dtype == torch.bool else mask[rows] > torch.finfo(mask.dtype).min / 2
    keys = torch.arange(n_keys, device=device)

    def causal(rows: slice) -> torch.Tensor:
        queries = torch.arange(recording.first_query + rows.start, recording.first_query + rows.stop, device=device)
        visible = keys[None, :] <= queries[:, None]
        return visible if not sliding_window else visible & (keys[None, :] > queries[:, None] - sliding_window)

    return causal


def mean_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    first_key: int,
    last_key: int,
    *,
    scaling: float | None,
    visible: Callable[[slice], torch.Tensor],
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    tile_bytes: int = TILE_BYTES,
) -> torch.Tensor:
    """Mean attention weight on each key of a span, over heads and query rows, for one layer and one sequence.

    Args:
        query: ``[H, R, D]``, after rotary embedding; the R rows to average over.
        key: ``[Hkv, S, D]``, after rotary embedding; H is a multiple of Hkv (grouped-query attention).
        first_key, last_key: the span of keys that is returned; the softmax is over all S visible keys.
        scaling: factor on the scores, ``D ** -0.5`` if None.
        visible: maps a slice of the R rows to bool ``[rows, S]``.
        softcap: cap of the scores, as ``softcap * tanh(score / softcap)``.
        sinks: ``[H]``, one extra score per head that takes part in the softmax and receives no key.
        tile_bytes: bound of the score tile, in bytes.

    Returns:
        float32 ``[last_key - first_key]``.
    """
    n_heads, n_rows, head_dim = query.shape
    n_key_heads, n_keys, _ = key.shape
    group = n_heads // n_key_heads
    scaling = head_dim**-0.5 if scaling is None else scaling
    total = torch.zeros(last_key - first_key, dtype=torch.float32, device=query.device)
    step = max(tile_bytes // (4 * group * n_keys), 1)
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        hidden = ~visible(rows)
        for head in range(n_key_heads):
            heads = slice(head * group, (head + 1) * group)
            scores = (query[heads, rows].float() * scaling) @ key[head].float().T
            if softcap:
                scores = torch.tanh_(scores.div_(softcap)).mul_(softcap)
            scores.masked_fill_(hidden, float("-inf"))
            peak = scores.amax(-1, keepdim=True)
            if sinks is not None:
                sink = sinks[heads].float()[:, None, None]
                peak = torch.maximum(peak, sink)
            weights = scores.sub_(peak).exp_()
            mass = weights.sum(-1)
            if sinks is not None:
                mass = mass + (sink - peak).exp()[..., 0]
            # the division and the sum over rows and heads in one matrix-vector product
            total += (1 / mass).flatten() @ weights[..., first_key:last_key].flatten(0, 1)
    return total / (n_heads * n_rows)
