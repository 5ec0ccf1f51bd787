"""The plot of a selection: how scores spread, where each data set stands, and what is selected."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.reports import COLOURS, GREY, MARKERS, make_figure, save_figure, symmetric_log_axis, whole

_BINS = 30
_OTHERS = "other labels"
_OUTLIERS = 3.0  # in interquartile ranges beyond the quartiles
_LOG_LENGTHS = 10.0  # the longest sample is that many times as long as the shortest


@dataclass(frozen=True)
class _Group:
    """The samples of one label, and how they are drawn."""

    rows: pd.DataFrame
    colour: str
    marker: str


def plot_distributions(ranking: pd.DataFrame, title: str, output: str | os.PathLike[str]) -> None:
    """Plot HMP, CAS and the score as histograms, and HMP, CAS and the rank against the length in tokens.

    Samples are coloured by label; labels beyond the eight most frequent ones share grey. Selected samples are filled,
    the others are hollow. In the histograms a black line counts the selected samples. Dashed lines mark the cut.

    Args:
        ranking: columns rank, score and cas (NaN for samples that are screened out), hmp, method, length (tokens),
            dataset (label), selected (bool) and selectable (bool: neither a near duplicate nor held out).
        title: the name of the experiment.
        output: PNG, SVG or PDF.
    """
    groups = _groups(ranking)
    figure, axes = make_figure(2, 3, size=(14, 8.4))
    (hmp, cas, score), (hmp_length, cas_length, rank_length) = axes

    label = "HMP: normed perplexity, short - long model"
    width = symmetric_log_axis(hmp, "x", ranking["hmp"].to_numpy(dtype=np.float64))
    symmetric_log_axis(hmp_length, "y", ranking["hmp"].to_numpy(dtype=np.float64))
    note = "" if width is None else f"\n(logarithmic axis beyond ±{width:g})"
    _histogram(hmp, groups, "hmp", _edges(ranking["hmp"], width))
    hmp.set(title="Guidance of the homologous models", xlabel=label + note)
    _histogram(cas, groups, "cas", _edges(ranking["cas"], None))
    cas.set(title="Contextual awareness", xlabel="CAS: cosine of importance and attention")
    _score_histogram(score, ranking, groups)

    for axis, column, name in ((hmp_length, "hmp", "HMP"), (cas_length, "cas", "CAS"), (rank_length, "rank", "Rank")):
        _against_length(axis, groups, column, len(ranking))
        axis.set(title=f"{name} by length", ylabel=name, xlabel="length (tokens)")
        if ranking["length"].max() > _LOG_LENGTHS * ranking["length"].min():
            axis.set_xscale("log")
    _mark_last_selected(rank_length, ranking)

    n_selected = int(ranking["selected"].sum())
    screened_out = int(ranking["score"].isna().sum())
    note = f"; {whole(screened_out)} are screened out and have no score" if screened_out else ""
    figure.suptitle(f"{title}: {whole(n_selected)} of {whole(len(ranking))} ranked samples are selected{note}")
    figure.legend(handles=_legend(groups), loc="outside lower center", ncols=4)
    save_figure(figure, output)


def _groups(ranking: pd.DataFrame) -> dict[str, _Group]:
    """Return the samples of each of the most frequent labels, those with most selected samples first.

    Colours follow the names, so that a label looks the same in the plots of all experiments.
    """
    counts = ranking.groupby("dataset")["selected"].agg(["size", "sum"]).reset_index()
    named = counts.sort_values(["size", "dataset"], ascending=[False, True]).head(len(COLOURS))
    looks = dict(zip(sorted(named["dataset"]), zip(COLOURS, MARKERS, strict=True), strict=False))
    order = named.sort_values(["sum", "size", "dataset"], ascending=[False, False, True])["dataset"]
    groups = {str(name): _Group(ranking[ranking["dataset"] == name], *looks[name]) for name in order}
    if len(counts) > len(named):
        groups[_OTHERS] = _Group(ranking[~ranking["dataset"].isin(named["dataset"])], GREY, "o")
    return groups


def _edges(values: pd.Series, width: float | None) -> NDArray[np.float64]:
    """Return edges of bins that look equally wide on an axis with an asinh scale of this width, None for linear."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.linspace(low - 0.5, high + 0.5, _BINS + 1)
    if width is None:
        return np.linspace(low, high, _BINS + 1)
    edges: NDArray[np.float64] = width * np.sinh(
        np.linspace(np.arcsinh(low / width), np.arcsinh(high / width), _BINS + 1)
    )
    edges[0], edges[-1] = low, high  # not off by rounding, which would lose a sample
    return edges


def _histogram(axis: Any, groups: Mapping[str, _Group], column: str, edges: NDArray[np.float64]) -> None:
    known = [one.rows.dropna(subset=[column]) for one in groups.values()]
    inside = [np.clip(rows[column], edges[0], edges[-1]) for rows in known]
    axis.hist(inside, bins=edges, stacked=True, color=[one.colour for one in groups.values()], alpha=0.75)
    selected = np.concatenate([values[rows["selected"]] for values, rows in zip(inside, known, strict=True)])
    if len(selected):
        axis.hist(selected, bins=edges, histtype="step", color="black", linewidth=1.4)
    axis.set_ylabel("samples")
    axis.yaxis.get_major_locator().set_params(integer=True)


def _score_histogram(axis: Any, ranking: pd.DataFrame, groups: Mapping[str, _Group]) -> None:
    """Draw the scores without far outliers, which the first and the last bar count, and the cut."""
    ranking = ranking.dropna(subset=["score"])
    scores = ranking["score"]
    lower, upper = scores.quantile(0.25), scores.quantile(0.75)
    reach = _OUTLIERS * (upper - lower)
    near = scores[scores.between(lower - reach, upper + reach)] if reach > 0 else scores
    edges = _edges(near, None)
    _histogram(axis, groups, "score", edges)
    below, above = int((scores < edges[0]).sum()), int((scores > edges[-1]).sum())
    note = f"\n({below} below and {above} above are in the outer bars)" if below + above else ""
    axis.locator_params("x", nbins=6)
    axis.set(title="Score", xlabel=f"score by method {ranking['method'].iloc[0]}{note}")
    lowest = scores[ranking["selected"]].min()
    if (scores[~ranking["selected"] & ranking["selectable"]] <= lowest).all() and not ranking["selected"].all():
        axis.axvline(np.clip(lowest, edges[0], edges[-1]), color="black", linestyle="--", linewidth=1.2)
        axis.annotate(
            f" cut at {lowest:.4g}", (np.clip(lowest, edges[0], edges[-1]), 1.0), xycoords=("data", "axes fraction"),
            va="top", fontsize=9,
        )  # fmt: skip


def _against_length(axis: Any, groups: Mapping[str, _Group], column: str, count: int) -> None:
    size = float(np.clip(6000 / count, 4, 24))
    for chosen in (False, True):
        for one in groups.values():
            rows = one.rows[one.rows["selected"] == chosen]
            colours = {"color": one.colour} if chosen else {"facecolors": "none", "edgecolors": one.colour}
            axis.scatter(
                rows["length"], rows[column], s=size, marker=one.marker, linewidths=0.8, alpha=0.9 if chosen else 0.6,
                **colours,
            )  # fmt: skip


def _mark_last_selected(axis: Any, ranking: pd.DataFrame) -> None:
    """Put rank 1 at the top, shade the selected ranks, and mark the last selected sample."""
    axis.set_ylim(len(ranking) + 1, 0)
    axis.set_ylabel("rank (1 = best)")
    axis.yaxis.get_major_locator().set_params(integer=True)
    chosen = ranking[ranking["selected"]]
    if chosen.empty:
        return
    last = chosen.sort_values("rank").iloc[-1]
    axis.axhspan(0.5, last["rank"] + 0.5, color="black", alpha=0.06, linewidth=0)
    axis.axhline(last["rank"] + 0.5, color="black", linestyle="--", linewidth=1.2)
    axis.scatter(last["length"], last["rank"], s=110, facecolors="none", edgecolors="black", linewidths=1.2)
    where = f"rank {whole(int(last['rank']))}, {whole(int(last['length']))} tokens"
    axis.set_xlabel(f"length (tokens)\n(circle: last selected, {where})")


def _legend(groups: Mapping[str, _Group]) -> list[Any]:
    from matplotlib.lines import Line2D

    def entry(label: str, colour: str, marker: str, fill: str) -> Any:
        return Line2D([], [], linestyle="none", color=colour, marker=marker, markerfacecolor=fill, label=label)

    entries = [
        entry(
            f"{name}: {whole(len(one.rows))} samples, {whole(int(one.rows['selected'].sum()))} selected",
            one.colour, one.marker, one.colour,
        )
        for name, one in groups.items()
    ]  # fmt: skip
    return [
        *entries,
        entry("selected (filled; black line in histograms)", "black", "o", "black"),
        entry("not selected (in the shade: near duplicate or held out)", "black", "o", "none"),
    ]
