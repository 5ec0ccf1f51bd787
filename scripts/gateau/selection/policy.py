"""The policy of a selection: rank, hold out rows, mark near duplicates, put the best of each cluster first, cut.

Held-out rows are drawn here, before anything is selected, so that an experiment trains on what it selected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pandas as pd

from gateau.draws import held_out_ids, wanted_rows
from gateau.errors import SettingsError
from gateau.methods import METHODS
from gateau.selection.clusters import best_of_each_first, clusters_by_id
from gateau.selection.fusion import SelectionOptions
from gateau.selection.labelled import total_tokens, uncut_tokens
from gateau.selection.near_duplicates import duplicates_of
from gateau.selection.quality import comparable_scores, quality_by_label, spearman
from gateau.selection.ranking import Scored, ranked, score_samples
from gateau.selection.selected import is_selectable, selected_ids
from gateau.tables import places_of


@dataclass(frozen=True)
class Policy:
    """The options of one experiment's selection.

    Attributes:
        method: a name in :data:`gateau.methods.METHODS`.
        n_long: how many samples are selected, as :func:`gateau.draws.wanted_rows` reads it; None: all that may be.
        held_out: how many samples are kept from all trainings.
        seed: of the draw of held-out samples.
        near_duplicates: Jaccard index from which on two texts count as the same; None keeps near duplicates.
        per_cluster: how many samples of each cluster come first; None ranks by the score alone.
        clusters: number of clusters; None: √(n/2).
        formula: the options of GATEAU's formula.
    """

    method: str
    n_long: int | Mapping[str, float] | None = None
    held_out: int = 0
    seed: int = 0
    near_duplicates: float | None = None
    per_cluster: int | None = None
    clusters: int | None = None
    formula: SelectionOptions = field(default_factory=SelectionOptions)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Policy:
        """Return the policy of :meth:`gateau.experiments.Experiment.selection_options`.

        Raises:
            SettingsError: an option of the formula has a value that does not exist.
        """
        own = {one.name for one in fields(cls)} - {"formula"}
        formula = {name: value for name, value in options.items() if name not in own}
        return cls(**{name: options[name] for name in own & options.keys()}, formula=SelectionOptions(**formula))


@dataclass(frozen=True)
class Tables:
    """What a policy reads.

    Attributes:
        samples: ids of all samples, ranked or not, from which the held-out ones are drawn.
        scores: rows of :data:`gateau.schemas.SCORES`.
        contrast: rows of :data:`gateau.schemas.CONTRAST`, for a method that names a contrast.
        rewards: rows of :data:`gateau.schemas.REWARDS`, for a method that reads rewards.
        signatures: MinHash signature, uint32 ``[128]``, by id, for a policy with near_duplicates.
        embeddings: float ``[d]`` by id, for a policy with per_cluster.
    """

    samples: Collection[str]
    scores: pd.DataFrame
    contrast: pd.DataFrame | None = None
    rewards: pd.DataFrame | None = None
    signatures: pd.Series | None = None
    embeddings: pd.Series | None = None


@dataclass(frozen=True)
class Selection:
    """The outcome of a selection.

    Attributes:
        ranking: with all columns of :data:`gateau.schemas.RANKING`, best first.
        ids: the selected ids, best first.
        scored: the parts of every score.
    """

    ranking: pd.DataFrame
    ids: list[str]
    scored: Scored


def select(policy: Policy, tables: Tables) -> Selection:
    """Rank the samples and select the best of them.

    Raises:
        DataError: all samples would be held out, or ``n_long`` asks for more tokens than they have.
        ScoreError: no sample can be ranked, or a score is not finite.
        SettingsError: the method does not exist, or ``n_long`` is larger than the number of samples that can be
            selected, or than that of samples that have a score.
    """
    scored = score_samples(tables.scores, policy.formula, policy.method, tables.contrast, tables.rewards)
    ranking = ranked(scored, policy.formula, policy.method)
    ids = ranking["id"]
    ranking["held_out"] = ids.isin(held_out_ids("long", tables.samples, policy.held_out, policy.seed))
    repeats: dict[str, str] = {}
    if policy.near_duplicates:
        signatures = _needed(tables.signatures, "near_duplicates needs signatures")
        repeats = duplicates_of(ids.tolist(), signatures.loc[ids], policy.near_duplicates)
    ranking["duplicate_of"] = ids.map(repeats).astype(object).where(ids.isin(repeats), None) if repeats else None
    ranking["cluster"] = None
    if policy.per_cluster:
        embeddings = _needed(tables.embeddings, "per_cluster needs embeddings")
        ranking["cluster"] = ids.map(clusters_by_id(embeddings.loc[ids], policy.clusters))
        ranking = best_of_each_first(ranking, policy.per_cluster)
    tokens: Iterable[float] = ()
    if isinstance(policy.n_long, Mapping) and "tokens" in policy.n_long:
        tokens = uncut_tokens(tables.scores).iloc[places_of(ranking["id"][is_selectable(ranking)], tables.scores["id"])]
    count = wanted_rows(policy.n_long, len(tables.samples), tokens)
    chosen = selected_ids(ranking, count)
    if count is not None:
        _check_screen(ranking, chosen)
    return Selection(ranking, chosen, scored)


def _check_screen(ranking: pd.DataFrame, chosen: list[str]) -> None:
    """Raise SettingsError if a chosen sample has no score, because it is screened out."""
    without = set(ranking.loc[ranking["score"].isna(), "id"]) & set(chosen)
    if without:
        raise SettingsError(
            f"n_long selects {len(chosen)} samples, and {len(without)} of them have no score, because scoring.screen "
            "leaves them out of the segment pass; raise scoring.screen or lower n_long"
        )


def _needed(table: pd.Series | None, message: str) -> pd.Series:
    if table is None:
        raise ValueError(message)
    return table


def summarise(
    experiment: str, policy: Policy, tables: Tables, selection: Selection, labels: pd.Series
) -> dict[str, Any]:
    """Return a JSON-ready summary: options, counts, correlation with length, and quality by label.

    Args:
        experiment: its name.
        policy: what was asked for.
        tables: what :func:`select` read.
        selection: what it returned.
        labels: data set label by sample id.
    """
    ranking, scores = selection.ranking, tables.scores
    lengths = total_tokens(scores).iloc[places_of(ranking["id"], scores["id"])]
    further = {"contrast": tables.contrast, "rewards": tables.rewards}
    formula = asdict(policy.formula)
    return {
        "experiment": experiment,
        "method": policy.method,
        "options": {
            **{name: formula[name] for name in METHODS[policy.method].reads},
            "near_duplicates": policy.near_duplicates,
            "per_cluster": policy.per_cluster,
        },
        "samples_by_status": _counts(scores["status"]),
        **{f"{name}_by_status": _counts(table["status"]) for name, table in further.items() if table is not None},
        "ranked": len(ranking),
        "held_out": int(ranking["held_out"].sum()),
        "near_duplicates": int(ranking["duplicate_of"].notna().sum()),
        "clusters": ranking["cluster"].nunique(),
        "clusters_selected_from": ranking.loc[ranking["id"].isin(selection.ids), "cluster"].nunique(),
        "selected": len(selection.ids),
        "spearman_with_length": spearman(comparable_scores(ranking), lengths.to_numpy(dtype=float)),
        "by_dataset": quality_by_label(ranking, labels),
    }


def _counts(status: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in status.value_counts().sort_index().items()}
