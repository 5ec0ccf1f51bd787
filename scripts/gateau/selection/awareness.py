"""CAM, contextual awareness measurement: does the response attend to the segments that matter for it?

The importance of segment s_j is derived from PPL(y | s_j, x): the lower the perplexity, the more important the segment.
The paper does not define the map from perplexity to importance, so three are offered. The contextual awareness score
(CAS) is the cosine of the importance vector and the attention vector.

:func:`far_evidence` uses the same perplexities for another question: how far from the response is the context that
helps it?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gateau.selection.norms import perplexity, softmax

Array = NDArray[np.float64]

IMPORTANCE: dict[str, Callable[[Array], Array]] = {
    "softmax_neg_ppl": lambda nll: softmax(-perplexity(nll)),
    "inverse_ppl": lambda nll: np.exp(-nll),
    "softmax_loglik": lambda nll: softmax(-nll),
}
DEFAULT_IMPORTANCE = "softmax_neg_ppl"


def contextual_awareness(
    segment_nll: ArrayLike, segment_attention: ArrayLike, importance: str, segment_weight: ArrayLike | None = None
) -> Array:
    """Return the cosine of the segments' importance and attention, in [0, 1]; it is 1 for a single segment.

    If only some segments were read, the sums over importance are estimated from these. The attention is known of all.

    Args:
        segment_nll: mean response NLL given each segment (nats per token), float ``[..., segments]``; NaN for a segment
            that was not read. The leading dimensions may hold several rows with the same number of segments.
        segment_attention: mean attention weight of each segment, in the same shape.
        importance: a name in :data:`IMPORTANCE`.
        segment_weight: how many segments each one stands for, in the same shape, 0 for one that was not read; None if
            all were read.

    Raises:
        ValueError: the shapes differ, or there is no segment.
    """
    nll, attention = np.asarray(segment_nll, dtype=np.float64), np.asarray(segment_attention, dtype=np.float64)
    if nll.shape != attention.shape or not nll.shape[-1]:
        raise ValueError(f"segment NLLs have shape {nll.shape}, but segment attentions have shape {attention.shape}")
    nll, share = _read(nll, segment_weight)
    weights = IMPORTANCE[importance](nll)
    scale = np.linalg.norm(weights * np.sqrt(share), axis=-1) * np.linalg.norm(attention, axis=-1)
    # under a sliding window, no attention at all may reach the context: the cosine is then 0
    cosine = (weights * attention * share).sum(axis=-1) / np.where(scale > 0, scale, 1.0)
    bounded: Array = np.clip(cosine, 0.0, 1.0)
    return bounded


def contextual_awareness_rows(
    segment_nll: Sequence[ArrayLike],
    segment_attention: Sequence[ArrayLike],
    segment_weight: Sequence[ArrayLike | None],
    importance: str,
) -> Array:
    """Return :func:`contextual_awareness` of each row, float ``[rows]``; rows may differ in their number of segments.

    Raises:
        ValueError: a row's attention has another shape than its NLL, or a row has no segment.
    """
    return _by_size(
        lambda weight, nll, attention: contextual_awareness(nll, attention, importance, weight),
        segment_weight,
        segment_nll,
        segment_attention,
    )


def far_evidence(segment_nll: ArrayLike, segment_weight: ArrayLike | None = None) -> Array:
    """Return how far from the response the helpful context is, and how clearly it helps, in [0, 1).

    The evidence of a segment is the number of nats per response token by which it helps more than the median segment.
    What every segment gives, such as the style of writing, therefore does not count. The score is the mean distance of
    the segments from the response (0 at the response, 1 at the start of the context), weighted by the square of their
    evidence, times 1 - exp(-largest evidence), so that pure noise scores low. This score is not part of the paper;
    docs/findings.md reports the experiments behind it.

    Args:
        segment_nll: mean response NLL given each segment, nats per token, in the order of the context, float
            ``[..., segments]``; NaN for a segment that was not read, which has no evidence. The leading dimensions may
            hold several rows with the same number of segments.
        segment_weight: how many segments each one stands for in the median, in the same shape, 0 for one that was not
            read; None if all were read.

    Raises:
        ValueError: there is no segment.
    """
    nll = np.asarray(segment_nll, dtype=np.float64)
    if not nll.shape[-1]:
        raise ValueError("no segment")
    evidence = evidence_of_segments(nll, segment_weight)
    largest = evidence.max(axis=-1)
    weights = (evidence / np.where(largest > 0, largest, 1.0)[..., None]) ** 2
    distance = 1 - (np.arange(nll.shape[-1]) + 0.5) / nll.shape[-1]
    mean: Array = (weights * distance).sum(axis=-1) / np.maximum(weights.sum(axis=-1), 1.0) * -np.expm1(-largest)
    return mean


def evidence_of_segments(segment_nll: ArrayLike, segment_weight: ArrayLike | None = None) -> Array:
    """Return by how many nats per token each segment helps more than the median one, at least 0, float like the NLL."""
    nll, weight = _read(np.asarray(segment_nll, dtype=np.float64), segment_weight)
    evidence: Array = np.maximum(weighted_median(nll, weight)[..., None] - nll, 0.0)
    return evidence


def weighted_median(values: ArrayLike, weight: ArrayLike) -> Array:
    """Return the value with half of the weight on each side, along the last axis; between two, their mean."""
    values, weight = np.asarray(values, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    order = np.argsort(values, axis=-1, kind="stable")
    ordered, below = (np.take_along_axis(one, order, axis=-1) for one in (values, weight))
    below = below.cumsum(axis=-1)
    half = below[..., -1:] / 2
    places = [np.argmax(reached, axis=-1)[..., None] for reached in (below >= half, below > half)]
    first, second = (np.take_along_axis(ordered, place, axis=-1)[..., 0] for place in places)
    median: Array = (first + second) / 2
    return median


def far_evidence_rows(segment_nll: Sequence[ArrayLike], segment_weight: Sequence[ArrayLike | None]) -> Array:
    """Return :func:`far_evidence` of each row, float ``[rows]``; rows may differ in their number of segments."""
    return _by_size(lambda weight, nll: far_evidence(nll, weight), segment_weight, segment_nll)


def _read(nll: Array, weight: ArrayLike | None) -> tuple[Array, Array]:
    """Return NLLs and weights of the same shape. A segment that was not read helps infinitely little, with weight 0."""
    if weight is None:
        return nll, np.ones_like(nll)
    share = np.asarray(weight, dtype=np.float64)
    return np.where(share > 0, nll, np.inf), share


def _by_size(
    function: Callable[..., Array], weights: Sequence[ArrayLike | None], *columns: Sequence[ArrayLike]
) -> Array:
    """Return the function's value of each row. Rows with the same number of segments are computed together.

    Args:
        function: from weights and arrays ``[rows, segments]``, one for each column, to ``[rows]``.
        weights: of the segments of each row, None for a row whose segments were all read.
        columns: a list of one array for each row.
    """
    sizes = np.array([len(np.atleast_1d(row)) for row in columns[0]], dtype=np.int64)
    found = np.empty(len(sizes))
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size).tolist()
        weight = None
        if any(weights[row] is not None for row in rows):
            weight = np.stack([np.ones(size) if (one := weights[row]) is None else np.asarray(one) for row in rows])
        found[rows] = function(weight, *(np.stack([column[row] for row in rows]) for column in columns))
    return found
