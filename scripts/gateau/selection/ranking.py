"""A ranking of merged scores by one method. Ties are broken by id.

Samples that ``scoring.screen`` leaves out of the segment pass are ranked too. If a method needs that pass, they have no
score; they come after all others, by the value that they were screened by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gateau.errors import ScoreError, SettingsError
from gateau.methods import METHODS, UNRANKED
from gateau.schemas import RANKED_STATUSES, SCREENED_OUT
from gateau.selection.fusion import SelectionOptions, awareness, guidance
from gateau.selection.method_scores import SCORES, hmp_among_like_lengths
from gateau.selection.parts import Part, total


@dataclass(frozen=True)
class Scored:
    """The samples that a method can score, sorted by id, and the parts of their scores in the same order."""

    usable: pd.DataFrame
    parts: list[Part]

    @property
    def ids(self) -> pd.Series:
        """Return the ids, in the order of the parts' values."""
        return self.usable["id"]


def score_samples(
    scores: pd.DataFrame,
    options: SelectionOptions,
    method: str = "gateau",
    contrast: pd.DataFrame | None = None,
    rewards: pd.DataFrame | None = None,
) -> Scored:
    """Score the samples of status ``ok`` and ``screened_out``; NaN stands for an unknown score of the latter.

    Args:
        scores: rows of :data:`gateau.schemas.SCORES`.
        options: of GATEAU's formula.
        method: a name in :data:`gateau.methods.METHODS`.
        contrast: rows of :data:`gateau.schemas.CONTRAST`, for a method that names one. Samples that are not ok there
            are not ranked.
        rewards: rows of :data:`gateau.schemas.REWARDS`, for a method that reads them; likewise.

    Raises:
        ScoreError: no sample can be ranked, or a score is not finite.
        SettingsError: the method does not exist.
    """
    if method not in METHODS:
        raise SettingsError(f"method is {method!r}; choose one of {', '.join([*METHODS, *UNRANKED])}")
    ok = scores["status"].isin(RANKED_STATUSES)
    usable = scores if ok.all() else scores[ok]
    further = contrast if METHODS[method].contrast is not None else rewards if METHODS[method].rewards else None
    if METHODS[method].contrast is not None:
        usable = _with_column(usable, "nll_short", contrast, "nll")
    if METHODS[method].rewards:
        usable = _with_column(usable, "reward", rewards, "reward")
    if not is_sorted(usable["id"]):  # as the table of scores is
        usable = usable.sort_values("id")
    if usable.empty:
        counts = (scores if further is None else further)["status"].value_counts().to_dict()
        raise ScoreError(f"no sample can be ranked (status: {counts}); docs/results.md explains each status")
    parts = SCORES[method](usable, options)
    score = total(parts)
    bad = ~(np.isfinite(score) | (np.isnan(score) & (usable["status"] == SCREENED_OUT).to_numpy()))
    if bad.any():
        raise ScoreError(
            f"method {method} gives {int(bad.sum())} samples a score that is not finite (hmp_norm "
            f"{options.hmp_norm}, score_norm {options.score_norm}); choose norms that are robust to outliers, such as "
            "log and rank"
        )
    return Scored(usable, parts)


def rank_samples(
    scores: pd.DataFrame,
    options: SelectionOptions,
    method: str = "gateau",
    contrast: pd.DataFrame | None = None,
    rewards: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return :func:`ranked` of :func:`score_samples`, whose arguments and errors these are."""
    return ranked(score_samples(scores, options, method, contrast, rewards), options, method)


def ranked(scored: Scored, options: SelectionOptions, method: str) -> pd.DataFrame:
    """Return columns id, rank, score, hmp, cas, method and status, best first.

    hmp and cas follow the options even if the method does not read them. The order depends on scores and ids only, not
    on the order of the rows.
    """
    usable = scored.usable
    ranking = pd.DataFrame(
        {
            "id": usable["id"].array,
            "score": total(scored.parts),
            "hmp": guidance(usable, options.hmp_norm),
            "cas": awareness(usable, options.importance, options.layers),
            "method": method,
            "status": usable["status"].array,
        }
    )
    score = ranking["score"].to_numpy()
    unknown = np.isnan(score)
    then = np.where(unknown, -hmp_among_like_lengths(usable), 0.0) if unknown.any() else np.zeros(len(ranking))
    # NaN is last, and equal numbers stay sorted by id
    ranking = ranking.iloc[np.lexsort((then, -score))].reset_index(drop=True)
    ranking.insert(1, "rank", np.arange(1, len(ranking) + 1))
    return ranking


def is_sorted(ids: pd.Series) -> bool:
    """Return whether ids are in ascending order, without a copy of them."""
    strings = pa.chunked_array(pa.array(ids, pa.large_string()))
    return bool(pc.all(pc.less_equal(strings[:-1], strings[1:]), min_count=0).as_py())


def _with_column(scores: pd.DataFrame, name: str, table: pd.DataFrame | None, column: str) -> pd.DataFrame:
    """Return the rows of ``scores`` that are ok in ``table`` too, with its ``column`` as column ``name``."""
    if table is None:
        raise ValueError(f"the method reads column {column} of a table that is not given")
    values = table[table["status"] == "ok"].set_index("id")[column]
    kept = scores[scores["id"].isin(values.index)]
    return kept.assign(**{name: kept["id"].map(values)})
