"""What a ranking is compared with: the data set label and the length of each sample."""

from __future__ import annotations

import os

import pandas as pd

from gateau.schemas import SAMPLES
from gateau.tables import open_table


def read_labels(samples: str | os.PathLike[str]) -> pd.Series:
    """Return the data set label by sample id, None for a row without one. Only these two columns are read."""
    with open_table(samples, SAMPLES) as file:
        table = file.read(columns=["id", "dataset"]).combine_chunks()  # there are as many chunks as row groups
    return pd.Series(table["dataset"].to_pandas().array, table["id"].to_pandas(), name="dataset")


def total_tokens(scores: pd.DataFrame) -> pd.Series:
    """Return the tokens of context, instruction and response together, for rows of :data:`gateau.schemas.SCORES`."""
    return scores[["n_context", "n_instruction", "n_response"]].sum(axis=1)


def uncut_tokens(scores: pd.DataFrame) -> pd.Series:
    """Return the same with the tokens that were cut before scoring, which a training may read."""
    return total_tokens(scores) + scores["truncated_tokens"]
