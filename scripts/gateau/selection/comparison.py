"""Methods side by side on labelled data: does a ranking put the wanted kind first, and is it length in disguise?

Intervals are percentile bootstrap over samples (95 %); all methods are resampled together, so that a difference between
two of them has an interval of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from gateau.errors import DataError
from gateau.files import atomic_path

_DRAWN_AT_ONCE = 2_000_000
_TITLES = {
    "auroc": "AUROC",
    "precision_at_tenth": "precision in the best 10 %",
    "spearman_with_length": "Spearman with length",
}

Array = NDArray[np.float64]
Measure = Callable[[Array, NDArray[np.bool_], Array], Array]


@dataclass(frozen=True)
class Figure:
    """A value with the middle 95 % of its resampled values."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """One method's figures; ``behind`` is the AUROC of the best method less its own."""

    name: str
    method: str
    n: int
    positives: int
    figures: Mapping[str, Figure]
    behind: Figure


def aurocs(scores: Array, positive: NDArray[np.bool_], lengths: Array) -> Array:
    """AUROC of each row of samples, ties counting half: float ``[R]`` from ``[R, n]``; NaN where a side is empty."""
    n_positive = positive.sum(axis=1)
    n_negative = positive.shape[1] - n_positive
    ranks = np.where(positive, rankdata(scores, axis=1), 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Array = (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return values


def precisions(scores: Array, positive: NDArray[np.bool_], lengths: Array) -> Array:
    """Share of positives in the best tenth of each row of samples: ``[R]`` from ``[R, n]``."""
    best = max(scores.shape[1] // 10, 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :best]
    share: Array = np.take_along_axis(positive, order, axis=1).mean(axis=1)
    return share


def length_correlations(scores: Array, positive: NDArray[np.bool_], lengths: Array) -> Array:
    """Spearman's correlation of score and length in each row of samples: ``[R]`` from ``[R, n]``."""
    first, second = (rankdata(values, axis=1) for values in (scores, lengths))
    first, second = first - first.mean(axis=1, keepdims=True), second - second.mean(axis=1, keepdims=True)
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Array = (first * second).sum(axis=1) / scale
    return np.nan_to_num(values)


MEASURES: dict[str, Measure] = {
    "auroc": aurocs,
    "precision_at_tenth": precisions,
    "spearman_with_length": length_correlations,
}


def compare(
    rankings: Mapping[str, pd.DataFrame],
    labels: pd.Series,
    lengths: pd.Series,
    positive: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> list[Compared]:
    """Compare rankings on the samples that all of them rank, the one of the highest AUROC first.

    A seeded random order is compared too, under the name ``(random)``.

    Args:
        rankings: columns id, score, method, by the name of the experiment.
        labels, lengths: data set label and length in tokens by sample id.
        positive: labels of the samples that a good ranking puts first.

    Raises:
        DataError: no sample, or every sample, has one of these labels.
    """
    ids = sorted(set.intersection(*(set(ranking["id"]) for ranking in rankings.values())))
    wanted = labels.reindex(ids).isin(list(positive)).to_numpy()
    if not wanted.any() or wanted.all():
        raise DataError(
            f"{int(wanted.sum())} of {len(ids)} ranked samples have a label of comparison.positive "
            f"({', '.join(positive)}); the labels there are: {', '.join(sorted(set(labels.dropna())))}"
        )
    table = {name: ranking.set_index("id")["score"].reindex(ids).to_numpy(float) for name, ranking in rankings.items()}
    methods = {name: str(ranking["method"].iloc[0]) for name, ranking in rankings.items()}
    table["(random)"], methods["(random)"] = _random_scores(ids, seed), "random"
    length = lengths.reindex(ids).to_numpy(float)
    drawn = _resampled(table, wanted, length, resamples, seed)
    whole = {
        name: {measure: float(of(scores[None], wanted[None], length[None])[0]) for measure, of in MEASURES.items()}
        for name, scores in table.items()
    }
    best = max(table, key=lambda name: whole[name]["auroc"])
    compared = [
        Compared(
            name, methods[name], len(ids), int(wanted.sum()),
            {measure: _figure(whole[name][measure], drawn[name, measure]) for measure in MEASURES},
            _figure(whole[best]["auroc"] - whole[name]["auroc"], drawn[best, "auroc"] - drawn[name, "auroc"]),
        )
        for name in table
    ]  # fmt: skip
    return sorted(compared, key=lambda one: (-one.figures["auroc"].value, one.name))


def _random_scores(ids: Sequence[str], seed: int) -> Array:
    digests = (hashlib.sha256(f"{seed}:comparison:{row_id}".encode()).digest() for row_id in ids)
    return np.array([int.from_bytes(digest[:6], "big") for digest in digests], dtype=np.float64)


def _resampled(
    table: Mapping[str, Array], wanted: NDArray[np.bool_], length: Array, resamples: int, seed: int
) -> dict[tuple[str, str], Array]:
    """Every measure of every method on the same draws."""
    random = np.random.default_rng(seed)
    parts: dict[tuple[str, str], list[Array]] = {(name, measure): [] for name in table for measure in MEASURES}
    step = max(_DRAWN_AT_ONCE // len(length), 1)
    for start in range(0, resamples, step):
        rows = random.integers(len(length), size=(min(step, resamples - start), len(length)))
        for (name, measure), found in parts.items():
            found.append(MEASURES[measure](table[name][rows], wanted[rows], length[rows]))
    return {key: np.concatenate(found) for key, found in parts.items()}


def _figure(value: float, drawn: Array) -> Figure:
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Figure(value, float(low), float(high))


def to_frame(compared: Sequence[Compared]) -> pd.DataFrame:
    """One row per method, three columns per figure."""
    rows = []
    for one in compared:
        row: dict[str, object] = {"experiment": one.name, "method": one.method, "n": one.n, "positives": one.positives}
        for name, figure in [*one.figures.items(), ("auroc_behind_best", one.behind)]:
            row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        rows.append(row)
    return pd.DataFrame(rows)


def to_markdown(compared: Sequence[Compared], positive: Sequence[str]) -> str:
    """The table for people."""
    one = compared[0]
    lines = [
        f"{one.n} samples, {one.positives} of them {' or '.join(positive)}: does a method put these first? "
        "In brackets 95 % bootstrap intervals. AUROC: the chance that one of them is ranked before one of the others.",
        "",
        f"| experiment | method | {' | '.join(_TITLES.values())} | AUROC behind the best |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for one in compared:
        cells = [_cell(one.figures[measure]) for measure in MEASURES] + [_cell(one.behind)]
        lines.append(f"| {one.name} | {one.method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(figure: Figure) -> str:
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def plot_comparison(compared: Sequence[Compared], output: str) -> None:
    """Each measure of each method with its interval."""
    figure, axes = plt.subplots(
        1, len(MEASURES), figsize=(13, 1.5 + 0.35 * len(compared)), sharey=True, constrained_layout=True
    )
    places = np.arange(len(compared))[::-1]
    for axis, measure in zip(axes, MEASURES, strict=True):
        figures = [one.figures[measure] for one in compared]
        values = np.array([one.value for one in figures])
        # a percentile interval may leave its value out
        error = np.maximum([[one.value - one.low for one in figures], [one.high - one.value for one in figures]], 0)
        axis.errorbar(values, places, xerr=error, fmt="o", capsize=3)
        axis.axvline(0.0 if measure == "spearman_with_length" else 0.5, color="0.8", zorder=0)
        axis.set(xlabel=_TITLES[measure], xlim=(-1.02, 1.02) if measure == "spearman_with_length" else (-0.02, 1.02))
    axes[0].set_yticks(places, [one.name for one in compared])
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format=output.rsplit(".", 1)[-1], dpi=120, metadata={"Software": None})
    plt.close(figure)
