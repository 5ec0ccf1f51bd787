"""What a run costs, from the shape of its models and the lengths of its rows alone: operations, memory, disk.

Operations are those of matrix products: 2 per weight and token of every matrix of a layer, 2 per weight of the output
layer at the positions that need logits, and 4 · width per pair of a query and a key that it sees, in each layer: the
usual count (Narayanan et al. 2021, appendix; Dao 2023 for causal attention) over the sequences that this project's
stages really read. Scaling of rotary embeddings (NTK) costs nothing. Norms, softmax and look-ups are left out.

Every decoder is taken for a Llama of its widths: a gated MLP of three matrices, of experts those that a token goes
through. That is an upper bound for those without a gate.

Nothing heavy is imported here, so that a workflow can ask before it starts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateau.errors import ModelError

SHAPE_KEYS = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
    "vocab_size", "tie_word_embeddings", "sliding_window", "use_sliding_window", "layer_types", "num_experts_per_tok",
    "num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size",
)  # fmt: skip
_NEEDED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")

_SINGLE = 4  # bytes of a float32, or a uint32
_TILE = 256 * 2**20  # of the attention probe's scores, as in gateau.scoring.attention
_LOGIT_ROWS = 512  # whose logits are float32 at once, as in gateau.scoring.perplexity
_SLACK = 0.05  # of the allocator
_CUDA_CONTEXT = 1e9  # bytes, as a rule of thumb

_ROW_BYTES = 120  # id, status, content digest of a row in a Parquet file
_FILE_BYTES = 3000  # footer of a Parquet file


@dataclass(frozen=True)
class DecoderShape:
    """What of a decoder decides its work. Widths are features per token.

    ``windows`` holds the number of layers by their sliding window; None sees everything. ``causal`` attention computes
    visible pairs only, as flash attention does; False takes all of S x S, as eager attention and torch's counter do.
    """

    layers: int
    hidden: int
    heads: int
    key_heads: int
    head_width: int
    mlp_width: int  # of all experts that a token goes through
    all_experts_width: int  # of all experts that there are
    vocabulary: int
    tied: bool
    windows: tuple[tuple[int | None, int], ...]
    causal: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any], name: str = "the model") -> DecoderShape:
        """From a model's config.json, or the entries :data:`SHAPE_KEYS` of its configuration.

        Raises:
            ModelError: an entry is missing, as for models whose configuration has other names.
        """
        config = config.get("text_config") or config
        if absent := [key for key in _NEEDED if not config.get(key)]:
            raise ModelError(
                f"{name}: its configuration has no {', '.join(absent)}; only decoders configured as Llama is can be "
                "estimated"
            )
        heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        expert_width = int(config.get("moe_intermediate_size") or config["intermediate_size"])
        active = config.get("num_experts_per_tok")
        experts = next((n for n in map(config.get, ("num_local_experts", "num_experts", "n_routed_experts")) if n), 0)
        dense = int(config["intermediate_size"])
        return cls(
            layers=layers,
            hidden=int(config["hidden_size"]),
            heads=heads,
            key_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or config["hidden_size"] // heads),
            mlp_width=int(active) * expert_width if active else dense,
            all_experts_width=int(experts or active) * expert_width if active else dense,
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings")),
            windows=_windows(config, layers),
        )

    @property
    def attention_weights(self) -> int:
        """Of query, key, value and output in one layer."""
        return self.hidden * self.head_width * 2 * (self.heads + self.key_heads)

    @property
    def layer_weights(self) -> int:
        """Of all layers' matrices that one token goes through."""
        return self.layers * (self.attention_weights + 3 * self.hidden * self.mlp_width)

    @property
    def parameters(self) -> int:
        """All weights; biases and routers, a few in ten thousand, are left out."""
        layer = self.attention_weights + 3 * self.hidden * self.all_experts_width + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + embeddings + self.hidden


def _windows(config: Mapping[str, Any], layers: int) -> tuple[tuple[int | None, int], ...]:
    window = config.get("sliding_window") if config.get("use_sliding_window") is not False else None
    kinds = config.get("layer_types") or ["sliding_attention"] * layers
    sliding = sum(kind == "sliding_attention" for kind in kinds) if window else 0
    return tuple((key, count) for key, count in ((window, sliding), (None, layers - sliding)) if count)


def attention_flops(shape: DecoderShape, tokens: int, before: int = 0) -> float:
    """Operations of attention in all layers, forward, for the queries after the first ``before`` of ``tokens``."""
    if not shape.causal:
        pairs = float(shape.layers * (tokens - before) * tokens)
    else:
        pairs = sum(n * (_pairs(tokens, window) - _pairs(before, window)) for window, n in shape.windows)
    return 4.0 * shape.heads * shape.head_width * pairs


def _pairs(tokens: int, window: int | None) -> float:
    """Pairs of a position and one that it sees, itself included."""
    beyond = max(tokens - window, 0) if window else 0
    return (tokens * (tokens + 1) - beyond * (beyond + 1)) / 2


def layer_flops(shape: DecoderShape, tokens: float) -> float:
    """Operations of all layers' matrices over so many tokens, forward."""
    return 2.0 * shape.layer_weights * tokens


def output_flops(shape: DecoderShape, rows: float) -> float:
    """Operations of the output layer at so many positions, forward."""
    return 2.0 * shape.hidden * shape.vocabulary * rows


def forward_flops(shape: DecoderShape, tokens: int, rows: int) -> float:
    """Operations of one forward over a sequence of ``tokens`` with logits at ``rows`` positions."""
    return layer_flops(shape, tokens) + attention_flops(shape, tokens) + output_flops(shape, rows)


@dataclass(frozen=True)
class Bounds:
    """A quantity as it is most likely, and what it will hardly fall below or exceed."""

    low: float
    likely: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Bounds:
        """All three the same."""
        return cls(value, value, value)

    @classmethod
    def around(cls, low: float, likely: float, high: float) -> Bounds:
        """In order: where longer rows are left out, the longest rows need not make the largest sum."""
        return cls(min(low, likely, high), likely, max(low, likely, high))

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def scaled(self, factor: float) -> Bounds:
        """All three times ``factor``."""
        return Bounds(self.low * factor, self.likely * factor, self.high * factor)


@dataclass(frozen=True)
class SampleLength:
    """Tokens of one long sample as it is scored.

    ``frame`` is all but the context, the response included. ``truncated`` context tokens were cut before scoring.
    ``scored`` is False where lengths alone forbid it.
    """

    context: int
    frame: int
    response: int
    truncated: int = 0
    scored: bool = True

    @property
    def total(self) -> int:
        """Of the whole scored sequence."""
        return self.context + self.frame


def short_pass_length(sample: SampleLength, window: int | None) -> int:
    """Tokens that θ_S reads: at most ``window`` where the context is truncated to it, 0 where the rest exceeds it."""
    if window is None:
        return sample.total
    return 0 if sample.frame > window else min(sample.total, window)


def short_pass_flops(shape: DecoderShape, sample: SampleLength, window: int | None) -> float:
    """Operations of rule short_pass for one sample; ``window`` as for :func:`short_pass_length`."""
    tokens = short_pass_length(sample, window)
    reset = forward_flops(shape, 1, 1) if window is None else 0.0
    return forward_flops(shape, tokens, sample.response + 1) + reset if tokens else 0.0


def long_pass_flops(shape: DecoderShape, sample: SampleLength) -> float:
    """Operations of rule long_pass for one sample.

    The attention probe multiplies the response's queries with all keys once more, then sums over the context's.
    """
    probe = 2.0 * shape.layers * shape.heads * sample.response * (shape.head_width * sample.total + sample.context)
    return forward_flops(shape, sample.total, sample.response + 1) + forward_flops(shape, 1, 1) + probe


def segment_lengths(sample: SampleLength, segment_length: int) -> list[tuple[int, int]]:
    """Sequences of rule segment_pass for one sample as (tokens, how many), those without a segment included."""
    whole, rest = divmod(sample.context, segment_length)
    alone = [(sample.frame, 1), (sample.response + 1, 1)]  # the instruction alone, and nothing
    segments = [(segment_length + sample.frame, whole), (rest + sample.frame, int(rest > 0))]
    return [(tokens, count) for tokens, count in [*segments, *alone] if count]


def segment_pass_flops(shape: DecoderShape, sample: SampleLength, segment_length: int) -> float:
    """Operations of rule segment_pass for one sample, one forward for each segment with instruction and response."""
    sequences = segment_lengths(sample, segment_length)
    return forward_flops(shape, 1, 1) + sum(
        count * forward_flops(shape, tokens, sample.response + 1) for tokens, count in sequences
    )


def training_flops(shape: DecoderShape, tokens: int, targets: int, frozen_weights: bool = False) -> float:
    """Operations of forward and backward over one sequence, without recomputation: what MFU is measured by.

    A backward pass is twice a forward. Under LoRA (``frozen_weights``) it has no gradients of weights, so its matrix
    work is once a forward; the adapters' own work, about 1 %, is left out.
    """
    matrices = layer_flops(shape, tokens) + output_flops(shape, targets)
    return (2 if frozen_weights else 3) * matrices + 3 * attention_flops(shape, tokens)


def recomputation_flops(shape: DecoderShape, tokens: int, targets: int, checkpointing: bool) -> float:
    """What training computes a second time: logits always, all layers with gradient checkpointing.

    Non-reentrant checkpointing stops before the last matrix of a layer, whose output no gradient needs.
    """
    if not checkpointing:
        return output_flops(shape, targets)
    unneeded = shape.layers * shape.hidden * shape.mlp_width
    layers = 2.0 * (shape.layer_weights - unneeded) * tokens
    return output_flops(shape, targets) + layers + attention_flops(shape, tokens)


def generation_flops(shape: DecoderShape, prompt: int, new: int) -> float:
    """Operations of one answer: the prompt once, then token by token with a cache.

    The last new token is never read. Pads of a batch are left out.
    """
    read = prompt + max(new - 1, 0)
    return layer_flops(shape, read) + attention_flops(shape, read) + output_flops(shape, max(new, 1))


def generation_reads(shape: DecoderShape, prompt: int, new: int, batch: float, bytes_each: int) -> float:
    """Bytes that decoding one answer reads from the device's memory, which bounds its speed.

    All weights for every new token, shared by the ``batch`` answers that are written together, and the answer's own
    cache of keys and values.
    """
    weights = (shape.parameters - shape.vocabulary * shape.hidden * (not shape.tied)) * bytes_each / batch
    return max(new - 1, 0) * (weights + cache_bytes(shape, prompt + new / 2, bytes_each))


def cache_bytes(shape: DecoderShape, tokens: float, bytes_each: int) -> float:
    """Bytes of keys and values of so many tokens in all layers; windows are not taken off."""
    return 2.0 * shape.layers * shape.key_heads * shape.head_width * tokens * bytes_each


def forward_bytes(
    shape: DecoderShape, tokens: int, rows: int, bytes_each: int, *, attention: str = "sdpa", probe: bool = False,
    on_cuda: bool = True,
) -> float:  # fmt: skip
    """Memory at the peak of a forward without gradients, in bytes: weights, one layer's tensors, logits.

    Args:
        tokens: of all sequences of the batch together.
        rows: positions with logits, of all sequences.
        bytes_each: of a weight and an activation.
        attention: ``eager`` holds S x S weights of all heads; no other backend does.
        probe: with the attention probe, whose tiles are bounded.

    The terms are those of transformers' Llama. The embeddings and a layer's input are there throughout. At the peak of
    the MLP come residual and normalised input, activated gate, its other half and their product; in attention,
    normalised input, queries, keys and values, and what the rotation makes of queries or keys.
    """
    query, key = shape.heads * shape.head_width, shape.key_heads * shape.head_width
    mlp = (4 * shape.hidden + 3 * shape.mlp_width) * bytes_each
    heads = (3 * shape.hidden + max(4 * query + 2 * key, 2 * query + 5 * key)) * bytes_each
    layer = 1.0 * tokens * (max(mlp, heads) + 2 * shape.head_width * bytes_each)
    if attention == "eager":
        layer += float(tokens) ** 2 * (2 * _SINGLE * shape.heads + bytes_each)  # scores, weights, and the mask
    if probe:
        layer = max(layer, tokens * heads + 2 * min(_TILE, _SINGLE * rows * tokens * shape.heads / shape.key_heads))
    logits = rows * shape.vocabulary * bytes_each + 2.0 * min(rows, _LOGIT_ROWS) * shape.vocabulary * _SINGLE
    peak = shape.parameters * bytes_each + max(layer, logits + tokens * shape.hidden * bytes_each)
    return peak * (1 + _SLACK) + (_CUDA_CONTEXT if on_cuda else 0.0)


def pass_disk(name: str, samples: Sequence[SampleLength], layers: int, segment_length: int, layer_block: int) -> float:
    """Bytes of all shard files of a pass; its progress store takes as much again, and up to twice while parts merge.

    Floats compress by a twentieth only, which is left out.
    """
    numbers = {
        "short_pass": lambda one: _SINGLE * one.response,
        "long_pass": lambda one: (
            _SINGLE * (one.response + 2 * one.context + layers * math.ceil(one.context / layer_block)) + 4
        ),
        "segment_pass": lambda one: 2 * _SINGLE * (math.ceil(one.context / segment_length) + 2),
    }[name]
    return float(sum(numbers(sample) + _ROW_BYTES for sample in samples))


def signatures_disk(samples: int, values: int) -> float:
    """Bytes of the MinHash signatures of so many samples, ``values`` numbers each."""
    return float(samples * (_SINGLE * values + _ROW_BYTES) + _FILE_BYTES)


def files_disk(files: int) -> float:
    """Bytes that so many Parquet files have beside their rows."""
    return float(files * _FILE_BYTES)


def tokens_disk(tokens: float, targets: float, rows: int, vocabulary: int) -> float:
    """Bytes of a token table: as many bits as a token of the vocabulary has, for every id and every learnt label."""
    return (tokens + targets) * math.log2(max(vocabulary, 2)) / 8 + rows * _ROW_BYTES + _FILE_BYTES
