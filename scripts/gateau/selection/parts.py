"""The parts of a score: every method returns its terms by name, so that a result can show how its score adds up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from gateau.selection.norms import Array


@dataclass(frozen=True)
class Part:
    """One term of a score, for all samples at once.

    Attributes:
        name: what a reader calls it.
        values: what was measured, float ``[rows]``.
        normed: the same after its norm over the data set, float ``[rows]``; ``values`` themselves without a norm.
        weight: factor of ``normed`` in the score.
    """

    name: str
    values: Array
    normed: Array
    weight: float = 1.0


def only(name: str, values: Array) -> list[Part]:
    """Return the parts of a score that is one number without a norm."""
    return [Part(name, values, values)]


def total(parts: Sequence[Part]) -> Array:
    """Return the score, float ``[rows]``: the sum of all parts, each times its weight."""
    score: Array = sum((part.weight * part.normed for part in parts[1:]), start=parts[0].weight * parts[0].normed)
    return score


def parts_frames(ids: pd.Series, parts: Sequence[Part], together: int = 1024) -> Iterator[pd.DataFrame]:
    """Yield :func:`parts_frame` of ``together`` samples at a time."""
    for start in range(0, len(ids), together):
        some = slice(start, start + together)
        yield parts_frame(
            ids.iloc[some].tolist(),
            [replace(part, values=part.values[some], normed=part.normed[some]) for part in parts],
        )


def parts_frame(ids: Sequence[str], parts: Sequence[Part]) -> pd.DataFrame:
    """Return rows of :data:`gateau.schemas.PARTS`, sample by sample.

    Args:
        ids: of the samples, in the order of the parts' values.
        parts: of one method.
    """
    names, weights = [part.name for part in parts], [part.weight for part in parts]
    return pd.DataFrame(
        {
            "id": np.repeat(np.asarray(ids, dtype=object), len(parts)),
            "part": np.tile(np.asarray(names, dtype=object), len(ids)),
            "value": np.stack([part.values for part in parts], axis=1).ravel(),
            "normed": np.stack([part.normed for part in parts], axis=1).ravel(),
            "weight": np.tile(np.asarray(weights, dtype=np.float64), len(ids)),
        }
    )
