"""The plot of a training: losses of all experiments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateau.reports import line_styles, make_figure, save_figure

_PANELS = {
    "loss": "Training loss",
    "eval_loss_long": "Held-out loss, long samples",
    "eval_loss_short": "Held-out loss, short chats",
}
_WINDOW = 0.1  # of the steps: the moving mean of the training loss
_LOG = 4.0  # the axis is logarithmic if the largest loss is more than that many times the smallest

Array = NDArray[np.float64]


def plot_losses(histories: Mapping[str, Sequence[Mapping[str, Any]]], output: str | os.PathLike[str]) -> None:
    """Plot one panel for each kind of loss that was measured, with one line per experiment over the optimiser steps.

    Training losses of single steps are faint; the moving mean over a tenth of the steps is drawn on top of them. Each
    legend lists the last values, the lowest first.

    Args:
        histories: the log of each experiment, one mapping per entry with ``step`` and what was measured.
        output: PNG, SVG or PDF.
    """
    from matplotlib.ticker import LogLocator

    panels = [
        name for name in _PANELS if any(name in entry for history in histories.values() for entry in history)
    ] or ["loss"]
    figure, axes = make_figure(1, len(panels), size=(5.2 * len(panels), 4.6))
    styles = line_styles(list(histories))
    for name, axis in zip(panels, axes[0], strict=True):
        lines = {}
        for experiment, history in histories.items():
            points = np.array([(entry["step"], entry[name]) for entry in history if name in entry], dtype=np.float64)
            if len(points):
                lines[experiment] = _draw(axis, points, styles[experiment], smooth=name == "loss")
        axis.set(title=_PANELS[name], xlabel="optimiser step", ylabel="nats per token, mean over sequences")
        values = np.concatenate([line.get_ydata() for line in axis.get_lines()]) if lines else np.ones(1)
        if 0 < values.min() < values.max() / _LOG:
            axis.set_yscale("log", subs=[])
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
        order = sorted(lines, key=lambda experiment: (lines[experiment][1], experiment))
        axis.legend(
            [lines[experiment][0] for experiment in order],
            [f"{lines[experiment][1]:.3f}  {experiment}" for experiment in order],
            title="mean of last 10 % of steps" if name == "loss" else "last value", alignment="left",
        )  # fmt: skip
    save_figure(figure, output)


def _draw(axis: Any, points: Array, style: Mapping[str, str], *, smooth: bool) -> tuple[Any, float]:
    """Draw one line; return it and its last value."""
    steps, losses = points.T
    if smooth:
        axis.plot(steps, losses, color=style["color"], linewidth=0.8, alpha=0.3)
        losses = _moving_mean(losses, max(round(_WINDOW * len(losses)), 1))
    (line,) = axis.plot(steps, losses, linewidth=1.6, markersize=5, markevery=max(len(steps) // 8, 1), **style)
    return line, float(losses[-1])


def _moving_mean(values: Array, window: int) -> Array:
    """Return the mean of each value and up to ``window`` - 1 values before it."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: Array = (sums[ends] - sums[starts]) / (ends - starts)
    return means
