"""Which samples an experiment selects, with their ranks, read from the files of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from gateau.draws import MixtureOptions, long_ids
from gateau.files import read_json
from gateau.schemas import RANKING, TOKENS
from gateau.selection.selected import selected_ids
from gateau.tables import open_table


@dataclass(frozen=True)
class Choice:
    """The selected ids in the order in which they are taken, and columns id, rank and score if there is a ranking."""

    ids: list[str]
    ranking: pd.DataFrame | None


def chosen_samples(
    experiment: str,
    options: MixtureOptions,
    samples: Sequence[str],
    ranking: str | None,
    summary: str | None,
    tokens: str | None,
) -> Choice:
    """Return what an experiment selects, whether it ranks or not.

    Args:
        experiment: its name, for messages.
        options: what it asks for.
        samples: ids of all samples.
        ranking: ranking.parquet, for an experiment that ranks.
        summary: summary.json beside it.
        tokens: long.parquet of rule tokens, for an experiment without a ranking whose ``n_long`` is a number of tokens.

    Raises:
        DataError: the experiment asks for more rows than exist.
    """
    if ranking is not None and summary is not None:
        table = read_columns(ranking, RANKING, ["id", "rank", "score", "duplicate_of", "held_out"])
        ids = selected_ids(table, read_json(summary)["selected"])
        return Choice(long_ids(experiment, options, samples, ids, {}), table[["id", "rank", "score"]])
    counted: dict[str, int] = {}
    if tokens is not None:
        lengths = read_columns(tokens, TOKENS, ["id", "n_tokens"])
        counted = dict(zip(lengths["id"], lengths["n_tokens"], strict=True))
    return Choice(long_ids(experiment, options, samples, None, counted), None)


def read_columns(path: str, schema: pa.Schema, names: list[str]) -> pd.DataFrame:
    """Return some columns of a table."""
    with open_table(path, schema) as file:
        return pd.DataFrame(file.read(columns=names).to_pandas())
