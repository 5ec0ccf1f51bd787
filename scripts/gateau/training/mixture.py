"""What an experiment trains on: the selected long samples, some short chats, and rows held out from every experiment.

The selection decides which long samples are trained on: exactly those that it selected, minus those that rule tokens
rejects. Rejected samples are counted and never replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gateau.draws import held_out_ids, seeded_order
from gateau.errors import DataError
from gateau.methods import UNRANKED

_SHOWN = 10


@dataclass(frozen=True)
class MixtureOptions:
    """An experiment's ``method``, ``n_long`` (None: all) and ``n_short``, and the common ``held_out`` and ``seed``."""

    method: str
    n_long: int | None
    n_short: int
    held_out: int
    seed: int


@dataclass(frozen=True)
class Mixture:
    """Rows of schema MIXTURE in order, and a JSON-ready summary."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]


def mix(
    experiment: str,
    options: MixtureOptions,
    samples: Sequence[str],
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
    selected = _selected(experiment, options, samples, set(held_long), ranked)
    place = {row_id: number for number, row_id in enumerate(long["id"])}
    trained, rejected = _split(selected, place)
    held_places, held_rejected = _split(held_long, place)
    short_places, held_short = _short_places(experiment, options, short)
    if not trained and not short_places:
        raise DataError(
            f"experiment {experiment} has nothing to train on: {len(selected)} long samples are selected, "
            f"{len(rejected)} of them rejected by rule tokens, and n_short is 0; raise n_long or n_short"
        )
    rows = [
        *_rows("long", long, sorted(trained), "train"),
        *_rows("short", short, sorted(short_places), "train"),
        *_rows("long", long, sorted(held_places), "held_out"),
        *_rows("short", short, sorted(held_short), "held_out"),
    ]
    train = [row for row in rows if row["split"] == "train"]
    summary = {
        "experiment": experiment,
        "selected": len(selected),
        "long": len(trained),
        "rejected_by_tokens": len(rejected),
        "first_rejected": rejected[:_SHOWN],
        "short": len(short_places),
        "held_out": len(rows) - len(train),
        "held_out_rejected_by_tokens": len(held_rejected),
        "tokens": sum(row["n_tokens"] for row in train),
        "targets": sum(row["n_targets"] for row in train),
        "longest": max(row["n_tokens"] for row in train),
    }
    return Mixture(rows, summary)


def _selected(
    experiment: str,
    options: MixtureOptions,
    samples: Sequence[str],
    held_out: set[str],
    ranked: Sequence[str] | None,
) -> Sequence[str]:
    """Return the ids of the long samples that the experiment selects, whether they have tokens or not."""
    if options.n_long == 0:
        return []
    if options.method not in UNRANKED:
        if ranked is None:
            raise ValueError(f"method {options.method} needs a ranking")
        return ranked
    order = seeded_order("random", samples, options.seed) if options.method == "random" else range(len(samples))
    ids = [samples[place] for place in order if samples[place] not in held_out]
    if options.n_long is not None and options.n_long > len(ids):
        raise DataError(
            f"experiment {experiment} asks for {options.n_long} long samples (n_long), but only {len(ids)} can be "
            f"selected ({len(samples)} samples, {len(held_out)} of them held out); lower n_long or add data"
        )
    return ids[: options.n_long]


def _split(ids: Sequence[str], place: dict[str, int]) -> tuple[list[int], list[str]]:
    """Return the places of the ids that have tokens, and the ids that have none."""
    return [place[row_id] for row_id in ids if row_id in place], [row_id for row_id in ids if row_id not in place]


def _short_places(experiment: str, options: MixtureOptions, short: pd.DataFrame | None) -> tuple[list[int], list[int]]:
    """Return the places of the short chats that are trained on, and of those that are held out."""
    ids = [] if short is None else short["id"].tolist()
    held_out = set(held_out_ids("short", ids, options.held_out, options.seed))
    left = [place for place in seeded_order("short", ids, options.seed) if ids[place] not in held_out]
    if options.n_short > len(left):
        raise DataError(
            f"experiment {experiment} asks for {options.n_short} short chats (n_short), but only {len(left)} of "
            f"data.short can be used ({len(held_out)} are held out); lower n_short or add data"
        )
    return left[: options.n_short], [place for place, row_id in enumerate(ids) if row_id in held_out]


def _rows(source: str, table: pd.DataFrame | None, places: Sequence[int], split: str) -> Iterator[dict[str, Any]]:
    if table is None:
        return
    chosen = table.iloc[list(places)]
    for place, row_id, n_tokens, n_targets in zip(
        places, chosen["id"], chosen["n_tokens"], chosen["n_targets"], strict=True
    ):
        yield {
            "id": row_id, "source": source, "split": split, "row": place, "n_tokens": int(n_tokens),
            "n_targets": int(n_targets),
        }  # fmt: skip
