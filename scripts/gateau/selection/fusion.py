"""HMP, CAS and their fusion.

HMP, the homologous models' perplexity score, is Norm(PPL of θ_S) - Norm(PPL of θ_L) of the response y given context c
and instruction x. The final score is α · Norm(HMP) + (1 - α) · Norm(CAS). All norms are over the data set.

The paper selects the most *challenging* samples, in which the attention is not on the important segments. The
orientation ``challenge`` therefore fuses 1 - CAS. ``aligned`` fuses CAS, as the released code does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gateau.errors import SettingsError
from gateau.selection.awareness import DEFAULT_IMPORTANCE, IMPORTANCE
from gateau.selection.measures import LAYERS, awareness_measure, measured
from gateau.selection.norms import NORMS, SCORE_NORMS, Array, of_known, perplexity
from gateau.selection.parts import Part

ORIENTATIONS = ("challenge", "aligned")


@dataclass(frozen=True)
class SelectionOptions:
    """The options of GATEAU's formula. The defaults are the paper's; that of ``hmp_norm`` is the released code's."""

    alpha: float = 0.8
    hmp_norm: str = "minmax"
    score_norm: str = "softmax"
    importance: str = DEFAULT_IMPORTANCE
    layers: str = "all"
    orientation: str = "challenge"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SettingsError(f"selection.alpha is {self.alpha}; it must be between 0 and 1")
        for name, value, known in (
            ("hmp_norm", self.hmp_norm, NORMS),
            ("score_norm", self.score_norm, SCORE_NORMS),
            ("importance", self.importance, IMPORTANCE),
            ("layers", self.layers, LAYERS),
            ("orientation", self.orientation, ORIENTATIONS),
        ):
            if value not in known:
                raise SettingsError(f"selection.{name} is {value!r}; choose one of {', '.join(known)}")


def guidance(scores: pd.DataFrame, norm: str) -> Array:
    """Return HMP of each row, float ``[rows]``: the normed perplexity of θ_S minus that of θ_L."""
    ppl_short, ppl_long = (perplexity(scores[name].to_numpy(dtype=np.float64)) for name in ("nll_short", "nll_long"))
    difference: Array = NORMS[norm](ppl_short) - NORMS[norm](ppl_long)
    return difference


def awareness(scores: pd.DataFrame, importance: str, layers: str) -> Array:
    """Return CAS of each row before orientation, float ``[rows]`` in [0, 1]; NaN for rows that are screened out."""
    return measured(scores, awareness_measure(importance, layers))


def oriented(cas: Array, orientation: str) -> Array:
    """Return CAS such that more is better: 1 - CAS for ``challenge``, CAS for ``aligned``."""
    return 1 - cas if orientation == "challenge" else cas


def oriented_name(orientation: str) -> str:
    """Return what :func:`oriented` gives: its name among the parts of a score."""
    return "1 - CAS" if orientation == "challenge" else "CAS"


def fused(scores: pd.DataFrame, options: SelectionOptions) -> list[Part]:
    """Return the two parts of the final score: α · Norm(HMP) and (1 - α) · Norm(CAS).

    HMP is normed over all rows, and CAS over those that are not screened out.
    """
    norm = NORMS[options.score_norm]
    hmp = guidance(scores, options.hmp_norm)
    cas = oriented(awareness(scores, options.importance, options.layers), options.orientation)
    return [
        Part("HMP", hmp, norm(hmp), options.alpha),
        Part(oriented_name(options.orientation), cas, of_known(norm, cas), 1 - options.alpha),
    ]
