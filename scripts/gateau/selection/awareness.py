"""CAM, contextual awareness: does the response attend to the segments that matter for it?

The importance of segment s_j is read off PPL(y | s_j, x): the lower, the more important. The paper leaves the map from
perplexity to importance open; three are offered. The score is the cosine of the importance and attention vectors.

:func:`far_evidence` asks another question of the same perplexities: how far from the response does what helps it stand?
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


def segment_means(profile: Sequence[float], length: int) -> list[float]:
    """Mean of a per-token profile over each segment of ``length`` tokens; the last segment may be shorter."""
    values = np.asarray(profile, dtype=np.float64)
    return [float(values[start : start + length].mean()) for start in range(0, len(values), length)]


def contextual_awareness(segment_nll: ArrayLike, segment_attention: ArrayLike, importance: str) -> Array:
    """Cosine in [0, 1] of the segments' importance and attention; 1 for a single segment.

    Args:
        segment_nll, segment_attention: ``[..., segments]``, of one row or of several with as many segments.

    Raises ValueError when the shapes differ or there is no segment.
    """
    nll, attention = np.asarray(segment_nll, dtype=np.float64), np.asarray(segment_attention, dtype=np.float64)
    if nll.shape != attention.shape or not nll.shape[-1]:
        raise ValueError(f"segment NLLs of shape {nll.shape} for segment attentions of shape {attention.shape}")
    weights = IMPORTANCE[importance](nll)
    scale = np.linalg.norm(weights, axis=-1) * np.linalg.norm(attention, axis=-1)
    # no attention at all on the context is possible under a sliding window: nothing is aligned with anything then
    cosine = (weights * attention).sum(axis=-1) / np.where(scale > 0, scale, 1.0)
    bounded: Array = np.clip(cosine, 0.0, 1.0)
    return bounded


def contextual_awarenesses(
    segment_nll: Sequence[ArrayLike], segment_attention: Sequence[ArrayLike], importance: str
) -> Array:
    """:func:`contextual_awareness` of each row: ``[rows]``. Rows of as many segments are taken together."""
    sizes = np.array([len(np.atleast_1d(nll)) for nll in segment_nll])
    found = np.empty(len(sizes))
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        nll, attention = (
            np.stack([column[row] for row in rows.tolist()]) for column in (segment_nll, segment_attention)
        )
        found[rows] = contextual_awareness(nll, attention, importance)
    return found


def far_evidence(segment_nll: Sequence[float]) -> float:
    """How far away, and how plainly, the context holds what the response needs; in [0, 1).

    A segment's evidence is how many nats per response token it helps more than the median segment does: what any
    segment gives, such as the manner of writing, does not count. The score is the mean distance of the segments,
    weighted by the square of their evidence (0 at the response, 1 at the start of the context), times 1 - exp(-the
    largest evidence), so that noise over nothing scores low. Not of the paper; config/methods.md has the evidence.

    Raises ValueError without a segment.
    """
    nll = np.asarray(segment_nll, dtype=np.float64)
    if not len(nll):
        raise ValueError("no segment")
    evidence = np.maximum(np.median(nll) - nll, 0.0)
    weights = (evidence / evidence.max()) ** 2 if evidence.max() > 0 else evidence
    distance = 1 - (np.arange(len(nll)) + 0.5) / len(nll)
    return float(weights @ distance / max(weights.sum(), 1.0) * -np.expm1(-evidence.max()))
