"""All samples of a run as one table, and what every experiment makes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gateau.methods import METHODS
from gateau.report_page.results import Results
from gateau.schemas import INDEX, PARTS, RANKING, SAMPLES, SCORES
from gateau.selection.selected import is_selectable

_LENGTHS = ["n_context", "n_instruction", "n_response", "truncated_tokens"]
STATES = ("selected", "not selected", "near duplicate", "held out", "screened out", "not ranked")


@dataclass(frozen=True)
class Part:
    """One part of the scores of an experiment, by sample id: what was measured, and the same after its norm."""

    name: str
    weight: float
    value: pd.Series
    normed: pd.Series


@dataclass(frozen=True)
class Ranked:
    """An experiment with a ranking.

    Attributes:
        name: of the experiment.
        method: its method.
        about: what the method does, in words.
        summary: summary.json of rule ``selection``.
        table: rank, score, hmp, cas, duplicate_of, cluster, held_out and state, by sample id, best first.
        parts: of the scores; empty if the results were made before parts were stored.
    """

    name: str
    method: str
    about: str
    summary: Mapping[str, Any]
    table: pd.DataFrame
    parts: list[Part]

    @property
    def selected(self) -> int:
        """Return how many samples are selected."""
        return int((self.table["state"] == "selected").sum())


def read_pool(results: Results) -> pd.DataFrame | None:
    """Return one row per sample, by id: where it comes from, lengths, status and mean NLLs; None without samples.

    Columns of stages that have not run are missing.
    """
    samples = results.table("samples/samples.parquet", SAMPLES, ["id", "file", "line", "dataset"])
    if samples is None:
        return None
    pool = samples.set_index("id")
    numbers = ["nll_short", "nll_long", "nll_instruction_only", "cas"]
    scores = results.table("scores/scores.parquet", SCORES, ["id", "status", *_LENGTHS, *numbers])
    if scores is None:
        scores = results.table("index/index.parquet", INDEX, ["id", "status", *_LENGTHS])
    if scores is not None:
        pool = pool.join(scores.set_index("id"))
        pool["tokens"] = pool[["n_context", "n_instruction", "n_response"]].sum(axis=1)
    return pool


def read_rankings(results: Results, ids: Collection[str] | None = None) -> list[Ranked]:
    """Return all experiments that have a ranking and a summary, sorted by name.

    A ranking of other samples than ``ids`` is that of an earlier run, and is left out.
    """
    found = []
    for name in results.experiments("selection"):
        columns = ["id", "rank", "score", "hmp", "cas", "method", "duplicate_of", "cluster", "held_out"]
        ranking = results.table(f"selection/{name}/ranking.parquet", RANKING, columns)
        summary = results.json(f"selection/{name}/summary.json")
        if ranking is None or summary is None or not results.has_samples(f"selection/{name}", ranking["id"], ids):
            continue
        table = ranking.sort_values("rank").set_index("id")
        table["state"] = _states(table, int(summary["selected"]))
        method = str(summary["method"])
        about = METHODS[method].about if method in METHODS else ""
        found.append(Ranked(name, method, about, summary, table, _parts(results, name)))
    return found


def _states(table: pd.DataFrame, selected: int) -> pd.Series:
    """Return a word of :data:`STATES` for each row of a ranking."""
    selectable = is_selectable(table)
    taken = selectable & (selectable.cumsum() <= selected)
    state = np.select(
        [taken, table["held_out"], table["duplicate_of"].notna(), table["score"].isna()],
        ["selected", "held out", "near duplicate", "screened out"],
        "not selected",
    )  # fmt: skip
    return pd.Series(state, index=table.index)


def _parts(results: Results, name: str) -> list[Part]:
    rows = results.table(f"selection/{name}/parts.parquet", PARTS, ["id", "part", "value", "normed", "weight"])
    if rows is None:
        return []
    return [
        Part(str(part), float(group["weight"].iloc[0]), *(group.set_index("id")[one] for one in ("value", "normed")))
        for part, group in rows.groupby("part", sort=False)
    ]
