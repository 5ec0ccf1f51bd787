"""What an experiment trains on: the selected long samples, some short chats, and rows held out from every experiment.

The selection decides which long samples are trained on: exactly those that it selected, minus those that rule tokens
rejects. Rejected samples are counted and never replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gateau.draws import MixtureOptions, held_out_ids, long_ids, short_ids
from gateau.errors import DataError

_SHOWN = 10


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
    tokens = dict(zip(long["id"], long["n_tokens"], strict=True))
    selected = long_ids(experiment, options, samples, ranked, tokens)
    place = {row_id: number for number, row_id in enumerate(long["id"])}
    trained, rejected = _split(selected, place)
    held_places, held_rejected = _split(held_long, place)
    chats = [] if short is None else short["id"].tolist()
    chat_place = {row_id: number for number, row_id in enumerate(chats)}
    short_places, _ = _split(short_ids(experiment, options, chats), chat_place)
    held_short, _ = _split(held_out_ids("short", chats, options.held_out, options.seed), chat_place)
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


def _split(ids: Sequence[str], place: dict[str, int]) -> tuple[list[int], list[str]]:
    """Return the places of the ids that have tokens, and the ids that have none."""
    return [place[row_id] for row_id in ids if row_id in place], [row_id for row_id in ids if row_id not in place]


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
