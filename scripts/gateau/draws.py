"""Seeded draws of rows: held-out rows, random selections, short chats.

Rows are ordered by a seeded digest of their ids. A draw therefore does not depend on the order of files, a larger draw
contains the smaller one, and draws for different purposes are independent of each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gateau.errors import DataError


def seeded_order(purpose: str, ids: Sequence[str], seed: int) -> list[int]:
    """Return the places of all ids in a seeded order, a different one for each purpose."""
    keys = [hashlib.sha256(f"{seed}:{purpose}:{row_id}".encode()).digest() for row_id in ids]
    return sorted(range(len(keys)), key=keys.__getitem__)


def held_out_ids(source: str, ids: Sequence[str], count: int, seed: int) -> list[str]:
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
    return [ids[place] for place in seeded_order(f"held_out:{source}", ids, seed)[:count]]
