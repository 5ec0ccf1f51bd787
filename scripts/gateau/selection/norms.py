"""Norms over the data set. Each maps n values, float ``[n]``, to n values on its own scale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LARGEST_NLL = 700.0  # exp of a larger number overflows float64


def perplexity(nll: Array) -> Array:
    """Return exp(mean NLL), capped at e^700 so that it stays finite."""
    bounded: Array = np.exp(np.minimum(nll, _LARGEST_NLL))
    return bounded


def minmax(values: Array) -> Array:
    """Return (v - min) / (max - min), in [0, 1]; zeros for constant values. One outlier compresses all other values."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def softmax(values: Array) -> Array:
    """Return exp(v) / Σ exp(v) along the last axis. The maximum is subtracted first, so that exp cannot overflow."""
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    normed: Array = weights / weights.sum(axis=-1, keepdims=True)
    return normed


def rank(values: Array) -> Array:
    """Return (rank - 0.5) / n, in (0, 1). Equal values share their mean rank."""
    return (pd.Series(values).rank().to_numpy() - 0.5) / len(values)


def zscore(values: Array) -> Array:
    """Return (v - mean) / standard deviation; zeros for constant values."""
    deviation = values.std()
    return (values - values.mean()) / deviation if deviation > 0 else np.zeros_like(values)


def of_known(norm: Callable[[Array], Array], values: Array) -> Array:
    """Return a norm over the values that are known; NaN stays NaN.

    The unknown values are taken to be distributed like the known ones. This matters for :func:`softmax` only, whose
    results get smaller with every further value.
    """
    known = ~np.isnan(values)
    if known.all():
        return norm(values)
    normed = np.full_like(values, np.nan)
    normed[known] = norm(values[known]) * (known.mean() if norm is softmax else 1.0)
    return normed


def log(values: Array) -> Array:
    """Return the natural logarithm. Of a perplexity, that is the mean NLL."""
    return np.log(values)


def none(values: Array) -> Array:
    """Return the values unchanged."""
    return values


# HMP and CAS may be zero or negative, so the logarithm is offered for perplexities only
SCORE_NORMS = ("minmax", "softmax", "rank", "zscore", "none")
NORMS: dict[str, Callable[[Array], Array]] = {
    "minmax": minmax, "softmax": softmax, "rank": rank, "zscore": zscore, "log": log, "none": none,
}  # fmt: skip
