"""What an experiment trains on: the selected long samples, some short chats, and rows held out from every experiment.

The selection decides which long samples are trained on: exactly those that it selected, minus those that rule tokens
rejects. Rejected samples are counted and never replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.draws import MixtureOptions, held_out_ids, long_ids, short_ids
from gateau.errors import DataError
from gateau.methods import UNRANKED
from gateau.tables import places_of

_SHOWN = 10


@dataclass(frozen=True)
class Mixture:
    """Rows of schema MIXTURE in order, and a JSON-ready summary."""

    rows: pd.DataFrame
    summary: dict[str, Any]


def mix(
    experiment: str,
    options: MixtureOptions,
    samples: Collection[str],
    long: pd.DataFrame,
    short: pd.DataFrame | None,
    ranked: Sequence[str] | None,
) -> Mixture:
    """Mix the training rows of one experiment.

    Args:
        experiment: its name, for messages and the summary.
        options: what it asks for.
        samples: ids of all long samples, whether they have tokens or not.
        long: columns id, n_tokens and n_targets of every long sample with tokens, in the order of the token table.
        short: the same of the short chats; None without short data.
        ranked: ids that rule selection selected, for a method that ranks (unless ``n_long`` is 0).

    Raises:
        DataError: the experiment asks for more rows than exist, or nothing is left to train on.
    """
    held_long = held_out_ids("long", samples, options.held_out, options.seed)
    by_tokens = isinstance(options.n_long, Mapping) and options.method in UNRANKED
    tokens = dict(zip(long["id"], long["n_tokens"], strict=True)) if by_tokens else {}
    selected = long_ids(experiment, options, samples, ranked, tokens)
    trained, rejected = _split(selected, long["id"])
    held_places, held_rejected = _split(held_long, long["id"])
    chats = pd.Series([], dtype=str) if short is None else short["id"]
    short_places, _ = _split(short_ids(experiment, options, chats), chats)
    held_short, _ = _split(held_out_ids("short", chats, options.held_out, options.seed), chats)
    if not len(trained) and not len(short_places):
        raise DataError(
            f"experiment {experiment} has nothing to train on: {len(selected)} long samples are selected, "
            f"{len(rejected)} of them rejected by rule tokens, and n_short is 0; raise n_long or n_short"
        )
    tables = [
        _rows("long", long, trained, "train"),
        _rows("short", short, short_places, "train"),
        _rows("long", long, held_places, "held_out"),
        _rows("short", short, held_short, "held_out"),
    ]
    rows = pd.concat([table for table in tables if table is not None], ignore_index=True)
    train = rows[rows["split"] == "train"]
    summary = {
        "experiment": experiment,
        "selected": len(selected),
        "long": len(trained),
        "rejected_by_tokens": len(rejected),
        "first_rejected": rejected[:_SHOWN],
        "short": len(short_places),
        "held_out": len(rows) - len(train),
        "held_out_rejected_by_tokens": len(held_rejected),
        "tokens": int(train["n_tokens"].sum()),
        "targets": int(train["n_targets"].sum()),
        "longest": int(train["n_tokens"].max()),
    }
    return Mixture(rows, summary)


def _split(ids: Sequence[str], among: pd.Series) -> tuple[NDArray[Any], list[str]]:
    """Return the places of the ids that have tokens, and the ids that have none."""
    places = places_of(ids, among)
    return places[places >= 0], [ids[number] for number in np.flatnonzero(places < 0).tolist()]


def _rows(source: str, table: pd.DataFrame | None, places: NDArray[Any], split: str) -> pd.DataFrame | None:
    """Return the rows at these places, in the order of the table."""
    if table is None:
        return None
    places = np.sort(places)
    return table.iloc[places].assign(source=source, split=split, row=places)
