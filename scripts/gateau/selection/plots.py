"""Pictures of a selection."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from gateau.files import atomic_path

_LABELS = 8
_SCORES = {"hmp": "HMP", "cas": "CAS (cosine)", "score": "final score"}


def plot_distributions(ranking: pd.DataFrame, title: str, output: str) -> None:
    """Above, a histogram of HMP, CAS and the final score; below, each against length in tokens; coloured by data set.

    Args:
        ranking: columns hmp, cas, score, length, dataset. The most frequent labels get colours, the rest is grey.
    """
    common = ranking["dataset"].value_counts().index[:_LABELS]
    groups = {str(label): ranking[ranking["dataset"] == label] for label in sorted(common)}
    if len(rest := ranking[~ranking["dataset"].isin(common)]):
        groups["others"] = rest
    colours = dict(zip(groups, [*plt.get_cmap("tab10").colors[:_LABELS], "0.6"], strict=False))  # type: ignore[attr-defined]
    figure, axes = plt.subplots(2, len(_SCORES), figsize=(13, 7), constrained_layout=True)
    for (column, name), (above, below) in zip(_SCORES.items(), axes.T, strict=True):
        above.hist(
            [group[column] for group in groups.values()],
            bins=30,
            stacked=True,
            label=list(groups),
            color=list(colours.values()),
        )
        above.set(xlabel=name, ylabel="samples")
        for label, group in groups.items():
            below.scatter(group["length"], group[column], s=9, alpha=0.7, color=colours[label], linewidths=0)
        below.set(xlabel="length (tokens)", ylabel=name)
    axes[0, 0].legend(fontsize="small")
    figure.suptitle(f"{title}: {len(ranking)} ranked samples")
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format=output.rsplit(".", 1)[-1], dpi=120, metadata={"Software": None})
    plt.close(figure)
