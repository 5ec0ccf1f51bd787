"""How much a selection depends on what should not matter: rank correlation with the ranking as it is, and overlap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.selection.fusion import SelectionOptions
from gateau.selection.quality import spearman
from gateau.selection.ranking import rank_samples

METHODS_TRIED = ("gateau", "gateau_robust", "cam")
_PER_SEGMENT = ("segment_nll", "segment_attention", "segment_attention_second_half")
_SHARES = (0.5, 0.25, 0.125)
_FEWEST = 2


def sensitivity(
    scores: pd.DataFrame, options: SelectionOptions, others: Mapping[str, pd.DataFrame], seed: int = 0
) -> pd.DataFrame:
    """Rank correlation and overlap of the best tenth with the ranking by ``options``, for every change.

    Args:
        others: further score tables of the same samples by the name of what differs (segment length, window, model).

    Returns:
        Columns method, change, spearman, overlap_of_best_tenth.
    """
    scores = scores[scores["status"] == "ok"]
    rows = []
    for method in METHODS_TRIED:
        as_it_is = rank_samples(scores, options, method)
        for change, table, changed in _changes(scores, options, method, others, seed):
            rows.append(
                {"method": method, "change": change, **_agreement(as_it_is, rank_samples(table, changed, method))}
            )
    return pd.DataFrame(rows)


def _changes(
    scores: pd.DataFrame, options: SelectionOptions, method: str, others: Mapping[str, pd.DataFrame], seed: int
) -> Iterator[tuple[str, pd.DataFrame, SelectionOptions]]:
    if method == "gateau":
        for alpha in (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
            if alpha != options.alpha:
                yield f"alpha {alpha:g}", scores, replace(options, alpha=alpha)
    if method in ("gateau", "cam"):
        layers = "all" if options.layers == "second_half" else "second_half"
        yield f"layers {layers}", scores, replace(options, layers=layers)
    for share in _SHARES:
        yield f"{share:.1%} of the segments, drawn", keep_segments(scores, share, "drawn", seed), options
        yield f"{share:.1%} of the segments, most attended to", keep_segments(scores, share, "attended", seed), options
    for name, table in others.items():
        yield name, table, options


def keep_segments(scores: pd.DataFrame, share: float, how: str, seed: int = 0) -> pd.DataFrame:
    """Scores (status ok) as if the segment pass had seen this share of each row's segments alone, two at least.

    ``how`` is ``drawn`` (seeded) or ``attended`` (those with the most attention, which the long pass knows before).
    """
    random = np.random.default_rng(seed)

    def kept(row: pd.Series) -> NDArray[np.int64]:
        n = len(row["segment_nll"])
        count = min(max(round(share * n), _FEWEST), n)
        order = random.permutation(n) if how == "drawn" else np.argsort(-np.asarray(row["segment_attention"]))
        return np.sort(order[:count])

    places = [kept(row) for _, row in scores.iterrows()]
    columns: dict[str, Any] = {
        name: [np.asarray(values)[place] for values, place in zip(scores[name], places, strict=True)]
        for name in _PER_SEGMENT
    }
    return scores.assign(**columns)


def _agreement(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """Over the samples that both rank."""
    common = sorted(set(first["id"]) & set(second["id"]))
    ranks = [ranking.set_index("id").loc[common, "rank"].to_numpy(dtype=np.float64) for ranking in (first, second)]
    best = max(len(common) // 10, 1)
    tops = [set(np.argsort(rank, kind="stable")[:best].tolist()) for rank in ranks]
    correlation = spearman(*ranks)
    return {
        "spearman": float("nan") if correlation is None else correlation,
        "overlap_of_best_tenth": len(tops[0] & tops[1]) / best,
    }
