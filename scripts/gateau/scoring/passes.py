"""The computation of each scoring pass for one sample.

``short_pass``    response NLL under θ_S, with its window extended by RoPE scaling or the context truncated to it
``long_pass``     response NLL under θ_L and the attention of the response to the context, in one forward pass
``segment_pass``  response NLL under θ_L given each context segment and the instruction, given the instruction alone,
                  and given nothing

Sequences are never padded. A batch contains only segments of one sample and one length. The numbers of a sample
therefore depend on that sample alone, however the data are sharded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from gateau.attention_profiles import block_means, relative
from gateau.models import input_device
from gateau.prompts import EncodedSample
from gateau.schemas import LONG_RESULT, SEGMENT_RESULT, SHORT_RESULT
from gateau.scoring.attention import record_attention
from gateau.scoring.perplexity import reset_rotary_scaling, response_nll

logger = logging.getLogger(__name__)


class ScoringPass(Protocol):
    """A scoring pass. Its fields are the settings that change its numbers.

    Attributes:
        name: the rule's name.
        schema: columns of a result.
    """

    name: str
    schema: pa.Schema

    def fits(self, n_frame: int) -> bool:
        """Tell whether a sample with ``n_frame`` tokens besides its context can be scored; else it is ``too_long``."""

    def compute(self, model: PreTrainedModel, sample: EncodedSample) -> dict[str, Any]:
        """Return the result of one sample, with the columns of ``schema``."""


@dataclass(frozen=True)
class ShortPass:
    """θ_S over the whole sequence.

    Attributes:
        window: truncate the context so that the sequence fits into this many tokens; None does not truncate.
    """

    window: int | None
    name = "short_pass"
    schema = SHORT_RESULT

    def fits(self, n_frame: int) -> bool:
        """Tell whether prompt frame, instruction and response, which are never truncated, fit into the window."""
        return self.window is None or n_frame <= self.window

    def compute(self, model: PreTrainedModel, sample: EncodedSample) -> dict[str, Any]:
        """Return ``token_nll`` under θ_S."""
        if self.window is not None:
            sample = sample.truncated(self.window)
        else:
            reset_rotary_scaling(model)
        return {"token_nll": response_nll(model, _batch(model, [sample.sequence()]), len(sample.response))[0].tolist()}


@dataclass(frozen=True)
class LongPass:
    """θ_L over the whole sequence, with the attention probe.

    Attributes:
        attention_block: context tokens that are averaged into one entry of the profile over all layers.
        layer_block: the same for the profile by layer.
    """

    attention_block: int
    layer_block: int
    name = "long_pass"
    schema = LONG_RESULT

    def fits(self, n_frame: int) -> bool:
        """Return True: the index has already truncated every sample to max_length."""
        return True

    def compute(self, model: PreTrainedModel, sample: EncodedSample) -> dict[str, Any]:
        """Return ``token_nll`` and the attention profiles under θ_L, from one forward pass."""
        ids = sample.sequence()
        first_response, first_context = len(ids) - len(sample.response), len(sample.head)
        reset_rotary_scaling(model)
        with record_attention(model, first_response, first_context, first_context + len(sample.context)) as recording:
            nll = response_nll(model, _batch(model, [ids]), len(sample.response))[0]
        profiles = recording.profiles()
        _report_unmeasured(type(model).__name__, len(profiles), model.config.get_text_config().num_hidden_layers)
        stored = {
            "attention": block_means(profiles.mean(0), self.attention_block),
            "attention_second_half": block_means(profiles[len(profiles) // 2 :].mean(0), self.attention_block),
            "layer_attention": np.concatenate([block_means(layer, self.layer_block) for layer in profiles]),
        }
        result = {"token_nll": nll.tolist(), "n_layers": len(profiles)}
        for name, means in stored.items():
            result[name], result[f"{name}_peak"] = relative(means)
        return result


@dataclass(frozen=True)
class SegmentPass:
    """θ_L over each context segment with instruction and response.

    Attributes:
        segment_length: tokens of a segment.
        batch_tokens: maximum tokens of a batch of segments; a single longer sequence forms a batch of its own. If the
            device runs out of memory, the batches of this process become half as large. The NLLs change by rounding.
        start: ids before the response when it is scored given nothing (BOS or the document separator).
        weights: how many segments each one of a sample stands for; those of weight 0 are not read. None reads all.
    """

    segment_length: int
    batch_tokens: int
    start: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    name = "segment_pass"
    schema = SEGMENT_RESULT

    def fits(self, n_frame: int) -> bool:
        """Return True: a segment is never longer than the context that it was cut from."""
        return True

    def compute(self, model: PreTrainedModel, sample: EncodedSample) -> dict[str, Any]:
        """Return the mean NLLs under θ_L given each segment, given the instruction alone, and given nothing."""
        n_response = len(sample.response)
        segments = sample.segments(self.segment_length)
        read = [place for place in range(len(segments)) if self.weights is None or self.weights[place]]
        sequences = [sample.sequence(segments[place]) for place in read]
        full = [
            sequence
            for sequence, place in zip(sequences, read, strict=True)
            if len(segments[place]) == self.segment_length
        ]
        rest = sequences[len(full) :]
        step = max(self.batch_tokens // len(sequences[0]), 1) if sequences else 1
        reset_rotary_scaling(model)
        means = _mean_nll_of_batches(model, full, n_response, step)
        for sequence in rest:
            means += _mean_nll(model, [sequence], n_response)
        nll = dict(zip(read, means, strict=True))
        return {
            "segment_nll": [nll.get(place) for place in range(len(segments))],
            "segment_weight": None if self.weights is None else list(self.weights),
            "nll_instruction_only": _mean_nll(model, [sample.sequence([])], n_response)[0],
            "nll_response_only": self._response_only(model, sample.response),
        }

    def _response_only(self, model: PreTrainedModel, response: list[int]) -> float | None:
        """Return the mean NLL given nothing, or None if no token can be predicted.

        Without ``start``, the first token of the response cannot be predicted, and the mean is over the others.
        """
        predicted = len(response) if self.start else len(response) - 1
        return _mean_nll(model, [[*self.start, *response]], predicted)[0] if predicted else None


@cache  # one warning per process
def _report_unmeasured(name: str, measured: int, layers: int) -> None:
    if measured < layers:
        logger.warning(
            "%s: %d of its %d layers attend to tokens; the others, such as layers with linear attention, have no "
            "attention weights, so that profiles and contextual awareness cover the attending layers only",
            name, measured, layers,
        )  # fmt: skip


def _mean_nll(model: PreTrainedModel, sequences: list[list[int]], n_response: int) -> list[float]:
    """Return the mean NLL of the last ``n_response`` tokens of each sequence, computed in float64."""
    return _means(response_nll(model, _batch(model, sequences), n_response))


def _means(nll: torch.Tensor) -> list[float]:
    means: list[float] = nll.cpu().double().mean(1).tolist()
    return means


_halvings = 0  # of the batches of segments, in this process


def _mean_nll_of_batches(
    model: PreTrainedModel, sequences: list[list[int]], n_response: int, together: int
) -> list[float]:
    """Return the mean NLLs of sequences of one length, at most ``together`` in a batch.

    All ids are copied to the device at first, and all results back at the end, so that a GPU does not wait between
    batches. If the device runs out of memory, this batch and all later ones of the process become half as large.

    Raises:
        OutOfMemoryError: a single sequence is too large.
    """
    global _halvings
    ids, found, done = _batch(model, sequences), [], 0
    while done < len(ids):
        batch = ids[done : done + max(together >> _halvings, 1)]
        try:
            found.append(response_nll(model, batch, n_response))
            done += len(batch)
            continue
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        _halvings += 1
        logger.warning(
            "out of memory with %d segments in a batch; going on with batches of half the size: lower "
            "scoring.segment_batch_tokens to avoid the failed attempt", len(batch),
        )  # fmt: skip
        torch.cuda.empty_cache()  # outside the except clause, which keeps the tensors of the attempt
    return [mean for nll in found for mean in _means(nll)]


def _batch(model: PreTrainedModel, sequences: list[list[int]]) -> torch.Tensor:
    return torch.tensor(sequences, dtype=torch.long, device=input_device(model))
