"""All choices that the paper leaves open (norms, importance, layers, orientation, α), ranked from one score table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import product

import pandas as pd

from gateau.methods import METHODS
from gateau.reports import decimal, markdown_table, with_interval
from gateau.selection.fusion import ORIENTATIONS, SelectionOptions
from gateau.selection.measures import LAYERS
from gateau.selection.norms import NORMS
from gateau.selection.ranking import rank_samples

_HMP_NORMS = ("minmax", "log", "rank")
_SCORE_NORMS = ("softmax", "rank")
_ALPHAS = (0.3, 0.5, 0.7, 0.8)
# softmax_loglik equals inverse_ppl up to a factor, which does not change a cosine
_IMPORTANCE = ("softmax_neg_ppl", "inverse_ppl")


def choices() -> Iterator[tuple[str, SelectionOptions]]:
    """Yield methods with their options: HMG by norm, CAM by its three choices, their sums, and gateau_robust."""
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
    """Return a ranking for each choice, by :func:`choice_name`."""
    return {choice_name(method, options): rank_samples(scores, options, method) for method, options in choices()}


def choice_name(method: str, options: SelectionOptions) -> str:
    """Return the method and the options that it reads, such as ``hmg hmp_norm=log``."""
    values = asdict(options)
    return " ".join([method, *(f"{name}={values[name]}" for name in METHODS[method].reads)])


def marginal_means(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and best figures of the fused choices for each value of each option: what matters, and how much.

    Args:
        table: of :func:`gateau.selection.comparison.to_frame`; experiments are named by :func:`choice_name`.
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
    """Return three Markdown tables: means by option, HMG and CAM alone, and the ``best`` sums."""
    fused = table[table["method"] == "gateau"].head(best)
    alone = table[table["method"].isin(["hmg", "cam", "gateau_robust", "random"])]
    means = [
        [
            row["option"], row["value"], decimal(row["mean_auroc"]), decimal(row["best_auroc"]),
            decimal(row["mean_precision"]), decimal(row["mean_spearman_with_length"]),
        ]
        for row in marginal_means(table).to_dict("records")
    ]  # fmt: skip
    columns = [
        "option", "value", "mean AUROC", "best AUROC", "mean precision in the best 10 %", "mean Spearman with length",
    ]  # fmt: skip
    return f"""Sums of HMP and CAS, for each value of an option over all values of the others.

{markdown_table(columns, means, numbers=range(2, 6))}

HMG and CAM alone, and gateau_robust.

{_table(alone)}

The best {len(fused)} sums.

{_table(fused)}
"""


def _table(choices: pd.DataFrame) -> str:
    rows = [
        [
            row["experiment"], with_interval(row["auroc"], row["auroc_low"], row["auroc_high"]),
            decimal(row["precision_at_tenth"]), decimal(row["spearman_with_length"]),
        ]
        for row in choices.to_dict("records")
    ]  # fmt: skip
    return markdown_table(["choice", "AUROC", "precision in the best 10 %", "Spearman with length"], rows)
