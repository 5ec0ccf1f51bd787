"""Compare the experiments: what their selections share, and how the selections differ from the pool."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gateau.report_page.numbers import rounded
from gateau.report_page.pool import Ranked
from gateau.report_page.results import Results
from gateau.schemas import MIXTURE

POOL = "(all samples)"
_MOST_LABELS = 9
_QUANTILES = np.linspace(0, 1, 41)


def read_selections(
    results: Results, rankings: Sequence[Ranked], ids: Collection[str] | None = None
) -> dict[str, set[str]]:
    """Return the selected ids by experiment. Without a ranking, these are the rows that the experiment trains on.

    A mixture of other samples than ``ids`` is that of an earlier run, and is left out.
    """
    found = {one.name: set(one.table.index[one.table["state"] == "selected"]) for one in rankings}
    for name in results.experiments("mixture"):
        if name in found:
            continue
        rows = results.table(f"mixture/{name}/mixture.parquet", MIXTURE, ["id", "source", "split"])
        if rows is None:
            continue
        chosen = rows.loc[(rows["source"] == "long") & (rows["split"] == "train"), "id"]
        if results.has_samples(f"mixture/{name}", chosen, ids):
            found[name] = set(chosen)
    return found


def overlaps(selections: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    """Return for each pair of experiments how many selected samples they share, and their Jaccard index."""
    rows = []
    for first, own in selections.items():
        for second, theirs in selections.items():
            shared = len(own & theirs)
            jaccard = shared / max(len(own | theirs), 1)
            rows.append({"first": first, "second": second, "jaccard": round(jaccard, 3), "shown": f"{shared:,}"})
    return rows


def correlations(rankings: Sequence[Ranked]) -> list[dict[str, Any]]:
    """Return Spearman's correlation of the ranks of each pair, on the samples that both rank."""
    ranks = pd.DataFrame({one.name: one.table["rank"] for one in rankings})
    found = ranks.corr(method="spearman", min_periods=2).to_numpy()
    rows = []
    for own, first in enumerate(ranks):
        for other, second in enumerate(ranks):
            value = rounded(round(float(found[own, other]), 3))
            rows.append(
                {"first": first, "second": second, "spearman": value, "shown": "–" if value is None else f"{value:.2f}"}
            )
    return rows


def label_shares(pool: pd.DataFrame, selections: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    """Return the share of each data set in the pool and in each selection. Rare labels are counted together."""
    labels = pool["dataset"].fillna("(none)")
    common = labels.value_counts().index[:_MOST_LABELS]
    labels = labels.where(labels.isin(common), "(other)")
    groups = {POOL: labels, **{name: labels[labels.index.isin(ids)] for name, ids in selections.items()}}
    return [
        {"group": group, "label": label, "count": int(count), "share": round(count / max(len(found), 1), 4)}
        for group, found in groups.items()
        for label, count in found.value_counts().sort_index().items()
    ]


def length_curves(pool: pd.DataFrame, selections: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    """Return the length below which a share of the samples lies, for the pool and for each selection."""
    if "tokens" not in pool:
        return []
    tokens = pool["tokens"].dropna()
    groups = {POOL: tokens, **{name: tokens[tokens.index.isin(ids)] for name, ids in selections.items()}}
    return [
        {"name": name, "share": round(float(share), 3), "tokens": rounded(np.quantile(found, share))}
        for name, found in groups.items()
        if len(found)
        for share in _QUANTILES
    ]
