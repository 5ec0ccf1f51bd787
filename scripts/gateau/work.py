"""How much a decoder computes: its shape, the only count of floating point operations, and the peaks of devices.

The operations are those of matrix products: 2 per weight and token for each matrix of a layer, 2 per weight of the
output layer at each position that needs logits, and in each layer 4 · width per pair of a query and a key that it sees
(Narayanan et al. 2021, appendix; Dao 2023 for causal attention). Norms, softmax, look-ups and the scaling of rotary
embeddings are left out. Every decoder counts as a Llama of its widths: a gated MLP of three matrices, and of experts
those that a token passes through. For an MLP without a gate this is an upper bound.

The module imports nothing heavy, so that a workflow can ask it before it starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateau.errors import ModelError

_KEYS = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "tie_word_embeddings", "sliding_window", "use_sliding_window", "layer_types", "num_experts_per_tok",
    "num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size",
)  # fmt: skip
_OF_GLOBAL_LAYERS = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}  # Gemma 4
LOGITS_BYTES = 256 * 2**20  # of float32 logits at once in a scoring pass; computing their NLL needs as much again
_NEEDED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")

# dense bfloat16 operations per second, from the makers' data sheets, by a part of the device's name
_PEAKS = {
    "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12,
    "L40S": 362e12, "A6000": 155e12, "4090": 165e12, "MI300X": 1307e12,
}  # fmt: skip


@dataclass(frozen=True)
class DecoderShape:
    """What determines the work of a decoder. Widths are features per token.

    ``windows`` holds pairs of a sliding window in tokens, None for full attention, and its number of layers. Layers
    with linear attention have none.
    ``causal`` attention computes visible pairs only, as flash attention does. If it is False, all S × S pairs count, as
    in eager attention and in torch's FlopCounterMode.
    """

    layers: int
    hidden: int
    heads: int
    key_heads: int
    head_width: int
    mlp_width: int  # of all experts that a token passes through
    all_experts_width: int  # of all experts that exist
    vocabulary: int
    tied: bool
    windows: tuple[tuple[int | None, int], ...]
    causal: bool = True

    @classmethod
    def from_config(cls, config: Any, name: str = "the model") -> DecoderShape:
        """Return the shape of a model.

        Args:
            config: the content of its config.json as a mapping, or its transformers configuration, which also fills in
                the entries that config.json leaves to their defaults. Of a width that differs between layers, the mean
                counts.
            name: the model's name, for the message of an error.

        Raises:
            ModelError: an entry is missing, as for models whose configuration uses other names.
        """
        if not isinstance(config, Mapping):
            text = config.get_text_config()
            layered = getattr(text, "per_layer_attributes", None) or ()
            config = {key: getattr(text, key, None) for key in _KEYS if key not in layered}
            config |= {key: [getattr(one, key) for one in text.per_layer_config] for key in layered}
        config = config.get("text_config") or config
        if absent := [key for key in _NEEDED if not config.get(key)]:
            raise ModelError(
                f"{name}: its configuration has no {', '.join(absent)}; costs can be estimated only for decoders that "
                "are configured like Llama"
            )
        layers = int(config["num_hidden_layers"])
        heads, key_heads, head_width, dense = (
            _mean(_of_layers(config, key, layers))
            for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
        )
        expert_width = int(config.get("moe_intermediate_size") or dense)
        active = config.get("num_experts_per_tok")
        experts = next((n for n in map(config.get, ("num_local_experts", "num_experts", "n_routed_experts")) if n), 0)
        return cls(
            layers=layers,
            hidden=int(config["hidden_size"]),
            heads=heads,
            key_heads=key_heads or heads,
            head_width=head_width or config["hidden_size"] // heads,
            mlp_width=int(active) * expert_width if active else dense,
            all_experts_width=int(experts or active) * expert_width if active else dense,
            vocabulary=int(config["vocab_size"]),
            tied=config.get("tie_word_embeddings") is not False,  # transformers wrote the entry only where it is false
            windows=_windows(config, layers),
        )

    @property
    def query_width(self) -> int:
        """Features of all queries of a token in one layer."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Features of all keys, and of all values, of a token in one layer."""
        return self.key_heads * self.head_width

    @property
    def attention_weights(self) -> int:
        """Weights of the query, key, value and output matrices of one layer."""
        return 2 * self.hidden * (self.query_width + self.key_width)

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of all layers that one token passes through."""
        return self.layers * (self.attention_weights + 3 * self.hidden * self.mlp_width)

    @property
    def parameters(self) -> int:
        """All weights, without biases and routers, which are a few in ten thousand."""
        layer = self.attention_weights + 3 * self.hidden * self.all_experts_width + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + embeddings + self.hidden


def _of_layers(config: Mapping[str, Any], key: str, layers: int) -> list[Any]:
    """Return the value of an entry in each layer; None where there is none."""
    value = config.get(key)
    if isinstance(value, list | tuple):
        return list(value)
    others = {int(number): entries for number, entries in (config.get("per_layer_config") or {}).items()}
    if of_global := config.get(_OF_GLOBAL_LAYERS.get(key, "")):
        kinds = enumerate(config.get("layer_types") or ())
        others |= {number: {key: of_global} for number, kind in kinds if kind == "full_attention"}
    return [others.get(number, {}).get(key, value) for number in range(layers)]


def _mean(values: list[Any]) -> int:
    """Return the mean of the values that are there, 0 if there are none."""
    known = [value for value in values if value]
    return round(sum(known) / len(known)) if known else 0


def _windows(config: Mapping[str, Any], layers: int) -> tuple[tuple[int | None, int], ...]:
    windows = _of_layers(config, "sliding_window", layers) if config.get("use_sliding_window") is not False else []
    kinds = config.get("layer_types") or ["sliding_attention"] * layers
    layer_by_layer = zip(windows, kinds, strict=False)
    sliding = Counter(window for window, kind in layer_by_layer if window and kind == "sliding_attention")
    linear = sum(kind == "linear_attention" for kind in kinds)  # its work is small and left out
    pairs = (*sliding.items(), (None, layers - sliding.total() - linear))
    return tuple((window, count) for window, count in pairs if count)


def attention_flops(shape: DecoderShape, tokens: int, before: int = 0) -> float:
    """Return the operations of attention in all layers, forward, for the queries after the first ``before`` tokens."""
    if not shape.causal:
        pairs = float(shape.layers * (tokens - before) * tokens)
    else:
        pairs = sum(n * (_pairs(tokens, window) - _pairs(before, window)) for window, n in shape.windows)
    return 4.0 * shape.query_width * pairs


def _pairs(tokens: int, window: int | None) -> float:
    """Return the number of pairs of a position and one that it sees, itself included: T(T+1)/2 without a window."""
    beyond = max(tokens - window, 0) if window else 0
    return (tokens * (tokens + 1) - beyond * (beyond + 1)) / 2


def layer_flops(shape: DecoderShape, tokens: float) -> float:
    """Return the operations of the matrices of all layers over so many tokens, forward."""
    return 2.0 * shape.layer_weights * tokens


def output_flops(shape: DecoderShape, rows: float) -> float:
    """Return the operations of the output layer at so many positions, forward."""
    return 2.0 * shape.hidden * shape.vocabulary * rows


def forward_flops(shape: DecoderShape, tokens: int, rows: int) -> float:
    """Return the operations of one forward over a sequence of ``tokens``, with logits at ``rows`` positions."""
    return layer_flops(shape, tokens) + attention_flops(shape, tokens) + output_flops(shape, rows)


def training_flops(shape: DecoderShape, tokens: int, targets: int, frozen_weights: bool = False) -> float:
    """Return the operations of forward and backward over one sequence, which MFU is measured by.

    Recomputation does not count. Logits exist at targets only. A backward pass is twice a forward. Under LoRA
    (``frozen_weights``) it computes no gradients of weights, so its matrix work is once a forward; the work of the
    adapters, about 1 %, is left out.
    """
    matrices = layer_flops(shape, tokens) + output_flops(shape, targets)
    return (2 if frozen_weights else 3) * matrices + 3 * attention_flops(shape, tokens)


def recomputation_flops(shape: DecoderShape, tokens: int, targets: int, checkpointing: bool) -> float:
    """Return the operations that training repeats: logits always, and all layers under gradient checkpointing.

    Non-reentrant checkpointing stops before the last matrix of a layer, because no gradient needs its output.
    """
    if not checkpointing:
        return output_flops(shape, targets)
    unneeded = shape.layers * shape.hidden * shape.mlp_width
    layers = 2.0 * (shape.layer_weights - unneeded) * tokens
    return output_flops(shape, targets) + layers + attention_flops(shape, tokens)


def generation_flops(shape: DecoderShape, prompt: int, new: int) -> float:
    """Return the operations of one answer: the prompt once, then token by token with a cache.

    The last new token is never read. Padding in a batch is left out.
    """
    read = prompt + max(new - 1, 0)
    return layer_flops(shape, read) + attention_flops(shape, read) + output_flops(shape, max(new, 1))


def forward_cost(tokens: int) -> float:
    """Return the work of one forward of a dense 7B, in operations, to balance shards and batches.

    One shape serves all models, so that plans do not depend on the size of a model.
    """
    return 12.95e9 * tokens + 262144.0 * tokens**2


def peak_flops(device_name: str) -> float | None:
    """Return the peak bfloat16 operations per second of a device by its name, or None if it is unknown."""
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)
