"""Norms over the data set: each maps n values to n values on a scale of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]


_LARGEST_NLL = 700.0  # exp of more overflows float64


def perplexity(nll: Array) -> Array:
    """exp(mean NLL), bounded to stay finite."""
    bounded: Array = np.exp(np.minimum(nll, _LARGEST_NLL))
    return bounded


def minmax(values: Array) -> Array:
    """(v - min) / (max - min), in [0, 1]; all zeros for constant values. One outlier squeezes all others together."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def softmax(values: Array) -> Array:
    """exp(v) / Σ exp(v) along the last axis, shifted by the maximum so that it cannot overflow."""
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    normed: Array = weights / weights.sum(axis=-1, keepdims=True)
    return normed


def rank(values: Array) -> Array:
    """(rank - 0.5) / n, in (0, 1); ties share their mean rank."""
    return (pd.Series(values).rank().to_numpy() - 0.5) / len(values)


def zscore(values: Array) -> Array:
    """(v - mean) / standard deviation; all zeros for constant values."""
    deviation = values.std()
    return (values - values.mean()) / deviation if deviation > 0 else np.zeros_like(values)


def log(values: Array) -> Array:
    """Natural logarithm; of a perplexity, the mean NLL."""
    return np.log(values)


def none(values: Array) -> Array:
    """The values themselves."""
    return values


# HMP and CAS may be negative or zero: a logarithm is for perplexities alone
SCORE_NORMS = ("minmax", "softmax", "rank", "zscore", "none")
NORMS: dict[str, Callable[[Array], Array]] = {
    "minmax": minmax, "softmax": softmax, "rank": rank, "zscore": zscore, "log": log, "none": none,
}  # fmt: skip
