"""Comparison of methods on labelled data: does a ranking put the wanted samples first, or does it only follow length?

Intervals are 95 % percentile bootstrap intervals over samples. All methods are resampled together, so that the
difference between two methods has an interval of its own. A resample is stored as a count for each sample, so that
scores are sorted once and not once per resample.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.errors import DataError
from gateau.reports import COLOURS, GREY, make_figure, markdown_table, save_figure, whole, with_interval
from gateau.selection.quality import comparable_scores
from gateau.selection.selected import is_distinct

_DRAWN_AT_ONCE = 2_000_000
_TITLES = {
    "auroc": "AUROC",
    "precision_at_tenth": "precision in the best 10 %",
    "spearman_with_length": "Spearman with length",
}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval: the middle 95 % of its resampled values."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """The figures of one experiment.

    ``n`` samples are compared, of which ``positives`` should come first. ``behind`` is the AUROC of the best experiment
    minus that of this one. Near duplicates are compared like all other samples, because a method scores them the same
    way; ``left_out`` counts those that the experiment does not select.
    """

    name: str
    method: str
    n: int
    positives: int
    left_out: int
    figures: Mapping[str, Figure]
    behind: Figure


def drawn_ranks(values: Array, counts: Array) -> Array:
    """Return the rank of each sample's value among the drawn ones, float ``[R, n]``. Ties share their mean rank.

    Args:
        values: float ``[n]``.
        counts: how often each of R resamples draws each sample, float ``[R, n]``.
    """
    order = np.argsort(values, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    tied = np.add.reduceat(counts[:, order], first, axis=1)
    ranks = np.cumsum(tied, axis=1) - tied / 2 + 0.5
    found: Array = ranks[:, np.searchsorted(values[order][first], values)]
    return found


def aurocs(ranks: Array, counts: Array, positive: NDArray[np.bool_]) -> Array:
    """Return the AUROC of each resample, float ``[R]``; NaN where it has no positive or no negative. Ties count half.

    Args:
        ranks: of :func:`drawn_ranks`.
        counts: float ``[R, n]``.
        positive: bool ``[n]``.
    """
    n_positive = counts @ positive
    n_negative = counts.sum(axis=1) - n_positive
    of_positives = (counts * ranks) @ positive
    with np.errstate(invalid="ignore", divide="ignore"):
        values: Array = (of_positives - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return values


def precisions(scores: Array, counts: Array, positive: NDArray[np.bool_]) -> Array:
    """Return the share of positives in the best tenth of each resample, float ``[R]``.

    Of equal scores, the earlier sample comes first.

    Args:
        scores: float ``[n]``.
        counts: float ``[R, n]``.
        positive: bool ``[n]``.
    """
    order = np.argsort(-scores, kind="stable")
    drawn = counts[:, order]
    best = max(scores.shape[0] // 10, 1)
    taken = np.clip(best - (np.cumsum(drawn, axis=1) - drawn), 0, drawn)
    share: Array = taken @ positive[order] / best
    return share


def correlations(first: Array, second: Array, counts: Array) -> Array:
    """Return Spearman's correlation in each resample, float ``[R]``; 0 if a side is constant.

    Args:
        first: of :func:`drawn_ranks`.
        second: of :func:`drawn_ranks`.
        counts: float ``[R, n]``.
    """
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
    """Compare rankings on the samples that all of them rank. The highest AUROC comes first.

    A seeded random order is also compared, under the name ``(random)``.

    Args:
        rankings: by the name of the experiment; columns id, rank, score and method, and perhaps duplicate_of.
        labels: data set label by sample id.
        lengths: length in tokens by sample id.
        positive: labels of the samples that a good ranking puts first.
        resamples: number of bootstrap resamples.
        seed: of the resamples and of the random order.

    Raises:
        DataError: no sample, or every sample, has one of these labels.
    """
    ids = sorted(set.intersection(*(set(ranking["id"]) for ranking in rankings.values())))
    wanted = labels.reindex(ids).isin(list(positive)).to_numpy()
    if not wanted.any() or wanted.all():
        raise DataError(
            f"{int(wanted.sum())} of {len(ids)} ranked samples have a label of comparison.positive "
            f"({', '.join(positive)}); the labels that exist are: {', '.join(sorted(set(labels.dropna())))}"
        )
    table: dict[str, Array] = {}
    for name, ranking in rankings.items():
        table[name] = np.array(pd.Series(comparable_scores(ranking), ranking["id"]).reindex(ids))
    methods = {name: str(ranking["method"].iloc[0]) for name, ranking in rankings.items()}
    left_out = {
        name: int((~is_distinct(ranking)).sum()) for name, ranking in rankings.items() if "duplicate_of" in ranking
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
    """Yield how often each of ``n`` samples is drawn, float ``[R, n]``, in parts that fit into memory."""
    random = np.random.default_rng(seed)
    step = max(_DRAWN_AT_ONCE // n, 1)
    for start in range(0, resamples, step):
        rows = random.integers(n, size=(min(step, resamples - start), n))
        flat = (rows + n * np.arange(len(rows))[:, None]).ravel()
        yield np.bincount(flat, minlength=rows.size).reshape(rows.shape).astype(np.float64)


def _measured(
    table: Mapping[str, Array], wanted: NDArray[np.bool_], length: Array, counts: Array
) -> dict[tuple[str, str], Array]:
    """Return every measure of every method on the same resamples, float ``[R]`` each."""
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
    """Return one row per method, with three columns per figure: value, low and high."""
    rows = []
    for one in compared:
        row: dict[str, object] = {"experiment": one.name, "method": one.method, "n": one.n, "positives": one.positives}
        row["near_duplicates_left_out"] = one.left_out
        for name, figure in [*one.figures.items(), ("auroc_behind_best", one.behind)]:
            row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        rows.append(row)
    return pd.DataFrame(rows)


def to_markdown(compared: Sequence[Compared], positive: Sequence[str]) -> str:
    """Return the comparison as a Markdown table with an explanation."""
    one = compared[0]
    about = (
        f"{one.n} samples, {one.positives} of them {' or '.join(positive)}: does a method rank these first? "
        "In brackets are 95 % bootstrap intervals. AUROC is the chance that one of them is ranked before one of the "
        "others (0.5 = chance). Near duplicates are compared like all samples; the last column counts those that an "
        "experiment does not select."
    )
    titles = ["experiment", "method", *_TITLES.values(), "AUROC behind the best", "near duplicates left out"]
    rows = [
        [one.name, one.method, *(_cell(one.figures[measure]) for measure in _TITLES), _cell(one.behind), one.left_out]
        for one in compared
    ]
    return f"{about}\n\n{markdown_table(titles, rows, numbers=range(2, len(titles)))}\n"


def _cell(figure: Figure) -> str:
    return with_interval(figure.value, figure.low, figure.high)


def plot_comparison(compared: Sequence[Compared], output: str | os.PathLike[str]) -> None:
    """Plot each measure of each method with its interval, the best AUROC at the top.

    Methods whose AUROC cannot be told from the best one's are filled. The random order is grey, and dashed lines mark
    chance.

    Args:
        compared: of :func:`compare`.
        output: PNG, SVG or PDF.
    """
    figure, axes = make_figure(1, len(_TITLES), size=(13, 2.2 + 0.32 * len(compared)), sharey=True)
    one = compared[0]
    chance = {"auroc": 0.5, "precision_at_tenth": one.positives / one.n, "spearman_with_length": 0.0}
    for axis, measure in zip(axes[0], _TITLES, strict=True):
        for place, one in enumerate(reversed(compared)):
            shown = one.figures[measure]
            colour = GREY if one.method == "random" else COLOURS[0]
            axis.plot([shown.low, shown.high], [place, place], color=colour, linewidth=1.8)
            filled = colour if one.behind.low <= 0 else "white"
            axis.plot(shown.value, place, marker="o", color=colour, markerfacecolor=filled, markersize=6)
        axis.axvline(chance[measure], color="black", linestyle="--", linewidth=1)
        low = -1.02 if measure == "spearman_with_length" else -0.02
        axis.set(title=_TITLES[measure], xlim=(low, 1.02), xlabel="95 % interval; dashed: chance")
    names = [one.name if one.name in (one.method, "(random)") else f"{one.name} ({one.method})" for one in compared]
    axes[0, 0].set_yticks(range(len(compared)), names[::-1])
    figure.suptitle(
        f"Methods compared: {whole(one.positives)} of {whole(one.n)} samples should come first "
        "(filled: AUROC within the noise of the best)"
    )
    save_figure(figure, output)
