"""Scores of samples by method, all from the same stored passes: GATEAU, its ablations, baselines and later papers.

A method is a function of the merged scores (rows of :data:`gateau.schemas.SCORES`) and the options. It returns the
parts of the score; the score is their weighted sum, and larger is better. To add a method, write the function, name it
in :data:`SCORES`, and describe it in :mod:`gateau.methods`. What comes from the segment pass is NaN for rows that are
screened out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from gateau.selection.fusion import SelectionOptions, awareness, fused, guidance, oriented, oriented_name
from gateau.selection.labelled import total_tokens
from gateau.selection.measures import (
    FAR_ATTENTION,
    FAR_EVIDENCE,
    KEY_TOKEN_GAIN,
    Measure,
    awareness_measure,
    measured,
)
from gateau.selection.norms import Array, of_known, rank
from gateau.selection.parts import Part, only

_ROBUST_ALPHA = 0.3
_LENGTH_GROUPS = 10
_SMALLEST_GROUP = 20


def gateau_robust(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return 0.3 · rank of HMP by log-perplexities among rows of similar length + 0.7 · rank of far evidence."""
    hmp = hmp_among_like_lengths(scores)
    evidence = measured(scores, FAR_EVIDENCE)
    return [
        Part("HMP within its length group", hmp, rank(hmp), _ROBUST_ALPHA),
        Part("far evidence", evidence, of_known(rank, evidence), 1 - _ROBUST_ALPHA),
    ]


def hmg(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return HMP alone."""
    return only("HMP", guidance(scores, options.hmp_norm))


def cam(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return CAS alone, oriented."""
    cas = awareness(scores, options.importance, options.layers)
    return only(oriented_name(options.orientation), oriented(cas, options.orientation))


def no_norm(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return the fused score without any norm (an ablation): raw perplexities and cosines are added."""
    return fused(scores, replace(options, hmp_norm="none", score_norm="none"))


def perplexity_guidance(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return the mean NLL under θ_L in nats per token: what the long model finds hard."""
    return only("NLL under θ_L", _column(scores, "nll_long"))


def ifd(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return log IFD = log(PPL(y | c, x) / PPL(y)). Rows whose response alone has no perplexity come last."""
    ratio = _column(scores, "nll_long") - _column(scores, "nll_response_only")
    undefined = np.isnan(ratio) & (scores["status"] == "ok").to_numpy()
    return only("log IFD", np.where(undefined, np.nanmin(ratio, initial=0.0) - 1, ratio))


def length(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return the tokens of context, instruction and response together."""
    return only("tokens", _length(scores))


def reward(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return the reward of the response by models.reward. With ``per_cluster``, this is the baseline CaR (2024)."""
    return only("reward", _column(scores, "reward"))


def dependency(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return the attention to far segments, weighted by how unevenly it is spread, after LADM (2025).

    The score is Σ_j m_j d_j · std(m). m_j is the share of the attention on segment j, and d_j its distance from the
    response (0 to 1). LADM sums the attention between all pairs of spans; here the response is the only query, because
    the long pass stores only its attention.
    """
    return only("attention to far segments", measured(scores, FAR_ATTENTION))


def key_tokens(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return the long model's gain on tokens that need long context, after LongPPL (2025).

    Such a token has a probability above e^-2 under θ_L, e^2 times that under θ_S or more; the thresholds are LongPPL's.
    The score is the gain in nats on these tokens, averaged over all response tokens.
    """
    return only("gain on key tokens", measured(scores, KEY_TOKEN_GAIN))


def _length(scores: pd.DataFrame) -> Array:
    tokens: Array = total_tokens(scores).to_numpy(dtype=np.float64)
    return tokens


def _column(scores: pd.DataFrame, name: str) -> Array:
    values: Array = scores[name].to_numpy(dtype=np.float64)
    return values


def hmp_among_like_lengths(scores: pd.DataFrame) -> Array:
    """Return HMP by log perplexities minus its median among rows of similar length, float ``[rows]``."""
    return _relative_to_length_group(guidance(scores, "log"), _length(scores))


def _relative_to_length_group(values: Array, lengths: Array) -> Array:
    """Return ``values`` minus the median of their length group.

    A model that is stretched beyond its window loses with every further token, whether the token is needed or not. The
    groups have equal size; there are ten if each then has at least twenty rows.
    """
    groups = min(_LENGTH_GROUPS, max(len(values) // _SMALLEST_GROUP, 1))
    group = np.minimum(rank(lengths) * groups, groups - 1).astype(int)
    medians = np.array([np.median(values[group == g]) if (group == g).any() else 0.0 for g in range(groups)])
    adjusted: Array = values - medians[group]
    return adjusted


SCORES: dict[str, Callable[[pd.DataFrame, SelectionOptions], list[Part]]] = {
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

_MEASURES = {"gateau_robust": FAR_EVIDENCE, "dependency": FAR_ATTENTION, "key_tokens": KEY_TOKEN_GAIN}


def measures_of(method: str, options: SelectionOptions) -> list[Measure]:
    """Return the measures that a ranking by this method needs: CAS, which every ranking shows, and the method's own."""
    own = [_MEASURES[method]] if method in _MEASURES else []
    return [awareness_measure(options.importance, options.layers), *own]
