"""Scores of samples by method, all from the same stored passes: GATEAU, its ablations, baselines, and later papers.

A method is a function of the merged scores and the options, whose larger values are better. To add one, write the
function, name it in :data:`SCORES`, and describe it in :mod:`gateau.methods`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from gateau.selection.awareness import far_evidence
from gateau.selection.fusion import SelectionOptions, awareness, fused, guidance, oriented
from gateau.selection.labelled import total_tokens
from gateau.selection.norms import Array, rank

_ROBUST_ALPHA = 0.3
_LENGTH_GROUPS = 10
_SMALLEST_GROUP = 20


def gateau_robust(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """Ranks of log-perplexity HMP, compared among rows of like length, and of far evidence: α = 0.3."""
    hmp = _among_equals(guidance(scores, "log"), _length(scores))
    evidence = np.array([far_evidence(nll) for nll in scores["segment_nll"]])
    total: Array = _ROBUST_ALPHA * rank(hmp) + (1 - _ROBUST_ALPHA) * rank(evidence)
    return total


def hmg(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """HMP alone."""
    return guidance(scores, options.hmp_norm)


def cam(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """CAS alone, oriented."""
    return oriented(awareness(scores, options.importance, options.layers), options.orientation)


def no_norm(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """The ablation without any norm: raw perplexities and cosines are added."""
    return fused(scores, replace(options, hmp_norm="none", score_norm="none"))


def perplexity_guidance(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """Mean NLL under θ_L: what the long model finds hard."""
    return _column(scores, "nll_long")


def ifd(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """Logarithm of IFD = PPL(y | c, x) / PPL(y), high first; rows whose response alone has no perplexity come last."""
    ratio = _column(scores, "nll_long") - _column(scores, "nll_response_only")
    return np.where(np.isnan(ratio), np.nanmin(ratio, initial=0.0) - 1, ratio)


def length(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """Tokens of context, instruction and response."""
    return _length(scores)


def reward(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """What models.reward thinks of the response; with ``per_cluster``, the baseline CaR (2024)."""
    return _column(scores, "reward")


def dependency(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """In the manner of LADM (2025): attention to far segments, weighted by how unevenly it is spread.

    LADM sums the attention between all pairs of spans; here the response is the only span that asks, for its attention
    is what the long pass stores. Score: Σ_j m_j d_j · std(m), m_j the share of the attention on segment j and d_j its
    distance from the response (0 to 1).
    """

    def one(attention: list[float]) -> float:
        mass = np.asarray(attention, dtype=np.float64)
        mass = mass / mass.sum() if mass.sum() > 0 else mass
        distance = 1 - (np.arange(len(mass)) + 0.5) / len(mass)
        return float(mass @ distance * mass.std())

    return np.array([one(row) for row in scores["segment_attention"]])


def key_tokens(scores: pd.DataFrame, options: SelectionOptions) -> Array:
    """In the manner of LongPPL (2025): how much the long model gains on the tokens that need long context.

    Such a token is likely under θ_L (above e^-2) and e^2 times likelier than under θ_S: thresholds as there.
    Score: the gain in nats on these tokens, over all response tokens.
    """

    def one(short: list[float], long: list[float]) -> float:
        gain, likely = np.subtract(short, long, dtype=np.float64), np.asarray(long) < 2
        return float(np.where(likely & (gain > 2), gain, 0).mean())

    tokens = zip(scores["token_nll_short"], scores["token_nll_long"], strict=True)
    return np.array([one(short, long) for short, long in tokens])


def _length(scores: pd.DataFrame) -> Array:
    tokens: Array = total_tokens(scores).to_numpy(dtype=np.float64)
    return tokens


def _column(scores: pd.DataFrame, name: str) -> Array:
    values: Array = scores[name].to_numpy(dtype=np.float64)
    return values


def _among_equals(values: Array, lengths: Array) -> Array:
    """``values`` less the median of rows of like length: groups of equal size, ten of them if there are rows enough.

    A model stretched beyond its window loses with every token, needed or not.
    """
    groups = min(_LENGTH_GROUPS, max(len(values) // _SMALLEST_GROUP, 1))
    group = np.minimum(rank(lengths) * groups, groups - 1).astype(int)
    medians = np.array([np.median(values[group == g]) if (group == g).any() else 0.0 for g in range(groups)])
    adjusted: Array = values - medians[group]
    return adjusted


SCORES: dict[str, Callable[[pd.DataFrame, SelectionOptions], Array]] = {
    "gateau": fused,
    "gateau_robust": gateau_robust,
    "hmg": hmg,
    "cam": cam,
    "no_norm": no_norm,
    "no_extended_window": fused,
    "non_homologous": fused,
    "one_model": fused,
    "perplexity": perplexity_guidance,
    "ifd": ifd,
    "length": length,
    "reward": reward,
    "dependency": dependency,
    "key_tokens": key_tokens,
}
