"""The miniature's table and picture: recall by method and share, and how far from a random draw and from all rows.

Intervals are 95 % percentile bootstrap, drawing seeds and questions with replacement; two methods answer the same
questions and are compared on the same drawn ones. The pool of rows and its scores are the same in all runs: how
another pool would fare is not covered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.files import atomic_path

SKILLS = {"far": "far recall", "short": "short recall"}
RANDOM, FULL, BEFORE = "_random", "_full", "_before"  # no experiment is called so

_RESAMPLES = 2000
Array = NDArray[np.float64]


def summarise(runs: Sequence[Mapping[str, Any]], seed: int = 0) -> pd.DataFrame:
    """One row per experiment and share: mean recalls with intervals, NLLs, and differences.

    These are to the random draws of the same share, and to all rows.

    Args:
        runs: of :func:`gateau.miniature.runs.as_json`.
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
            row |= _with_interval(f"{skill}_recall", own.mean(), _resampled(own, None, seed))
            row[f"{skill}_nll"] = float(np.mean([one["nll"] for one in group[skill]]))
            for what, other in (("random", (RANDOM, share)), ("full", (FULL, 1.0))):
                if other in cells and name not in (other[0], BEFORE):
                    theirs = _recalled(cells[other], skill)
                    drawn = _resampled(own, theirs, seed)
                    row |= _with_interval(f"{skill}_beyond_{what}", own.mean() - theirs.mean(), drawn)
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["share", "far_recall"], ascending=[True, False], ignore_index=True)


def _recalled(group: pd.DataFrame, skill: str) -> Array:
    """1 or 0, ``[seeds, questions]``."""
    return np.array([one["recalled"] for one in group[skill]], dtype=np.float64)


def _resampled(own: Array, other: Array | None, seed: int) -> Array:
    """Means of drawn seeds and questions, less the other's on the same questions."""
    random = np.random.default_rng(seed)
    means = []
    for _ in range(_RESAMPLES):
        questions = random.integers(own.shape[1], size=own.shape[1])
        tables = [own] if other is None else [own, other]
        values = [table[random.integers(len(table), size=len(table))][:, questions].mean() for table in tables]
        means.append(values[0] - (values[1] if other is not None else 0.0))
    return np.array(means)


def _with_interval(name: str, value: float, drawn: Array) -> dict[str, float]:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def to_markdown(table: pd.DataFrame) -> str:
    """The table for people, and what it says about each method against chance."""
    lines = [
        "A tiny model with too little long-context training is fine-tuned for equally many steps on the best share of "
        "the rows by each method. Recall: share of fresh questions answered exactly. In brackets 95 % intervals.",
        "",
        "| share | experiment | rows | far recall | beyond random | beyond full | short recall | beyond random | "
        "beyond full |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    records: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]  # keys are column names
    for row in records:
        cells = [
            _cell(row, f"{skill}_{what}") for skill in SKILLS for what in ("recall", "beyond_random", "beyond_full")
        ]
        lines.append(
            f"| {row['share']:.0%} | {row['experiment'].removeprefix('_')} | {row['rows']} | {' | '.join(cells)} |"
        )
    return "\n".join([*lines, "", *_conclusion(table)]) + "\n"


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row or pd.isna(row[name]):
        return "–"
    sign = "+" if "beyond" in name else ""
    return f"{row[name]:{sign}.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def _conclusion(table: pd.DataFrame) -> list[str]:
    """By share: which methods are surely better or worse than a random draw, and than all rows, at far recall."""
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


def plot_summary(table: pd.DataFrame, output: str) -> None:
    """Recall against share, a line per method; dashed what the model could before, dotted all rows."""
    figure, axes = plt.subplots(1, len(SKILLS), figsize=(12, 5), sharey=True, constrained_layout=True)
    methods = [name for name in dict.fromkeys(table["experiment"]) if name not in (FULL, BEFORE)]
    for axis, (skill, title) in zip(axes, SKILLS.items(), strict=True):
        name = f"{skill}_recall"
        for number, method in enumerate(methods):
            own = table[table["experiment"] == method].sort_values("share")
            error = np.maximum([own[name] - own[f"{name}_low"], own[f"{name}_high"] - own[name]], 0)
            places = own["share"] + 0.006 * (number - len(methods) / 2)  # side by side
            axis.errorbar(places, own[name], yerr=error, marker="o", capsize=3, label=method.removeprefix("_"))
        for method, style in ((BEFORE, "--"), (FULL, ":")):
            for value in table.loc[table["experiment"] == method, name]:
                axis.axhline(value, linestyle=style, color="0.4", label=method.removeprefix("_"))
        axis.set(title=title, xlabel="share of the rows, best first", ylim=(-0.02, 1.02))
    axes[0].set_ylabel("recall")
    axes[0].legend(fontsize="small")
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format=output.rsplit(".", 1)[-1], dpi=120, metadata={"Software": None})
    plt.close(figure)
