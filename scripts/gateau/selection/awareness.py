"""CAM, contextual awareness: does the response attend to the segments that matter for it?

The importance of segment s_j is read off PPL(y | s_j, x): the lower, the more important. The paper leaves the map from
perplexity to importance open; three are offered. The score is the cosine of the importance and attention vectors.

:func:`far_evidence` asks another question of the same perplexities: how far from the response does what helps it stand?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

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


def contextual_awareness(segment_nll: Sequence[float], segment_attention: Sequence[float], importance: str) -> float:
    """Cosine in [0, 1] of the segments' importance and attention; 1 for a single segment.

    Raises ValueError when the vectors differ in length or are empty.
    """
    if len(segment_nll) != len(segment_attention) or not len(segment_nll):
        raise ValueError(f"{len(segment_nll)} segment NLLs for {len(segment_attention)} segment attentions")
    weights = IMPORTANCE[importance](np.asarray(segment_nll, dtype=np.float64))
    attention = np.asarray(segment_attention, dtype=np.float64)
    scale = np.linalg.norm(weights) * np.linalg.norm(attention)
    # no attention at all on the context is possible under a sliding window: nothing is aligned with anything then
    return float(np.clip(weights @ attention / scale, 0.0, 1.0)) if scale > 0 else 0.0


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
