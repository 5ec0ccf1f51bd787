"""What a ranking is looked at with: each sample's data set label and its length."""

from __future__ import annotations

import os

import pandas as pd

from gateau.schemas import SAMPLES
from gateau.tables import open_table


def read_labels(samples: str | os.PathLike[str]) -> pd.Series:
    """Data set label by sample id; None for a row that had none. Only these two columns are read."""
    with open_table(samples, SAMPLES) as file:
        labels: pd.Series = file.read(columns=["id", "dataset"]).to_pandas().set_index("id")["dataset"]
    return labels


def total_tokens(scores: pd.DataFrame) -> pd.Series:
    """Tokens of context, instruction and response of each row of :data:`gateau.schemas.SCORES`."""
    return scores[["n_context", "n_instruction", "n_response"]].sum(axis=1)
