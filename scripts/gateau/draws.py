"""Which rows an experiment takes: seeded draws of held-out rows, random selections and short chats, and their number.

Rows are ordered by a seeded digest of their ids. A draw therefore does not depend on the order of files, a larger draw
contains the smaller one, and draws for different purposes are independent of each other.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateau.errors import DataError
from gateau.methods import UNRANKED


@dataclass(frozen=True)
class MixtureOptions:
    """An experiment's ``method``, ``n_long`` (None: all) and ``n_short``, and the common ``held_out`` and ``seed``.

    :func:`wanted_rows` reads ``n_long``.
    """

    method: str
    n_long: int | Mapping[str, float] | None
    n_short: int
    held_out: int
    seed: int


def long_ids(
    experiment: str,
    options: MixtureOptions,
    samples: Collection[str],
    ranked: Sequence[str] | None,
    tokens: Mapping[str, int],
) -> list[str]:
    """Return the ids of the long samples that an experiment selects, in the order in which they are taken.

    Args:
        experiment: its name, for messages.
        options: what it asks for.
        samples: ids of all long samples.
        ranked: ids that rule selection selected, for a method that ranks (unless ``n_long`` is 0).
        tokens: tokens by sample id, read only where ``n_long`` is a number of tokens. A sample without any counts as
            none.

    Raises:
        DataError: the experiment asks for more rows than exist.
    """
    if options.n_long == 0:
        return []
    if options.method not in UNRANKED:
        if ranked is None:
            raise ValueError(f"method {options.method} needs a ranking")
        return list(ranked)
    samples = list(samples)
    held_out = set(held_out_ids("long", samples, options.held_out, options.seed))
    order = seeded_order("random", samples, options.seed) if options.method == "random" else range(len(samples))
    ids = [samples[place] for place in order if samples[place] not in held_out]
    wanted = wanted_rows(options.n_long, len(samples), (tokens.get(row_id, 0) for row_id in ids))
    if wanted is not None and wanted > len(ids):
        raise DataError(
            f"experiment {experiment} asks for {wanted} long samples (n_long), but only {len(ids)} can be "
            f"selected ({len(samples)} samples, {len(held_out)} of them held out); lower n_long or add data"
        )
    return ids[:wanted]


def short_ids(experiment: str, options: MixtureOptions, chats: Collection[str]) -> list[str]:
    """Return the ids of the short chats that an experiment trains on, in the order in which they are drawn.

    Args:
        experiment: its name, for messages.
        options: what it asks for.
        chats: ids of all short chats with tokens.

    Raises:
        DataError: the experiment asks for more chats than can be used.
    """
    chats = list(chats)
    held_out = set(held_out_ids("short", chats, options.held_out, options.seed))
    left = [chats[place] for place in seeded_order("short", chats, options.seed) if chats[place] not in held_out]
    if options.n_short > len(left):
        raise DataError(
            f"experiment {experiment} asks for {options.n_short} short chats (n_short), but only {len(left)} of "
            f"data.short can be used ({len(held_out)} are held out); lower n_short or add data"
        )
    return left[: options.n_short]


def seeded_order(purpose: str, ids: Sequence[str], seed: int) -> list[int]:
    """Return the places of all ids in a seeded order, a different one for each purpose."""
    keys = [_key(purpose, row_id, seed) for row_id in ids]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _key(purpose: str, row_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{purpose}:{row_id}".encode()).digest()


def held_out_ids(source: str, ids: Collection[str], count: int, seed: int) -> list[str]:
    """Return the ids that no experiment trains on, in the order in which they are drawn.

    Args:
        source: long or short.
        ids: of all rows of this source.
        count: how many are held out, ``mixture.held_out``.
        seed: of the draw, ``mixture.seed``.

    Raises:
        DataError: no row would be left.
    """
    if count >= len(ids) > 0:
        raise DataError(f"mixture.held_out is {count}, but there are only {len(ids)} {source} rows; lower it")
    return heapq.nsmallest(count, ids, key=lambda row_id: _key(f"held_out:{source}", row_id, seed))


def wanted_rows(n_long: int | Mapping[str, float] | None, n_samples: int, tokens: Iterable[float]) -> int | None:
    """Return how many rows ``n_long`` stands for; None stands for all that may be taken.

    Args:
        n_long: a number, ``{"share"}`` of all samples, or ``{"tokens"}``: as many rows as have so many tokens at most.
        n_samples: number of all samples.
        tokens: tokens of the rows that may be taken, in the order in which they are taken.

    Raises:
        DataError: the rows have fewer tokens in all, or the first one alone has more.
    """
    if not isinstance(n_long, Mapping):
        return n_long
    if "share" in n_long:
        return max(round(n_long["share"] * n_samples), 1)
    budget, total, count = n_long["tokens"], 0.0, 0
    for count, own in enumerate(tokens):
        total += own
        if total > budget:
            if count == 0:
                raise DataError(f"n_long is {budget} tokens, but the first row alone has {own:.0f}; raise it")
            return count
    if total < budget:
        raise DataError(f"n_long is {budget} tokens, but all rows together have {total:.0f}; lower it or add data")
    return count + 1
