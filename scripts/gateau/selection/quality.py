"""How a ranking treats labelled groups of samples: does it rank one group before the others?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.tables import places_of


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Return the chance that a random positive scores above a random negative; None if one side is empty.

    Ties count half. Computed from the rank sum of the positives (Mann-Whitney U).

    Args:
        scores: float ``[n]``.
        positive: bool ``[n]``.
    """
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    ranks = pd.Series(scores).rank().to_numpy()
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return Spearman's rank correlation of two float ``[n]``; None if either is constant."""
    ranks = [pd.Series(values).rank().to_numpy() for values in (first, second)]
    if min(values.std() for values in ranks) == 0:
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def comparable_scores(ranking: pd.DataFrame) -> NDArray[np.float64]:
    """Return a score for every row of a ranking, float ``[rows]``, in the same order.

    Rows without a score get numbers below all scores that fall with their rank.

    Args:
        ranking: columns rank and score, in any order of rows.
    """
    score = ranking["score"].to_numpy(dtype=np.float64)
    unknown = np.isnan(score)
    if not unknown.any():
        return score
    lowest = score[~unknown].min(initial=0.0)
    found: NDArray[np.float64] = np.where(unknown, lowest - ranking["rank"], score)
    return found


def quality_by_label(ranking: pd.DataFrame, labels: pd.Series) -> dict[str, dict[str, Any]]:
    """Return for each label the number of samples, AUROC against all others, and its share of the best tenth.

    Args:
        ranking: columns id, rank, score.
        labels: data set label by sample id.
    """
    label = labels.fillna("(none)").astype("category")
    if "(none)" not in label.cat.categories:
        label = label.cat.add_categories("(none)")
    places = places_of(ranking["id"], labels.index)
    names = [str(name) for name in label.cat.categories]
    codes = np.where(places < 0, names.index("(none)"), label.cat.codes.to_numpy()[places])
    score = comparable_scores(ranking)
    top = (ranking["rank"] <= max(len(ranking) // 10, 1)).to_numpy()
    return {
        name: {
            "samples": int((codes == code).sum()),
            "auroc": auroc(score, codes == code),
            "share_of_best_tenth": float((codes[top] == code).mean()),
        }
        for code, name in sorted(enumerate(names), key=lambda one: one[1])
        if (codes == code).any()
    }
