"""What the scoring passes cost: operations, memory and files of each pass over the long samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateau.costs.lengths import SampleLength
from gateau.work import LOGITS_BYTES, DecoderShape, forward_flops

PASSES = ("short_pass", "long_pass", "segment_pass")

_SINGLE = 4  # bytes of a float32
_TILE = 256 * 2**20  # bytes of the attention probe's scores, as in gateau.scoring.attention
_SLACK = 0.05  # share that the allocator adds
_CUDA_CONTEXT = 1e9  # bytes, as a rule of thumb
_ROW = 120  # bytes of id, status and content digest of a row in a Parquet file
_FRAME, _RESPONSE = 600, 500  # tokens that memory is estimated for


def bytes_each(section: Mapping[str, Any]) -> int:
    """Return the bytes of a weight and of an activation under ``device`` and ``dtype`` of a section."""
    on_cuda, dtype = section["device"] != "cpu", section["dtype"]
    return 2 if (on_cuda if dtype == "auto" else dtype != "float32") else 4


@dataclass(frozen=True)
class ScoringPass:
    """One pass: which sequences it reads of a sample, and what they cost.

    ``window`` is the number of tokens that the whole sequence is cut to under θ_S or what stands in its place; None if
    nothing is cut. Contrasts compute as ``short_pass`` does.
    """

    rule: str
    window: int | None
    config: Mapping[str, Any]

    def sequences(self, sample: SampleLength) -> list[tuple[int, float]]:
        """Return the sequences of a sample as pairs (tokens, how many).

        The segment pass reads the segments with instruction and response, the same without a segment, and the response
        alone. With ``scoring.screen``, which samples it reads is not known yet, so each one counts with its share. The
        short pass reads nothing if the window cannot hold instruction and response.
        """
        if self.rule != "segment_pass":
            window = self.window or sample.total
            return [(min(sample.total, window), 1)] if sample.frame <= window else []
        length = self.config["cam"]["segment_length"]
        whole, rest = divmod(sample.context, length)
        segments, samples = shares_read(self.config["scoring"])
        read = [(length + sample.frame, whole * segments), (rest + sample.frame, (rest > 0) * segments)]
        return [(tokens, n) for tokens, n in (*read, (sample.frame, samples), (sample.response + 1, samples)) if n]

    def tokens(self, sample: SampleLength) -> float:
        """Return the tokens that the pass reads for a sample."""
        return sum(tokens * count for tokens, count in self.sequences(sample))

    def flops(self, shape: DecoderShape, sample: SampleLength) -> float:
        """Return the operations for one sample.

        The attention probe of the long pass multiplies the response's queries with all keys once more, then sums over
        the context's keys.
        """
        rows = sample.response + 1
        work = sum(count * forward_flops(shape, tokens, rows) for tokens, count in self.sequences(sample))
        if self.rule == "long_pass":
            keys = shape.head_width * sample.total + sample.context
            work += 2.0 * shape.layers * shape.heads * sample.response * keys
        return work

    def memory(self, shape: DecoderShape) -> float:
        """Return the bytes of a device for a sample of ``scoring.max_length`` tokens with a response of 500."""
        scoring = self.config["scoring"]
        rows, tokens = _RESPONSE + 1, min(self.window or scoring["max_length"], scoring["max_length"])
        if self.rule == "segment_pass":
            one = self.config["cam"]["segment_length"] + _FRAME
            together = max(scoring["segment_batch_tokens"] // one, 1)
            rows, tokens = together * rows, together * one
        on_cuda, probe = scoring["device"] != "cpu", self.rule == "long_pass"
        share = largest_share(shape, scoring["gpus_per_job"])
        return forward_bytes(shape, tokens, rows, bytes_each(scoring), probe=probe, on_cuda=on_cuda, share=share)

    def file_bytes(self, shape: DecoderShape, sample: SampleLength) -> float:
        """Return the bytes of a sample in a shard file. The progress store takes as much again."""
        numbers: float = sample.response
        scoring = self.config["scoring"]
        if self.rule == "segment_pass":
            share = shares_read(self.config["scoring"])[1]
            numbers = 2 * share * (sample.context // self.config["cam"]["segment_length"] + 3)
        elif self.rule == "long_pass":
            blocks = 2 * (sample.context // scoring["attention_block"] + 1)
            blocks += shape.layers * (sample.context // scoring["layer_block"] + 1)
            numbers = sample.response + blocks / 2  # blocks are stored in half precision
        return float(_SINGLE * numbers + _ROW)


def shares_read(scoring: Mapping[str, Any]) -> tuple[float, float]:
    """Return the shares of all segments, and of all samples, that the segment pass reads."""
    screen, segments = scoring["screen"], scoring["segments"]
    if screen is None:
        return 1, 1
    if segments is None:
        return screen, screen
    return screen + (1 - screen) * (segments["attended"] + segments["drawn"]), 1


def largest_share(shape: DecoderShape, devices: int) -> float:
    """Return the largest share of a model's weights that one of the devices holds over which its layers are spread.

    accelerate fills one device after the other, each up to an equal share and 1.25 times the largest part, which is a
    layer or the embeddings.
    """
    if devices == 1:
        return 1.0
    embeddings = shape.vocabulary * shape.hidden
    layer = (shape.parameters - embeddings * (1 if shape.tied else 2)) / shape.layers
    return min(1 / devices + 1.25 * max(layer, embeddings) / shape.parameters, 1.0)


def forward_bytes(
    shape: DecoderShape,
    tokens: int,
    rows: int,
    size: int,
    *,
    probe: bool = False,
    on_cuda: bool = True,
    share: float = 1.0,
) -> float:
    """Return the memory at the peak of a forward without gradients, in bytes: weights, one layer's tensors, logits.

    The terms are those of transformers' Llama under sdpa or flash attention. The embeddings and a layer's input exist
    throughout. The peak of the MLP adds the residual and the normalised input, the activated gate, its other half and
    their product. The peak of attention adds the normalised input, queries, keys and values, and the rotated queries or
    keys.

    Args:
        shape: the model's.
        tokens: of all sequences of the batch together.
        rows: positions with logits, of all sequences. Not all of these logits exist at the same time.
        size: bytes of a weight and of an activation.
        probe: with the attention probe, whose tiles are bounded.
        on_cuda: whether the memory of the CUDA context counts.
        share: share of the weights that the device holds.
    """
    query, key = shape.query_width, shape.key_width
    mlp = (4 * shape.hidden + 3 * shape.mlp_width) * size
    heads = (3 * shape.hidden + max(4 * query + 2 * key, 2 * query + 5 * key)) * size
    layer = 1.0 * tokens * (max(mlp, heads) + 2 * shape.head_width * size)
    if probe:
        layer = max(layer, tokens * heads + 2 * min(_TILE, _SINGLE * rows * tokens * shape.heads / shape.key_heads))
    logits = min(rows * shape.vocabulary * _SINGLE, LOGITS_BYTES) * (2.0 + size / _SINGLE)
    peak = share * shape.parameters * size + max(layer, logits + tokens * shape.hidden * size)
    return peak * (1 + _SLACK) + (_CUDA_CONTEXT if on_cuda else 0.0)
