"""Methods side by side on labelled data: does a ranking put the wanted kind first, and is it length in disguise?

Intervals are percentile bootstrap over samples (95 %); all methods are resampled together, so that a difference between
two of them has an interval of its own. A resample is a count for each sample: scores are sorted once, not once a draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.errors import DataError
from gateau.files import atomic_path

_DRAWN_AT_ONCE = 2_000_000
_TITLES = {
    "auroc": "AUROC",
    "precision_at_tenth": "precision in the best 10 %",
    "spearman_with_length": "Spearman with length",
}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A value with the middle 95 % of its resampled values."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """One experiment's figures; ``behind`` is the AUROC of the best one less its own.

    Near duplicates are compared like all rows, for they do not change how a method scores; ``left_out`` counts those
    that the experiment does not take.
    """

    name: str
    method: str
    n: int
    positives: int
    left_out: int
    figures: Mapping[str, Figure]
    behind: Figure


def drawn_ranks(values: Array, counts: Array) -> Array:
    """Mean rank of each sample's value among the drawn ones, ties sharing theirs: ``[R, n]``.

    Args:
        values: float ``[n]``.
        counts: how often each sample is drawn, float ``[R, n]``.
    """
    order = np.argsort(values, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    tied = np.add.reduceat(counts[:, order], first, axis=1)
    ranks = np.cumsum(tied, axis=1) - tied / 2 + 0.5
    found: Array = ranks[:, np.searchsorted(values[order][first], values)]
    return found


def aurocs(ranks: Array, counts: Array, positive: NDArray[np.bool_]) -> Array:
    """AUROC of each draw, ties counting half: float ``[R]``; NaN where a side is empty."""
    n_positive = counts @ positive
    n_negative = counts.sum(axis=1) - n_positive
    of_positives = (counts * ranks) @ positive
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Array = (of_positives - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return values


def precisions(scores: Array, counts: Array, positive: NDArray[np.bool_]) -> Array:
    """Share of positives in the best tenth of each draw, of equal scores the earlier sample first: float ``[R]``."""
    order = np.argsort(-scores, kind="stable")
    drawn = counts[:, order]
    best = max(scores.shape[0] // 10, 1)
    taken = np.clip(best - (np.cumsum(drawn, axis=1) - drawn), 0, drawn)
    share: Array = taken @ positive[order] / best
    return share


def correlations(first: Array, second: Array, counts: Array) -> Array:
    """Spearman's correlation in each draw, of ranks by :func:`drawn_ranks`: float ``[R]``; 0 if a side is constant."""
    centre = (counts.sum(axis=1, keepdims=True) + 1) / 2
    first, second = first - centre, second - centre
    scale = np.sqrt((counts * first**2).sum(axis=1) * (counts * second**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Array = (counts * first * second).sum(axis=1) / scale
    return np.nan_to_num(values)


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
        rankings: columns id, score, method and, where near duplicates were looked for, duplicate_of; by the name of
            the experiment.
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
    left_out = {
        name: int(ranking["duplicate_of"].notna().sum())
        for name, ranking in rankings.items()
        if "duplicate_of" in ranking
    }
    table["(random)"], methods["(random)"] = _random_scores(ids, seed), "random"
    length = lengths.reindex(ids).to_numpy(float)
    whole = {key: float(found[0]) for key, found in _measured(table, wanted, length, np.ones((1, len(ids)))).items()}
    parts = [_measured(table, wanted, length, counts) for counts in _draws(len(ids), resamples, seed)]
    drawn = {key: np.concatenate([part[key] for part in parts]) for key in whole}
    best = max(table, key=lambda name: whole[name, "auroc"])
    compared = [
        Compared(
            name, methods[name], len(ids), int(wanted.sum()), left_out.get(name, 0),
            {measure: _figure(whole[name, measure], drawn[name, measure]) for measure in _TITLES},
            _figure(whole[best, "auroc"] - whole[name, "auroc"], drawn[best, "auroc"] - drawn[name, "auroc"]),
        )
        for name in table
    ]  # fmt: skip
    return sorted(compared, key=lambda one: (-one.figures["auroc"].value, one.name))


def _random_scores(ids: Sequence[str], seed: int) -> Array:
    digests = (hashlib.sha256(f"{seed}:comparison:{row_id}".encode()).digest() for row_id in ids)
    return np.array([int.from_bytes(digest[:6], "big") for digest in digests], dtype=np.float64)


def _draws(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each of ``n`` samples is drawn: float ``[R, n]``, as many resamples at once as memory should hold."""
    random = np.random.default_rng(seed)
    step = max(_DRAWN_AT_ONCE // n, 1)
    for start in range(0, resamples, step):
        rows = random.integers(n, size=(min(step, resamples - start), n))
        flat = (rows + n * np.arange(len(rows))[:, None]).ravel()
        yield np.bincount(flat, minlength=rows.size).reshape(rows.shape).astype(np.float64)


def _measured(
    table: Mapping[str, Array], wanted: NDArray[np.bool_], length: Array, counts: Array
) -> dict[tuple[str, str], Array]:
    """Every measure of every method on the same draws."""
    found: dict[tuple[str, str], Array] = {}
    length_ranks = drawn_ranks(length, counts)
    for name, scores in table.items():
        ranks = drawn_ranks(scores, counts)
        found[name, "auroc"] = aurocs(ranks, counts, wanted)
        found[name, "precision_at_tenth"] = precisions(scores, counts, wanted)
        found[name, "spearman_with_length"] = correlations(ranks, length_ranks, counts)
    return found


def _figure(value: float, drawn: Array) -> Figure:
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Figure(value, float(low), float(high))


def to_frame(compared: Sequence[Compared]) -> pd.DataFrame:
    """One row per method, three columns per figure."""
    rows = []
    for one in compared:
        row: dict[str, object] = {"experiment": one.name, "method": one.method, "n": one.n, "positives": one.positives}
        row["near_duplicates_left_out"] = one.left_out
        for name, figure in [*one.figures.items(), ("auroc_behind_best", one.behind)]:
            row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        rows.append(row)
    return pd.DataFrame(rows)


def to_markdown(compared: Sequence[Compared], positive: Sequence[str]) -> str:
    """The table for people."""
    one = compared[0]
    lines = [
        f"{one.n} samples, {one.positives} of them {' or '.join(positive)}: does a method put these first? "
        "In brackets 95 % bootstrap intervals. AUROC: the chance that one of them is ranked before one of the others. "
        "Near duplicates are compared like all rows; the last column counts those that an experiment does not take.",
        "",
        f"| experiment | method | {' | '.join(_TITLES.values())} | AUROC behind the best | near duplicates left out |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for one in compared:
        cells = [_cell(one.figures[measure]) for measure in _TITLES] + [_cell(one.behind)]
        lines.append(f"| {one.name} | {one.method} | {' | '.join(cells)} | {one.left_out} |")
    return "\n".join(lines) + "\n"


def _cell(figure: Figure) -> str:
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def plot_comparison(compared: Sequence[Compared], output: str) -> None:
    """Each measure of each method with its interval."""
    figure, axes = plt.subplots(
        1, len(_TITLES), figsize=(13, 1.5 + 0.35 * len(compared)), sharey=True, constrained_layout=True
    )
    places = np.arange(len(compared))[::-1]
    for axis, measure in zip(axes, _TITLES, strict=True):
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
