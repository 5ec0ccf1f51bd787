"""What the scoring passes cost: operations and memory of each pass over the long samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateau.costs.lengths import BoundedRows, SampleLength
from gateau.costs.stages import Stage
from gateau.methods import Contrast
from gateau.work import DecoderShape, forward_flops

PASSES = ("short_pass", "long_pass", "segment_pass")

_SINGLE = 4  # bytes of a float32
_TILE = 256 * 2**20  # bytes of the attention probe's scores, as in gateau.scoring.attention
_LOGIT_ROWS = 512  # rows of logits that are float32 at once, as in gateau.scoring.perplexity
_SLACK = 0.05  # share that the allocator adds
_CUDA_CONTEXT = 1e9  # bytes, as a rule of thumb


@dataclass(frozen=True)
class PassOptions:
    """The settings that determine the cost of the passes.

    ``window`` is the number of tokens that the whole sequence is cut to under θ_S or what stands in its place, or None
    if nothing is cut. ``bytes_each`` is the size of a weight and of an activation.
    """

    window: int | None
    segment_length: int
    segment_batch_tokens: int
    layer_block: int
    max_length: int
    shards: int
    on_cuda: bool
    bytes_each: int
    attention: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any], window: int | None) -> PassOptions:
        """Return the options of a whole configuration. ``window`` is θ_S's own, or None if it is unknown."""
        scoring = config["scoring"]
        on_cuda = scoring["device"] != "cpu"
        half = on_cuda if scoring["dtype"] == "auto" else scoring["dtype"] != "float32"
        return cls(
            window=window if scoring["short_context"] == "truncate" else None,
            segment_length=config["cam"]["segment_length"],
            segment_batch_tokens=scoring["segment_batch_tokens"],
            layer_block=scoring["layer_block"],
            max_length=scoring["max_length"],
            shards=scoring["shards"],
            on_cuda=on_cuda,
            bytes_each=2 if half else 4,
            attention="sdpa" if scoring["attention"] == "auto" else scoring["attention"],
        )


def short_pass_length(sample: SampleLength, window: int | None) -> int:
    """Return the tokens that θ_S reads: at most ``window``, and 0 if the frame alone exceeds it."""
    if window is None:
        return sample.total
    return 0 if sample.frame > window else min(sample.total, window)


def short_pass_flops(shape: DecoderShape, sample: SampleLength, window: int | None) -> float:
    """Return the operations of rule short_pass for one sample."""
    tokens = short_pass_length(sample, window)
    reset = forward_flops(shape, 1, 1) if window is None else 0.0
    return forward_flops(shape, tokens, sample.response + 1) + reset if tokens else 0.0


def long_pass_flops(shape: DecoderShape, sample: SampleLength) -> float:
    """Return the operations of rule long_pass for one sample.

    The attention probe multiplies the response's queries with all keys once more, then sums over the context's keys.
    """
    probe = 2.0 * shape.layers * shape.heads * sample.response * (shape.head_width * sample.total + sample.context)
    return forward_flops(shape, sample.total, sample.response + 1) + forward_flops(shape, 1, 1) + probe


def segment_lengths(sample: SampleLength, segment_length: int) -> list[tuple[int, int]]:
    """Return the sequences of rule segment_pass for one sample as pairs (tokens, how many).

    They are the segments with instruction and response, the same without a segment, and the response alone.
    """
    whole, rest = divmod(sample.context, segment_length)
    alone = [(sample.frame, 1), (sample.response + 1, 1)]
    segments = [(segment_length + sample.frame, whole), (rest + sample.frame, int(rest > 0))]
    return [(tokens, count) for tokens, count in [*segments, *alone] if count]


def segment_pass_flops(shape: DecoderShape, sample: SampleLength, segment_length: int) -> float:
    """Return the operations of rule segment_pass for one sample, one forward for each of its sequences."""
    return forward_flops(shape, 1, 1) + sum(
        count * forward_flops(shape, tokens, sample.response + 1)
        for tokens, count in segment_lengths(sample, segment_length)
    )


def forward_bytes(
    shape: DecoderShape, tokens: int, rows: int, bytes_each: int, *, attention: str = "sdpa", probe: bool = False,
    on_cuda: bool = True,
) -> float:  # fmt: skip
    """Return the memory at the peak of a forward without gradients, in bytes: weights, one layer's tensors, logits.

    The terms are those of transformers' Llama. The embeddings and a layer's input exist throughout. The peak of the MLP
    adds the residual and the normalised input, the activated gate, its other half and their product. The peak of
    attention adds the normalised input, queries, keys and values, and the rotated queries or keys.

    Args:
        shape: the model's.
        tokens: of all sequences of the batch together.
        rows: positions with logits, of all sequences.
        bytes_each: of a weight and of an activation.
        attention: backend; only ``eager`` holds S × S weights of all heads.
        probe: with the attention probe, whose tiles are bounded.
        on_cuda: whether the memory of the CUDA context counts.
    """
    query, key = shape.query_width, shape.key_width
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


def contrast_stage(
    name: str, contrast: Contrast, shape: DecoderShape | None, window: int | None,
    samples: BoundedRows[SampleLength] | None, options: PassOptions,
) -> Stage:  # fmt: skip
    """Return rule contrast_pass for one contrast, which computes as the short pass does.

    Args:
        name: of the contrast.
        contrast: what stands in θ_S's place.
        shape: of its model.
        window: of the model ``window_of``; if the context is cut to a window that is unknown, the costs are unknown.
        samples: lengths, or None.
        options: those of the passes.
    """
    if contrast.short_context != "truncate":
        window = None
    elif window is None:
        shape = samples = None
    return pass_stage("contrast_pass", shape, samples, replace(options, window=window), name)


def pass_stage(
    rule: str, shape: DecoderShape | None, samples: BoundedRows[SampleLength] | None, options: PassOptions,
    name: str = "",
) -> Stage:  # fmt: skip
    """Return one pass. If the model's shape is unknown, tokens are known; if the lengths are unknown, memory is."""
    scored = samples.each(lambda rows: [one for one in rows if one.scored]) if samples else None
    flops = scored.total(lambda one: _flops(rule, shape, one, options)) if scored and shape else None
    return Stage(
        rule=rule,
        name=name,
        jobs=options.shards,
        devices=int(options.on_cuda),
        samples=len(scored.likely) if scored else None,
        tokens=scored.total(lambda one: float(_tokens(rule, one, options))) if scored else None,
        flops=flops,
        executed=flops.likely if flops else None,
        memory=_memory(rule, shape, scored.high if scored else [], options) if shape else None,
        benchmarks=f"{rule}/{name}{'/' if name else ''}*-of-{options.shards:04d}.tsv",
    )


def _tokens(rule: str, sample: SampleLength, options: PassOptions) -> int:
    if rule == "long_pass":
        return sample.total
    if rule == "segment_pass":
        return sum(tokens * count for tokens, count in segment_lengths(sample, options.segment_length))
    return short_pass_length(sample, options.window)


def _flops(rule: str, shape: DecoderShape, sample: SampleLength, options: PassOptions) -> float:
    if rule == "long_pass":
        return long_pass_flops(shape, sample)
    if rule == "segment_pass":
        return segment_pass_flops(shape, sample, options.segment_length)
    return short_pass_flops(shape, sample, options.window)


def _memory(rule: str, shape: DecoderShape, scored: Sequence[SampleLength], options: PassOptions) -> float:
    """Return the bytes of a device at the costliest batch.

    If lengths are unknown, they are those of a sample of ``max_length`` tokens with a response of 500.
    """

    def batch(sample: SampleLength) -> tuple[int, int]:
        if rule != "segment_pass":
            return _tokens(rule, sample, options), sample.response + 1
        together = (
            (min(max(options.segment_batch_tokens // tokens, 1), count), tokens)
            for tokens, count in segment_lengths(sample, options.segment_length)
        )
        return max((count * tokens, count * (sample.response + 1)) for count, tokens in together)

    batches = [batch(one) for one in scored or [SampleLength(options.max_length - 600, 600, 500)]]
    return max(
        forward_bytes(
            shape, tokens, rows, options.bytes_each, attention=options.attention, probe=rule == "long_pass",
            on_cuda=options.on_cuda,
        )
        for tokens, rows in {max(batches), max(batches, key=lambda one: one[1])}
    )  # fmt: skip
