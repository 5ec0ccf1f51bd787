"""Pictures of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gateau.files import atomic_path

_PANELS = {
    "loss": "training loss",
    "eval_loss_long": "held-out loss, long samples",
    "eval_loss_short": "held-out loss, short chats",
}


def plot_losses(histories: Mapping[str, Sequence[Mapping[str, Any]]], output: str) -> None:
    """One panel for each kind of loss that was measured, one line per experiment, over optimiser steps.

    Args:
        histories: the log of each experiment, one mapping per entry with ``step`` and what was measured.
    """
    panels = [
        name for name in _PANELS if any(name in entry for history in histories.values() for entry in history)
    ] or ["loss"]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), constrained_layout=True, squeeze=False)
    for name, axis in zip(panels, axes[0], strict=True):
        for experiment, history in histories.items():
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            if points:
                axis.plot(*zip(*points, strict=True), label=experiment, linewidth=1.2, alpha=0.85)
        axis.set(xlabel="step", ylabel="mean over sequences (nats per token)", title=_PANELS[name])
    axes[0, 0].legend(fontsize="small")
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format=output.rsplit(".", 1)[-1], dpi=120, metadata={"Software": None})
    plt.close(figure)
