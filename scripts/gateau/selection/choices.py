"""What the paper leaves open, each way it could be: norms, importance, layers, orientation and α, from one table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import product

import pandas as pd

from gateau.methods import METHODS
from gateau.selection.fusion import LAYERS, ORIENTATIONS, SelectionOptions
from gateau.selection.norms import NORMS
from gateau.selection.ranking import rank_samples

_HMP_NORMS = ("minmax", "log", "rank")
_SCORE_NORMS = ("softmax", "rank")
_ALPHAS = (0.3, 0.5, 0.7, 0.8)
# softmax_loglik is inverse_ppl up to a factor, which a cosine does not see
_IMPORTANCE = ("softmax_neg_ppl", "inverse_ppl")


def choices() -> Iterator[tuple[str, SelectionOptions]]:
    """Every method and options worth a look: HMG by norm, CAM by its three choices, and their sums."""
    cam = list(product(_IMPORTANCE, LAYERS, ORIENTATIONS))
    for norm in NORMS:
        yield "hmg", SelectionOptions(hmp_norm=norm)
    for importance, layers, orientation in cam:
        yield "cam", SelectionOptions(importance=importance, layers=layers, orientation=orientation)
    for hmp_norm, score_norm, alpha in product(_HMP_NORMS, _SCORE_NORMS, _ALPHAS):
        for importance, layers, orientation in cam:
            yield "gateau", SelectionOptions(alpha, hmp_norm, score_norm, importance, layers, orientation)
    yield "gateau_robust", SelectionOptions()


def rank_choices(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A ranking for each choice, by a name that spells it out."""
    return {choice_name(method, options): rank_samples(scores, options, method) for method, options in choices()}


def choice_name(method: str, options: SelectionOptions) -> str:
    """The method and the options it reads, e.g. ``hmg hmp_norm=log``."""
    values = asdict(options)
    return " ".join([method, *(f"{name}={values[name]}" for name in METHODS[method].reads)])


def marginal_means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and best AUROC of the fused choices by each option's value: what matters, and how much.

    Args:
        table: of :func:`gateau.selection.comparison.to_frame`, experiments named by :func:`choice_name`.
    """
    fused = table[table["method"] == "gateau"]
    rows = []
    for option in METHODS["gateau"].reads:
        value = fused["experiment"].str.extract(rf"\b{option}=(\S+)")[0]
        for name, group in fused.groupby(value):
            rows.append(
                {
                    "option": option,
                    "value": name,
                    "mean_auroc": group["auroc"].mean(),
                    "best_auroc": group["auroc"].max(),
                    "mean_precision": group["precision_at_tenth"].mean(),
                    "mean_spearman_with_length": group["spearman_with_length"].mean(),
                }
            )
    return pd.DataFrame(rows)


def choices_markdown(table: pd.DataFrame, best: int = 10) -> str:
    """Marginal means, then HMG and CAM alone, then the best sums."""

    def one(row: pd.Series) -> str:
        return (
            f"| {row['experiment']} | {row['auroc']:.2f} [{row['auroc_low']:.2f}, {row['auroc_high']:.2f}] | "
            f"{row['precision_at_tenth']:.2f} | {row['spearman_with_length']:.2f} |"
        )

    head = ["| choice | AUROC | precision in the best 10 % | Spearman with length |", "|---|---:|---:|---:|"]
    lines = [
        "Sums of HMP and CAS, by each option over all values of the others.",
        "",
        "| option | value | mean AUROC | best AUROC | mean precision in the best 10 % | mean Spearman with length |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['option']} | {row['value']} | {row['mean_auroc']:.2f} | {row['best_auroc']:.2f} | "
        f"{row['mean_precision']:.2f} | {row['mean_spearman_with_length']:.2f} |"
        for row in marginal_means(table).to_dict("records")
    ]
    alone = table[table["method"].isin(["hmg", "cam", "gateau_robust", "random"])]
    lines += ["", "HMG and CAM alone, and gateau_robust.", "", *head, *(one(row) for _, row in alone.iterrows())]
    fused = table[table["method"] == "gateau"].head(best)
    lines += ["", f"The best {len(fused)} sums.", "", *head, *(one(row) for _, row in fused.iterrows())]
    return "\n".join(lines) + "\n"
