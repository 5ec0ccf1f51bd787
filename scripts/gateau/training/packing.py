"""Reads token tables and packs sequences into micro-batches.

A micro-batch is a row of sequences, one after the other. Positions restart at 0 in each sequence, and every target has
a weight.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from gateau.formats import IGNORED
from gateau.schemas import TOKENS
from gateau.tables import open_table

_OPEN_GROUPS = 16


class TokenRow(NamedTuple):
    """A sequence of a token table.

    Attributes:
        input_ids: int32 ``[n_tokens]``.
        labels: int32 ``[n_tokens]``.
        pieces: int32, the number of tokens of each piece.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    pieces: np.ndarray

    @classmethod
    def whole(cls, input_ids: np.ndarray, labels: np.ndarray) -> TokenRow:
        """Return a sequence of one piece."""
        return cls(input_ids, labels, np.array([len(input_ids)], np.int32))


@dataclass(frozen=True)
class PackedBatch:
    """n pieces with T tokens and K targets in all, packed into one row without padding.

    A sequence has one piece, or several if the chat format renders each turn of a conversation in its own way.

    Attributes:
        input_ids: int64 ``[1, T]``.
        position_ids: int64 ``[1, T]``, from 0 in each piece.
        piece_starts: int32 ``[n + 1]``, cumulative lengths.
        target_places: int64 ``[K]``; the hidden state at position ``target_places[k]`` predicts ``targets[k]``.
        targets: int64 ``[K]``.
        weights: float32 ``[K]``; ``weights[k]`` is 1 / (number of targets in its sequence), so that the weighted losses
            add up to the sum over sequences of their mean token loss.
        lengths: tokens of each piece; empty in a filler batch, which only keeps the ranks in step.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    piece_starts: torch.Tensor
    target_places: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    lengths: tuple[int, ...]

    def to(self, device: torch.device) -> PackedBatch:
        """Return the same batch on another device."""
        tensors: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **tensors)


def pack(sequences: Sequence[TokenRow]) -> PackedBatch:
    """Pack sequences into one batch.

    Without any sequence, the result is a filler batch: one token without targets. A rank without sequences runs it to
    stay in step with the other ranks.
    """
    lengths = [length for _, _, pieces in sequences for length in pieces]
    places: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    start = 0
    for ids, labels, _ in sequences:
        learnt = np.flatnonzero(labels[1:] != IGNORED)
        places.append(start + learnt)  # position t predicts the label at t + 1
        targets.append(labels[1:][learnt])
        weights.append(np.full(len(learnt), 1 / max(len(learnt), 1), np.float32))
        start += len(ids)
    ids = np.concatenate([ids for ids, _, _ in sequences]) if sequences else np.zeros(1, np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths or [1]])
    return PackedBatch(
        input_ids=torch.from_numpy(ids.astype(np.int64))[None],
        position_ids=torch.from_numpy(positions)[None],
        piece_starts=torch.from_numpy(np.cumsum([0, *(lengths or [1])]).astype(np.int32)),
        target_places=torch.from_numpy(_joined(places, np.int64)),
        targets=torch.from_numpy(_joined(targets, np.int64)),
        weights=torch.from_numpy(_joined(weights, np.float32)),
        lengths=tuple(map(int, lengths)),
    )


def _joined(parts: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype)


class TokenReader:
    """Reads single rows of a token table and keeps the row groups used last in memory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open_table(path, TOKENS)
        sizes = [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._groups: OrderedDict[int, Any] = OrderedDict()

    def read(self, row: int) -> TokenRow:
        """Return a row of the table."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group not in self._groups:
            self._groups[group] = self._file.read_row_group(group, columns=list(TokenRow._fields))
            while len(self._groups) > _OPEN_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        table, place = self._groups[group], row - int(self._starts[group])
        return TokenRow(*(table.column(name)[place].values.to_numpy() for name in TokenRow._fields))


class MixtureReader:
    """Packs rows of a mixture from the token tables of its sources."""

    def __init__(self, mixture: Sequence[Mapping[str, Any]], tokens: Mapping[str, str | os.PathLike[str]]) -> None:
        self._rows = mixture
        self._readers = {source: TokenReader(path) for source, path in tokens.items()}

    def batch(self, sequences: Sequence[int]) -> PackedBatch:
        """Return a packed batch of these rows of the mixture, in this order."""
        rows = (self._rows[number] for number in sequences)
        return pack([self._readers[row["source"]].read(row["row"]) for row in rows])

    def sizes(self, sequences: Sequence[int]) -> list[tuple[int, int]]:
        """Return the numbers of tokens and of targets of these rows of the mixture."""
        rows = (self._rows[number] for number in sequences)
        return [(row["n_tokens"], row["n_targets"]) for row in rows]
