"""What each pass computes for one sample.

``short_pass``    response NLL under θ_S, its window extended by RoPE scaling, or the context truncated to its window
``long_pass``     response NLL under θ_L and the attention of the response to the context, from one forward
``segment_pass``  response NLL under θ_L given each context segment and the instruction; given the instruction alone;
                  and given nothing

Sequences are never padded: a batch holds segments of one sample and one length, so that a sample's numbers depend on
nothing but the sample, however the data are sharded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from gateau.prompts import EncodedSample
from gateau.schemas import LONG_RESULT, SEGMENT_RESULT, SHORT_RESULT
from gateau.scoring.attention import record_attention
from gateau.scoring.perplexity import reset_rotary_scaling, response_nll


class ScoringPass(Protocol):
    """One pass: its name, the settings that change its numbers, its result's columns, and the computation."""

    name: str
    schema: pa.Schema

    def fits(self, n_frame: int) -> bool:
        """Whether a sample of ``n_frame`` tokens besides its context can be scored; if not, it is ``too_long``."""

    def compute(self, model: PreTrainedModel, sample: EncodedSample) -> dict[str, Any]:
        """One result, with the columns of ``schema``."""


@dataclass(frozen=True)
class ShortPass:
    """θ_S over the whole sequence. ``window`` is set when the context is truncated to θ_S's window, else None."""

    window: int | None
    name = "short_pass"
    schema = SHORT_RESULT

    def fits(self, n_frame: int) -> bool:
        """Truncation keeps frame, instruction and response: they must fit into the window."""
        return self.window is None or n_frame <= self.window

    def compute(self, model: PreTrainedModel, sample: EncodedSample) -> dict[str, Any]:
        """``token_nll`` under θ_S."""
        if self.window is not None:
            sample = sample.truncated(self.window)
        else:
            reset_rotary_scaling(model)
        return {"token_nll": response_nll(model, _batch(model, [sample.sequence()]), len(sample.response))[0].tolist()}


@dataclass(frozen=True)
class LongPass:
    """θ_L over the whole sequence, with the attention probe.

    ``layer_block`` is the number of context tokens that are averaged in the per-layer profile.
    """

    layer_block: int
    name = "long_pass"
    schema = LONG_RESULT

    def fits(self, n_frame: int) -> bool:
        """Always: the index has truncated the sample to max_length."""
        return True

    def compute(self, model: PreTrainedModel, sample: EncodedSample) -> dict[str, Any]:
        """``token_nll`` and attention profiles under θ_L, from one forward."""
        ids = sample.sequence()
        first_response, first_context = len(ids) - len(sample.response), len(sample.head)
        reset_rotary_scaling(model)
        with record_attention(model, first_response, first_context, first_context + len(sample.context)) as recording:
            nll = response_nll(model, _batch(model, [ids]), len(sample.response))[0]
        profiles = recording.profiles()
        blocks = [block.mean(1) for block in profiles.split(self.layer_block, dim=1) if block.numel()]
        return {
            "token_nll": nll.tolist(),
            "attention": profiles.mean(0).tolist(),
            "attention_second_half": profiles[len(profiles) // 2 :].mean(0).tolist(),
            "layer_attention": torch.stack(blocks, 1).flatten().tolist() if blocks else [],
            "n_layers": len(profiles),
        }


@dataclass(frozen=True)
class SegmentPass:
    """θ_L over each segment with instruction and response.

    Args:
        segment_length: tokens per segment.
        batch_tokens: bound on the tokens of one batch.
        start: ids that stand before a response given nothing (BOS or the document separator).
    """

    segment_length: int
    batch_tokens: int
    start: tuple[int, ...]
    name = "segment_pass"
    schema = SEGMENT_RESULT

    def fits(self, n_frame: int) -> bool:
        """Always: a segment is no longer than the context it was cut from."""
        return True

    def compute(self, model: PreTrainedModel, sample: EncodedSample) -> dict[str, Any]:
        """Mean NLLs under θ_L given each segment, the instruction alone, and nothing."""
        n_response = len(sample.response)
        segments = sample.segments(self.segment_length)
        sequences = [sample.sequence(segment) for segment in segments]
        full = [
            sequence
            for sequence, segment in zip(sequences, segments, strict=True)
            if len(segment) == self.segment_length
        ]
        rest = sequences[len(full) :]
        step = max(self.batch_tokens // len(sequences[0]), 1) if sequences else 1
        reset_rotary_scaling(model)
        means: list[float] = []
        for start in range(0, len(full), step):
            means += _mean_nll(model, full[start : start + step], n_response)
        for sequence in rest:
            means += _mean_nll(model, [sequence], n_response)
        return {
            "segment_nll": means,
            "nll_instruction_only": _mean_nll(model, [sample.sequence([])], n_response)[0],
            "nll_response_only": self._response_only(model, sample.response),
        }

    def _response_only(self, model: PreTrainedModel, response: list[int]) -> float | None:
        """Without anything to start from, the first token cannot be predicted and the mean is over the others."""
        predicted = len(response) if self.start else len(response) - 1
        return _mean_nll(model, [[*self.start, *response]], predicted)[0] if predicted else None


def _mean_nll(model: PreTrainedModel, sequences: list[list[int]], n_response: int) -> list[float]:
    """Mean NLL over the last ``n_response`` tokens of each sequence, summed in float64."""
    means: list[float] = response_nll(model, _batch(model, sequences), n_response).cpu().double().mean(1).tolist()
    return means


def _batch(model: PreTrainedModel, sequences: list[list[int]]) -> torch.Tensor:
    return torch.tensor(sequences, dtype=torch.long, device=model.device)
