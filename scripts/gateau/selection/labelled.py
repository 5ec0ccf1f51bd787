"""What a ranking is compared with: the data set label and the length of each sample."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gateau.schemas import SAMPLES
from gateau.tables import open_table


def read_labels(samples: str | os.PathLike[str]) -> pd.Series:
    """Return the data set label by sample id, None for a row without one. Only these two columns are read."""
    with open_table(samples, SAMPLES) as file:
        table = file.read(columns=["id", "dataset"]).combine_chunks()  # there are as many chunks as row groups
    return pd.Series(table["dataset"].to_pandas().array, table["id"].to_pandas(), name="dataset")


def places_of(ids: Iterable[str], among: Iterable[str], together: int = 2**18) -> NDArray[np.int64]:
    """Return the place of each id among others, -1 for one that is not there.

    Strings stay in Arrow's columns, where an id takes about 24 bytes. As a Python object it takes 70, and in a hash
    table 200. Only ``together`` ids are therefore hashed at a time.
    """
    wanted, given = (pa.array(one, pa.large_string()) for one in (ids, among))
    places = np.full(len(wanted), -1)
    for start in range(0, len(given), together):
        found = pc.fill_null(pc.index_in(wanted, value_set=given.slice(start, together)), -1).to_numpy()
        places[found >= 0] = found[found >= 0] + start
    return places


def total_tokens(scores: pd.DataFrame) -> pd.Series:
    """Return the tokens of context, instruction and response together, for rows of :data:`gateau.schemas.SCORES`."""
    return scores[["n_context", "n_instruction", "n_response"]].sum(axis=1)


def uncut_tokens(scores: pd.DataFrame) -> pd.Series:
    """Return the same with the tokens that were cut before scoring, which a training may read."""
    return total_tokens(scores) + scores["truncated_tokens"]
