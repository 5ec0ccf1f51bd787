"""Attention profiles as files hold them: means over blocks of tokens, in half precision relative to the largest mean.

A profile of 20 000 tokens takes 160 kB in float32. In blocks of 16 tokens it takes 2.5 kB. Segments consist of whole
blocks, so their means lose nothing but rounding: at most 2^-11 of each mean, or 3e-8 of the largest one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def block_means(profile: ArrayLike, length: int) -> Array:
    """Return the mean of a per-token profile over each block of ``length`` tokens; the last one may be shorter."""
    values = np.asarray(profile, dtype=np.float64)
    whole = len(values) // length * length
    means: Array = values[:whole].reshape(-1, length).mean(axis=1)
    return means if whole == len(values) else np.append(means, values[whole:].mean())


def relative(values: ArrayLike) -> tuple[list[float], float]:
    """Return the values as float16 multiples of the largest one, and the largest one, which is 0 if there is none."""
    numbers = np.asarray(values, dtype=np.float64)
    largest = float(numbers.max(initial=0.0))
    multiples: list[float] = (numbers / (largest or 1.0)).astype(np.float16).tolist()
    return multiples, largest


def segment_means(blocks: ArrayLike, largest: float, n_tokens: int, block: int, length: int) -> Array:
    """Return the mean over each segment, from the means over blocks; the last segment may be shorter.

    Args:
        blocks: means over blocks, as :func:`relative` gives them.
        largest: the largest mean.
        n_tokens: tokens of the whole profile.
        block: tokens of a block; the last one may be shorter.
        length: tokens of a segment, a multiple of ``block``.
    """
    values = np.asarray(blocks, dtype=np.float64) * largest
    whole = n_tokens // length * (length // block)
    means: Array = values[:whole].reshape(-1, length // block).mean(axis=1)
    if whole == len(values):
        return means
    sizes = np.full(len(values) - whole, float(block))
    sizes[-1] = n_tokens - block * (len(values) - 1)
    return np.append(means, np.average(values[whole:], weights=sizes))
