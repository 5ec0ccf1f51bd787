"""The attention probe: mean attention of the response to each context token, without storing attention matrices.

The probe receives the same queries and keys as the attention backend during an ordinary forward pass. The backend
computes the output as usual. In addition, the probe computes the softmax for the response's query rows only, tile by
tile. The attention weights of a 64k sequence are never stored as a whole: the extra memory is one tile. The probe
computes in float32 throughout, because mean weights of about 1e-5 would be subnormal in half precision.

The probe replaces the backend's function in transformers' ``AttentionInterface`` and keeps the backend's name. Under a
new name, the flash backends would look for a kernel of that name, and masks would need a second registration, which
fails silently if it is forgotten. Without an active recording, the probe only calls the backend.
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
_HIDDEN = -1e4  # an additive mask of at most this leaves a key no weight
_UNKNOWN = (
    "so its attention cannot be measured; set models.long to a model that masks all heads alike and adds no bias to "
    "its attention scores"
)

AttentionFunction = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass
class AttentionRecording:
    """The attention recorded in one forward pass.

    Attributes:
        first_query: first query row to average over; all later rows are included.
        first_key: first key of the recorded span.
        last_key: end of the recorded span, exclusive.
        layers: for each attention layer, float32 ``[last_key - first_key]``, the mean weight on each key of the span.
        tile_bytes: bound of the extra memory, in bytes.
    """

    first_query: int
    first_key: int
    last_key: int
    layers: dict[int, torch.Tensor] = field(default_factory=dict)
    tile_bytes: int = TILE_BYTES

    def profiles(self) -> torch.Tensor:
        """Return float32 ``[L, K]``: for each attention layer, the mean over heads and query rows of the K keys.

        The result is on the CPU, because the layers may lie on different devices.

        Raises:
            ModelError: if the model did not use the attention interface.
        """
        if not self.layers:
            raise ModelError(
                "the model did not use transformers' attention interface, so its attention cannot be measured; "
                "use a model class that supports it (trust_remote_code models often do not)"
            )
        return torch.stack([self.layers[layer].cpu() for layer in sorted(self.layers)])


_active: AttentionRecording | None = None
_wrapped: set[str] = set()


@contextmanager
def record_attention(
    model: PreTrainedModel, first_query: int, first_key: int, last_key: int, tile_bytes: int = TILE_BYTES
) -> Iterator[AttentionRecording]:
    """Record the attention that the query rows from ``first_query`` on pay to the keys ``[first_key, last_key)``.

    Run exactly one forward pass of one sequence inside the ``with`` block. ``tile_bytes`` bounds the extra memory, in
    bytes.
    """
    global _active
    _wrap_backend(model.config._attn_implementation)
    _active = AttentionRecording(first_query, first_key, last_key, tile_bytes=tile_bytes)
    try:
        yield _active
    finally:
        _active = None


def _wrap_backend(name: str) -> None:
    """Register the probe in front of the attention backend ``name``, once per process."""
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
    """Return the eager function of the module's own modelling file; the attention interface does not register one."""
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
    """Return a function from a slice of query rows to bool ``[rows, S]``: the keys that each row may attend to.

    If transformers made a dense mask, this mask is used unchanged. A backend without a mask (flash) is causal, with a
    sliding window if it has one.

    Raises:
        ModelError: the mask differs between heads, or adds a bias to the scores, as for ALiBi.
    """
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 4:
        if attention_mask.shape[1] != 1:
            raise ModelError(f"the model masks each of its {attention_mask.shape[1]} heads in its own way, {_UNKNOWN}")
        mask = attention_mask[0, 0, recording.first_query :, :n_keys]
        return lambda rows: mask[rows] if mask.dtype == torch.bool else _visible(mask[rows])
    keys = torch.arange(n_keys, device=device)

    def causal(rows: slice) -> torch.Tensor:
        queries = torch.arange(recording.first_query + rows.start, recording.first_query + rows.stop, device=device)
        visible = keys[None, :] <= queries[:, None]
        return visible if not sliding_window else visible & (keys[None, :] > queries[:, None] - sliding_window)

    return causal


def _visible(mask: torch.Tensor) -> torch.Tensor:
    """Return which keys an additive mask shows; it holds 0 for them, and very negative values for the others."""
    visible = mask > _HIDDEN
    if (visible & (mask != 0)).any():
        raise ModelError(f"the model adds a bias to its attention scores, {_UNKNOWN}")
    return visible


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
    """Compute the mean attention weight on each key of a span, over heads and query rows, for one layer and sequence.

    Args:
        query: ``[H, R, D]``, after rotary embedding; the R rows to average over.
        key: ``[Hkv, S, D]``, after rotary embedding; H is a multiple of Hkv (grouped-query attention).
        first_key: first key of the returned span. The softmax is over all visible keys, inside the span or not.
        last_key: end of the returned span, exclusive.
        scaling: factor on the scores; None is ``D ** -0.5``.
        visible: function from a slice of the R rows to bool ``[rows, S]``: the keys that each row may attend to.
        softcap: cap of the scores, as ``softcap * tanh(score / softcap)``; None is no cap.
        sinks: ``[H]``, one extra score per head that takes part in the softmax but belongs to no key.
        tile_bytes: bound of one tile of scores, in bytes.

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
            # one matrix-vector product divides by the mass and sums over rows and heads
            total += (1 / mass).flatten() @ weights[..., first_key:last_key].flatten(0, 1)
    return total / (n_heads * n_rows)
