"""From merged scores to a ranking by one method, ties broken by id."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gateau.errors import ScoreError, SettingsError
from gateau.selection.fusion import SelectionOptions, awareness, guidance
from gateau.selection.methods import METHODS, UNRANKED


def rank_samples(
    scores: pd.DataFrame,
    options: SelectionOptions,
    method: str = "gateau",
    contrast: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Rank the samples of status ``ok``.

    Args:
        scores: rows of :data:`gateau.schemas.SCORES`.
        contrast: rows of :data:`gateau.schemas.CONTRAST`, for a method that names one; a sample has to be ok there too.

    Returns:
        Columns id, rank, score, hmp, cas and method, best first; hmp and cas by the options, whatever the method reads.
        The order depends on scores and ids alone.

    Raises:
        ScoreError: no sample can be ranked, or the scores are not finite.
        SettingsError: no such method.
    """
    if method not in METHODS:
        raise SettingsError(f"method is {method!r}; choose one of {', '.join([*METHODS, *UNRANKED])}")
    usable = scores[scores["status"] == "ok"]
    if METHODS[method].contrast is not None:
        if contrast is None:
            raise ValueError(f"method {method} needs the contrast {METHODS[method].contrast}")
        other = contrast[contrast["status"] == "ok"].set_index("id")["nll"]
        usable = usable[usable["id"].isin(other.index)]
        usable = usable.assign(nll_short=usable["id"].map(other))
    usable = usable.sort_values("id")
    if usable.empty:
        counts = (scores if contrast is None else contrast)["status"].value_counts().to_dict()
        raise ScoreError(f"no sample can be ranked (status: {counts}); see the docs of each status in README")
    score = METHODS[method].score(usable, options)
    if not np.isfinite(score).all():
        raise ScoreError(
            f"{int((~np.isfinite(score)).sum())} samples get no finite score by method {method} under hmp_norm "
            f"{options.hmp_norm} and score_norm {options.score_norm}; choose norms that withstand outliers, such as "
            "log and rank"
        )
    ranking = pd.DataFrame(
        {
            "id": usable["id"].to_numpy(),
            "score": score,
            "hmp": guidance(usable, options.hmp_norm),
            "cas": awareness(usable, options.importance, options.layers),
            "method": method,
        }
    )
    ranking = ranking.sort_values(["score", "id"], ascending=[False, True], kind="stable", ignore_index=True)
    ranking.insert(1, "rank", np.arange(1, len(ranking) + 1))
    return ranking


def n_selected(n_ranked: int, n_long: int | None) -> int:
    """How many of the ranked samples an experiment takes. Raises SettingsError when it asks for more than there are."""
    if n_long is None:
        return n_ranked
    if n_long > n_ranked:
        raise SettingsError(f"n_long is {n_long}, but only {n_ranked} samples can be taken; lower it or add data")
    return n_long
