"""Table and plot of the miniature study: recall by method and share, compared with a random draw and with all rows.

Intervals are 95 % percentile bootstrap intervals, in which seeds and questions are drawn with replacement. Two methods
answer the same questions and are compared on the same resampled ones. The pool of rows and its scores are the same in
all runs, so the intervals do not cover how results would vary with another pool.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.reports import UNKNOWN, line_styles, make_figure, markdown_table, save_figure, with_interval

SKILLS = {"far": "far recall", "short": "short recall"}
RANDOM, FULL, BEFORE = "_random", "_full", "_before"  # no experiment has such a name

_RESAMPLES = 2000
Array = NDArray[np.float64]


def summarise(runs: Sequence[Mapping[str, Any]], seed: int = 0) -> pd.DataFrame:
    """Return one row per experiment and share: mean recalls with intervals, NLLs and differences in recall.

    The differences are to random draws of the same share and to all rows. NLLs are in nats per token.

    Args:
        runs: of :func:`gateau.miniature.runs.as_json`.
        seed: of the resamples.
    """
    frame = pd.DataFrame(runs).sort_values(["experiment", "share", "seed"])
    cells = dict(list(frame.groupby(["experiment", "share"])))
    rows = []
    for (name, share), group in cells.items():
        row: dict[str, Any] = {
            "experiment": name, "share": share, "rows": round(group["rows"].mean()), "seeds": len(group),
        }  # fmt: skip
        for skill in SKILLS:
            own = _recalled(group, skill)
            row |= _interval_columns(f"{skill}_recall", own.mean(), _resampled(own, None, seed))
            row[f"{skill}_nll"] = float(np.mean([one["nll"] for one in group[skill]]))
            for what, other in (("random", (RANDOM, share)), ("full", (FULL, 1.0))):
                if other in cells and name not in (other[0], BEFORE):
                    theirs = _recalled(cells[other], skill)
                    drawn = _resampled(own, theirs, seed)
                    row |= _interval_columns(f"{skill}_beyond_{what}", own.mean() - theirs.mean(), drawn)
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["share", "far_recall"], ascending=[True, False], ignore_index=True)


def _recalled(group: pd.DataFrame, skill: str) -> Array:
    """Return 1 for a recalled answer and 0 for others, float ``[seeds, questions]``."""
    return np.array([one["recalled"] for one in group[skill]], dtype=np.float64)


def _resampled(own: Array, other: Array | None, seed: int) -> Array:
    """Return the mean over resampled seeds and questions, minus the other's on the same questions, float ``[R]``."""
    random = np.random.default_rng(seed)
    means = []
    for _ in range(_RESAMPLES):
        questions = random.integers(own.shape[1], size=own.shape[1])
        tables = [own] if other is None else [own, other]
        values = [table[random.integers(len(table), size=len(table))][:, questions].mean() for table in tables]
        means.append(values[0] - (values[1] if other is not None else 0.0))
    return np.array(means)


def _interval_columns(name: str, value: float, drawn: Array) -> dict[str, float]:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table in Markdown, with an explanation and what it says about each method against chance."""
    about = (
        "A tiny model with too little long-context training is fine-tuned for equally many steps on the best share of "
        "the rows by each method. Recall is the share of fresh questions that are answered exactly. In brackets are "
        "95 % intervals."
    )
    measures = [f"{skill}{what}" for skill in SKILLS for what in ("_recall", "_beyond_random", "_beyond_full")]
    titles = ["share", "experiment", "rows"]
    titles += [title for skill in SKILLS.values() for title in (skill, "beyond random", "beyond full")]
    records: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]  # keys are column names
    rows = [
        [f"{row['share']:.0%}", _title(row["experiment"]), row["rows"], *(_cell(row, name) for name in measures)]
        for row in records
    ]
    right = [0, *range(2, len(titles))]
    return "\n".join([about, "", markdown_table(titles, rows, numbers=right), "", *_conclusion(table)]) + "\n"


def _title(experiment: str) -> str:
    return experiment.removeprefix("_")


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row or pd.isna(row[name]):
        return UNKNOWN
    sign = "+" if "beyond" in name else ""
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], sign=sign)


def _conclusion(table: pd.DataFrame) -> list[str]:
    """Return by share which methods are clearly better or worse at far recall than a random draw and than all rows."""
    lines = []
    for what, title in (("random", "a random draw of that size"), ("full", "all rows")):
        name = f"far_beyond_{what}"
        if name not in table:
            continue
        for share, group in table[table[name].notna()].groupby("share"):
            names = group["experiment"].str.removeprefix("_")
            better, worse = names[group[f"{name}_low"] > 0], names[group[f"{name}_high"] < 0]
            lines.append(
                f"- {share:.0%}: far recall beyond {title}, interval above zero: "
                f"{', '.join(better) or 'none'}; below zero: {', '.join(worse) or 'none'}."
            )
    return lines


def plot_summary(table: pd.DataFrame, output: str | os.PathLike[str]) -> None:
    """Plot recall against the share of rows, with one line per method and its intervals.

    The shares are equally spaced, and methods stand side by side. Horizontal lines show the model before the study and
    after training on all rows. The legend is ordered by the mean far recall.

    Args:
        table: of :func:`summarise`.
        output: PNG, SVG or PDF.
    """
    chosen = table[~table["experiment"].isin([FULL, BEFORE])]
    shares = sorted(chosen["share"].unique())
    by_recall = chosen.groupby("experiment")["far_recall"].mean().sort_values(ascending=False, kind="stable")
    styles = line_styles([name for name in sorted(by_recall.index) if name != RANDOM])
    styles[RANDOM] = {"color": "0.45", "marker": "x", "linestyle": "--"}
    figure, axes = make_figure(1, len(SKILLS), size=(12, 5.6), sharey=True)
    for axis, (skill, title) in zip(axes[0], SKILLS.items(), strict=True):
        name = f"{skill}_recall"
        for number, method in enumerate(by_recall.index):
            own = chosen[chosen["experiment"] == method].sort_values("share")
            error = np.maximum([own[name] - own[f"{name}_low"], own[f"{name}_high"] - own[name]], 0)
            offset = 0.5 * ((number + 0.5) / len(by_recall) - 0.5)
            places = [shares.index(share) + offset for share in own["share"]]
            axis.errorbar(
                places, own[name], yerr=error, capsize=2, linewidth=1.4, elinewidth=1, markersize=5,
                label=_title(method), **styles[method],
            )  # fmt: skip
        for method, text, line, place, side in (
            (FULL, "all rows", ":", 1.0, "right"), (BEFORE, "before training", "-.", 0.0, "left"),
        ):  # fmt: skip
            for value in table.loc[table["experiment"] == method, name]:
                axis.axhline(value, linestyle=line, color="black", linewidth=1.2)
                axis.annotate(
                    f" {text}: {value:.2f} ", (place, value), xycoords=("axes fraction", "data"), ha=side, va="bottom",
                    fontsize=9,
                )  # fmt: skip
        axis.set(title=title.capitalize(), xlabel="share of the rows, best first", ylim=(-0.02, 1.04))
        axis.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        axis.set_xlim(-0.6, len(shares) - 0.4)
    axes[0, 0].set_ylabel("share of questions answered exactly")
    seeds = int(chosen["seeds"].max()) if len(chosen) else 0
    figure.suptitle(f"Recall after training on the best rows by each method (mean of {seeds} seeds, 95 % intervals)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save_figure(figure, output)
