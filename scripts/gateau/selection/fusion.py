"""From merged scores to a ranking: HMP, CAS, their fusion, and ranks with ties broken by id.

HMP(c, x, y) = Norm(PPL_θS) - Norm(PPL_θL); score = α · Norm(HMP) + (1 - α) · Norm(CAS), norms over the data set. The
paper selects the most *challenging* samples, whose attention is not on the important segments: ``challenge`` fuses
1 - CAS. ``aligned`` fuses CAS, as the released code's sum does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gateau.errors import ScoreError, SettingsError
from gateau.selection.awareness import DEFAULT_IMPORTANCE, IMPORTANCE, contextual_awareness
from gateau.selection.norms import NORMS, SCORE_NORMS, perplexity

_ATTENTION = {"all": "segment_attention", "second_half": "segment_attention_second_half"}
_ORIENTATIONS = ("challenge", "aligned")


@dataclass(frozen=True)
class SelectionOptions:
    """How an experiment ranks and how much it takes. The defaults are the paper's; ``hmp_norm`` is as released."""

    alpha: float = 0.8
    hmp_norm: str = "minmax"
    score_norm: str = "softmax"
    importance: str = DEFAULT_IMPORTANCE
    layers: str = "all"
    orientation: str = "challenge"
    n_long: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SettingsError(f"selection.alpha is {self.alpha}; it must lie in [0, 1]")
        for name, value, known in (
            ("hmp_norm", self.hmp_norm, NORMS),
            ("score_norm", self.score_norm, SCORE_NORMS),
            ("importance", self.importance, IMPORTANCE),
            ("layers", self.layers, _ATTENTION),
            ("orientation", self.orientation, _ORIENTATIONS),
        ):
            if value not in known:
                raise SettingsError(f"selection.{name} is {value!r}; choose one of {', '.join(known)}")


def rank_samples(scores: pd.DataFrame, options: SelectionOptions) -> pd.DataFrame:
    """Rank the samples of status ``ok``.

    Args:
        scores: rows of :data:`gateau.schemas.SCORES`.

    Returns:
        Columns of :data:`gateau.schemas.RANKING`, best first. The order depends on scores and ids alone.

    Raises:
        ScoreError: no sample can be ranked.
    """
    usable = scores[scores["status"] == "ok"].sort_values("id")
    if usable.empty:
        counts = scores["status"].value_counts().to_dict()
        raise ScoreError(f"no sample can be ranked (status: {counts}); see the docs of each status in README")
    hmp_norm, score_norm = NORMS[options.hmp_norm], NORMS[options.score_norm]
    ppl_short, ppl_long = (perplexity(usable[name].to_numpy(dtype=np.float64)) for name in ("nll_short", "nll_long"))
    hmp = hmp_norm(ppl_short) - hmp_norm(ppl_long)
    attention = usable[_ATTENTION[options.layers]]
    cas = np.array(
        [
            contextual_awareness(nll, row, options.importance)
            for nll, row in zip(usable["segment_nll"], attention, strict=True)
        ]
    )
    oriented = 1 - cas if options.orientation == "challenge" else cas
    score = options.alpha * score_norm(hmp) + (1 - options.alpha) * score_norm(oriented)
    if not np.isfinite(score).all():
        raise ScoreError(
            f"{int((~np.isfinite(score)).sum())} samples get no finite score under hmp_norm {options.hmp_norm} and "
            f"score_norm {options.score_norm}; choose norms that withstand outliers, such as log and rank"
        )
    ranking = pd.DataFrame({"id": usable["id"].to_numpy(), "score": score, "hmp": hmp, "cas": cas})
    ranking = ranking.sort_values(["score", "id"], ascending=[False, True], kind="stable", ignore_index=True)
    ranking["rank"] = np.arange(1, len(ranking) + 1)
    ranking["hmp_norm"], ranking["score_norm"] = options.hmp_norm, options.score_norm
    return ranking[["id", "rank", "score", "hmp", "cas", "hmp_norm", "score_norm"]]


def n_selected(n_ranked: int, n_long: int | None) -> int:
    """How many of the ranked samples an experiment takes. Raises SettingsError when it asks for more than there are."""
    if n_long is None:
        return n_ranked
    if n_long > n_ranked:
        raise SettingsError(f"n_long is {n_long}, but only {n_ranked} samples are ranked; lower it or add data")
    return n_long
