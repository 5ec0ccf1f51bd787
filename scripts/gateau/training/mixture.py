"""What an experiment trains on: the best long samples, some short chats, and rows held out from every experiment.

Draws are ordered by a seeded digest of each row's id. They therefore do not depend on the order of files, a larger draw
contains the smaller one, and the held-out rows are the same for all experiments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gateau.errors import DataError


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
    long: pd.DataFrame,
    short: pd.DataFrame | None,
    ranking: Sequence[str] | None,
) -> Mixture:
    """Mix the training rows of one experiment.

    Args:
        experiment: its name, for messages and the summary.
        options: what it asks for.
        long: columns id, n_tokens and n_targets of every long row that can be trained on, in the order of the token
            table.
        short: the same of the short chats; None without short data.
        ranking: ids, best first, for a method that ranks (unless ``n_long`` is 0).

    Raises:
        DataError: the experiment asks for more rows than exist.
    """
    held_long, held_short = _held_out("long", long, options), _held_out("short", short, options)
    order, unusable = _long_order(options, long, ranking)
    order = [place for place in order if place not in held_long]
    n_long = len(order) if options.n_long is None else options.n_long
    if n_long > len(order):
        raise DataError(
            f"experiment {experiment} asks for {n_long} long samples (n_long), but only {len(order)} can be used "
            f"({_long_account(long, ranking, unusable, len(held_long))}); lower n_long or add data"
        )
    short_order = [place for place in _drawn("short", short, options.seed) if place not in held_short]
    if options.n_short > len(short_order):
        raise DataError(
            f"experiment {experiment} asks for {options.n_short} short chats (n_short), but data.short has only "
            f"{len(short_order)} that can be used ({len(held_short)} are held out); lower n_short or add data"
        )
    if not n_long and not options.n_short:
        raise DataError(f"experiment {experiment} has neither long samples nor short chats; raise n_long or n_short")
    rows = [
        *_rows("long", long, sorted(order[:n_long]), "train"),
        *_rows("short", short, sorted(short_order[: options.n_short]), "train"),
        *_rows("long", long, sorted(held_long), "held_out"),
        *_rows("short", short, sorted(held_short), "held_out"),
    ]
    train = [row for row in rows if row["split"] == "train"]
    summary = {
        "experiment": experiment,
        "long": n_long,
        "short": options.n_short,
        "held_out": len(rows) - len(train),
        "tokens": sum(row["n_tokens"] for row in train),
        "targets": sum(row["n_targets"] for row in train),
        "longest": max(row["n_tokens"] for row in train),
        "ranked_but_unusable": len(unusable),
        "first_unusable": unusable[:10],
    }
    return Mixture(rows, summary)


def _long_order(
    options: MixtureOptions, long: pd.DataFrame, ranking: Sequence[str] | None
) -> tuple[list[int], list[str]]:
    """Return rows of the long table in the order in which the method takes them, and ranked ids without tokens."""
    if options.n_long == 0 or options.method == "full":
        return list(range(len(long))), []
    if options.method == "random":
        return _drawn("random", long, options.seed), []
    if ranking is None:
        raise ValueError(f"method {options.method} needs a ranking")
    place = {row_id: number for number, row_id in enumerate(long["id"])}
    return [place[row_id] for row_id in ranking if row_id in place], [
        row_id for row_id in ranking if row_id not in place
    ]


def _long_account(long: pd.DataFrame, ranking: Sequence[str] | None, unusable: Sequence[str], n_held: int) -> str:
    counts = f"{len(long)} have tokens, {n_held} of them held out"
    if ranking is not None:
        counts += f"; {len(ranking)} are ranked, {len(unusable)} of them without tokens"
    return counts


def _drawn(purpose: str, table: pd.DataFrame | None, seed: int) -> list[int]:
    """Return all rows in a seeded order, a different one for each purpose."""
    if table is None:
        return []
    keys = [hashlib.sha256(f"{seed}:{purpose}:{row_id}".encode()).digest() for row_id in table["id"]]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _held_out(source: str, table: pd.DataFrame | None, options: MixtureOptions) -> set[int]:
    if table is not None and options.held_out >= len(table) > 0:
        raise DataError(
            f"mixture.held_out is {options.held_out}, but there are only {len(table)} {source} rows; lower it"
        )
    return set(_drawn(f"held_out:{source}", table, options.seed)[: options.held_out])


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
