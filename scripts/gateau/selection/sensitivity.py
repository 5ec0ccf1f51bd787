"""How much a ranking changes with settings that should not matter: rank correlation and overlap of the best tenth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.methods import METHODS
from gateau.reports import decimal, markdown_table
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
    """Compare the ranking by ``options`` with the ranking after each change.

    Changes of options and segments are tried on three methods. Other score tables are compared for every method that
    needs nothing else.

    Args:
        scores: rows of :data:`gateau.schemas.SCORES`.
        options: of the methods.
        others: further score tables of the same samples, by the name of what differs (segment length, window, model,
            precision).
        seed: of the segments that are drawn.

    Returns:
        Columns method, change, spearman and overlap_of_best_tenth (the share of the best tenth that both have).
    """
    scores = scores[scores["status"] == "ok"]
    rows = []
    for method in (name for name, one in METHODS.items() if one.contrast is None and not one.rewards):
        unchanged = rank_samples(scores, options, method)
        changes = list(_changes(scores, options, method, seed)) if method in METHODS_TRIED else []
        changes += [(name, table, options) for name, table in others.items()]
        for change, table, changed in changes:
            rows.append(
                {"method": method, "change": change, **_agreement(unchanged, rank_samples(table, changed, method))}
            )
    return pd.DataFrame(rows)


def sensitivity_markdown(table: pd.DataFrame) -> str:
    """Return the table of :func:`sensitivity` in Markdown."""
    rows = [
        [row["method"], row["change"], decimal(row["spearman"], 3), decimal(row["overlap_of_best_tenth"])]
        for row in table.to_dict("records")
    ]
    about = (
        "How much a ranking changes: Spearman's correlation with the unchanged ranking, and the share of the best 10 % "
        "that both have."
    )
    columns = ["method", "change", "Spearman", "shared of the best 10 %"]
    return f"{about}\n\n{markdown_table(columns, rows, numbers=range(2, 4))}\n"


def _changes(
    scores: pd.DataFrame, options: SelectionOptions, method: str, seed: int
) -> Iterator[tuple[str, pd.DataFrame, SelectionOptions]]:
    if method == "gateau":
        for alpha in (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
            if alpha != options.alpha:
                yield f"alpha {alpha:g}", scores, replace(options, alpha=alpha)
    if method in ("gateau", "cam"):
        layers = "all" if options.layers == "second_half" else "second_half"
        yield f"layers {layers}", scores, replace(options, layers=layers)
    if not scores["segment_weight"].isna().all():  # of samples that scoring.segments reads in part
        return
    for share in _SHARES:
        yield f"{share:.1%} of the segments, drawn", keep_segments(scores, share, "drawn", seed), options
        yield f"{share:.1%} of the segments, most attended to", keep_segments(scores, share, "attended", seed), options


def keep_segments(scores: pd.DataFrame, share: float, how: str, seed: int = 0) -> pd.DataFrame:
    """Return the scores as if the segment pass had seen only a share of each row's segments, at least two.

    Args:
        scores: rows of :data:`gateau.schemas.SCORES` with status ok.
        share: of the segments, in (0, 1].
        how: ``drawn`` (a seeded draw) or ``attended`` (those with the most attention, known from the long pass).
        seed: of the draw.
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
    """Return correlation and overlap on the samples that both rank."""
    common = sorted(set(first["id"]) & set(second["id"]))
    ranks = [ranking.set_index("id").loc[common, "rank"].to_numpy(dtype=np.float64) for ranking in (first, second)]
    best = max(len(common) // 10, 1)
    tops = [set(np.argsort(rank, kind="stable")[:best].tolist()) for rank in ranks]
    correlation = spearman(*ranks)
    return {
        "spearman": float("nan") if correlation is None else correlation,
        "overlap_of_best_tenth": len(tops[0] & tops[1]) / best,
    }
