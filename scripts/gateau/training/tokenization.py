"""Tokenization: converts rows of messages to token ids and labels, with over-long rows cut or rejected.

The parent process reads and writes the rows in order, and worker processes encode chunks of rows. The output therefore
does not depend on the number of workers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gateau.boundaries import parted_at_last
from gateau.conversations import Conversation, Turn, UnusableConversation, read_conversation
from gateau.errors import DataError
from gateau.formats import IGNORED, ChatFormat, EncodedConversation, FormatSettings, chat_format, check_offsets
from gateau.schemas import TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A chunk is a task of a worker and a row group of the table. It is large enough to outweigh the cost of sending it to
# the worker, and small enough that a rank of the training can read single rows cheaply.
CHUNK_CHARACTERS, CHUNK_ROWS = 1 << 19, 512
_MAX_CUTS = 8

Row = dict[str, Any]


@dataclass(frozen=True)
class TokensOptions:
    """The settings of the section ``tokens`` that change the tokens of a row.

    Attributes:
        format: chat format.
        max_length: maximum tokens of a sequence.
        over_long: what to do with a longer row, one of :data:`OVER_LONG`.
        settings: settings of the chat format.
    """

    format: str
    max_length: int
    over_long: str
    settings: FormatSettings = field(default_factory=FormatSettings)


@dataclass(frozen=True)
class RejectedRow:
    """A row that is not used for training.

    Attributes:
        id: id of the row.
        file: file of the raw data.
        line: line in this file, from 1.
        reason: a short machine-readable reason.
        advice: what to do about it, for a person.
    """

    id: str
    file: str
    line: int
    reason: str
    advice: str


@dataclass
class TokensReport:
    """Counts over the rows of one source. They are complete once :func:`tokenize_rows` is exhausted.

    Attributes:
        rows: rows read.
        accepted: rows with tokens.
        tokens: tokens of all accepted rows.
        targets: tokens that are learnt.
        longest: tokens of the longest accepted row.
        rejected: number of rejected rows by reason.
        changes: number of accepted rows by the changes made to them, such as truncation.
    """

    rows: int = 0
    accepted: int = 0
    tokens: int = 0
    targets: int = 0
    longest: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """Return all counts as a JSON-ready mapping."""
        return {
            "rows": self.rows,
            "sequences": self.accepted,
            "tokens": self.tokens,
            "targets": self.targets,
            "longest": self.longest,
            "rejected": sum(self.rejected.values()),
            "rejected_by_reason": dict(sorted(self.rejected.items())),
            "changes": dict(sorted(self.changes.items())),
        }


@dataclass(frozen=True)
class _Chunk:
    """The result of a worker for a chunk of rows. Accepted rows are flat arrays, which are cheap to send.

    Attributes:
        ids: id of each accepted row.
        lengths: int64, tokens of each accepted row.
        input_ids: int32, token ids of all accepted rows, one row after the other.
        labels: int32, labels of all accepted rows, one row after the other.
        n_targets: int64, learnt tokens of each accepted row.
        pieces: tokens of each piece of each accepted row.
        rejected: the rejected rows.
        changes: number of accepted rows by the changes made to them.
    """

    ids: list[str]
    lengths: np.ndarray
    input_ids: np.ndarray
    labels: np.ndarray
    n_targets: np.ndarray
    pieces: list[tuple[int, ...]]
    rejected: list[RejectedRow]
    changes: Counter[str]


class RowEncoder:
    """Encodes rows with one tokenizer and one chat format.

    Attributes:
        format: the chat format.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: TokensOptions) -> None:
        """Take a tokenizer and its settings.

        Raises:
            SettingsError: the tokenizer does not support the settings.
        """
        if options.over_long == "truncate_context":
            check_offsets(tokenizer, "tokens.over_long: truncate_context")
        self._tokenizer = tokenizer
        self.format: ChatFormat = chat_format(options.format, tokenizer, options.settings)
        self._options = options

    def encode(self, rows: Sequence[Row]) -> list[EncodedConversation | UnusableConversation]:
        """Return for each row its tokens, at most ``max_length``, or the reason why it cannot be used.

        Raises:
            DataError: if a row is too long and ``over_long`` is ``error``.
        """
        outcomes: list[Any] = [_conversation(row) for row in rows]
        usable = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Conversation)]
        conversations = [outcomes[place] for place in usable]
        for place, encoded in zip(usable, self.format.encode_batch(conversations), strict=True):
            conversation = outcomes[place]
            outcomes[place] = encoded
            if isinstance(encoded, EncodedConversation) and encoded.n_tokens > self._options.max_length:
                try:
                    outcomes[place] = self._shorten(conversation, encoded, rows[place])
                except UnusableConversation as reason:
                    outcomes[place] = reason
        return [_reject_without_targets(outcome) for outcome in outcomes]

    def chunk(self, rows: Sequence[Row]) -> _Chunk:
        """Encode rows as :meth:`encode` does and return the results as a chunk."""
        accepted: list[tuple[str, EncodedConversation]] = []
        rejected: list[RejectedRow] = []
        for row, outcome in zip(rows, self.encode(rows), strict=True):
            if isinstance(outcome, EncodedConversation):
                accepted.append((row["id"], outcome))
            else:
                rejected.append(RejectedRow(row["id"], row["file"], row["line"], outcome.reason, outcome.advice))
        encoded = [outcome for _, outcome in accepted]
        return _Chunk(
            ids=[row_id for row_id, _ in accepted],
            lengths=np.array([one.n_tokens for one in encoded], np.int64),
            input_ids=np.concatenate([one.input_ids for one in encoded] or [np.empty(0, np.int32)]),
            labels=np.concatenate([one.labels for one in encoded] or [np.empty(0, np.int32)]),
            n_targets=np.array([one.n_targets for one in encoded], np.int64),
            pieces=[one.pieces or (one.n_tokens,) for one in encoded],
            rejected=rejected,
            changes=Counter(change for one in encoded for change in one.changes),
        )

    def _shorten(self, conversation: Conversation, encoded: EncodedConversation, row: Row) -> EncodedConversation:
        """Handle a row with too many tokens according to ``over_long``."""
        limit, mode = self._options.max_length, self._options.over_long
        if mode == "error":
            raise DataError(
                f"{row['file']} line {row['line']} (id {row['id']}) has {encoded.n_tokens} tokens, but "
                f"tokens.max_length is {limit}: raise it, or set tokens.over_long to drop, truncate_context or "
                "truncate_right"
            )
        encoded = encoded.last_pieces(limit)
        if encoded.n_tokens <= limit:
            return encoded
        if mode == "drop":
            raise UnusableConversation(
                "too_long",
                f"{encoded.n_tokens} tokens, tokens.max_length is {limit}: raise it or set tokens.over_long to "
                "truncate_context",
            )
        if mode == "truncate_right":
            changes = (*encoded.changes, "truncated_right")
            return EncodedConversation(encoded.input_ids[:limit], encoded.labels[:limit], changes, (limit,))
        shorter = conversation
        for _ in range(_MAX_CUTS):  # tokens may merge differently at the cut; rarely takes more than two rounds
            shorter = self._cut_context(shorter, encoded.n_tokens - limit)
            encoded = self.format.encode(shorter).last_pieces(limit)
            if encoded.n_tokens <= limit:
                return replace(encoded, changes=(*encoded.changes, "truncated_context"))
        raise UnusableConversation("too_long", "its context cannot be cut to tokens.max_length; mend the row")

    def _cut_context(self, conversation: Conversation, excess: int) -> Conversation:
        """Cut the first ``excess`` tokens of the context of the longest user turn.

        As in scoring, the context is the part before the turn's last blank line. The question after it is not cut.

        Raises:
            UnusableConversation: if the context has too few tokens.
        """
        place = max(range(len(conversation.turns)), key=lambda number: len(conversation.turns[number].user))
        user, assistant = conversation.turns[place].user, conversation.turns[place].assistant
        context = parted_at_last(user.rstrip())[0]
        offsets = self._tokenizer(
            context, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        ).offset_mapping
        if len(offsets) <= excess:
            raise UnusableConversation(
                "too_long",
                "even without the context of its longest user turn it exceeds tokens.max_length: raise it or drop the "
                "row",
            )
        turns = list(conversation.turns)
        turns[place] = Turn(user[offsets[excess][0] :], assistant)
        return replace(conversation, turns=tuple(turns))


def _conversation(row: Row) -> Conversation | UnusableConversation:
    try:
        return read_conversation(json.loads(row["messages"]))
    except UnusableConversation as reason:
        return reason


def _reject_without_targets(
    outcome: EncodedConversation | UnusableConversation,
) -> EncodedConversation | UnusableConversation:
    if isinstance(outcome, EncodedConversation) and outcome.n_targets == 0:
        return UnusableConversation("no_target", "nothing is left to learn once the row is cut; see tokens.over_long")
    return outcome


def tokenize_rows(
    rows: Iterable[Row], encoder: RowEncoder, source: str, report: TokensReport, workers: int
) -> Iterator[tuple[pa.Table, list[RejectedRow]]]:
    """Yield, for each chunk of rows, a table of schema TOKENS and the rejected rows, in order.

    Args:
        rows: id, file, line and messages (JSON) of each row.
        encoder: encodes the rows.
        source: ``long`` or ``short``; a column of the table.
        report: counts to update.
        workers: number of worker processes; 1 encodes in this process.
    """
    for chunk in _encoded_chunks(_chunks(rows), encoder, workers):
        report.rows += len(chunk.ids) + len(chunk.rejected)
        report.accepted += len(chunk.ids)
        report.tokens += int(chunk.lengths.sum())
        report.targets += int(chunk.n_targets.sum())
        report.longest = max(report.longest, int(chunk.lengths.max(initial=0)))
        report.rejected.update(row.reason for row in chunk.rejected)
        report.changes.update(chunk.changes)
        yield _table(chunk, source), chunk.rejected


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += len(row["messages"])
        if characters >= CHUNK_CHARACTERS or len(chunk) >= CHUNK_ROWS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _encoded_chunks(chunks: Iterator[list[Row]], encoder: RowEncoder, workers: int) -> Iterator[_Chunk]:
    if workers == 1:
        yield from map(encoder.chunk, chunks)
        return
    # each worker uses one core; the tokenizer's own threads would compete with the other workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    start = "fork" if sys.platform == "linux" else "spawn"
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context(start), initializer=_set_encoder, initargs=(encoder,)
    ) as pool:
        running: deque[Future[_Chunk]] = deque()
        for chunk in chunks:
            running.append(pool.submit(_encode_chunk, chunk))
            if len(running) >= 3 * workers:  # limits the memory of waiting chunks
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


_encoder: RowEncoder


def _set_encoder(encoder: RowEncoder) -> None:
    global _encoder
    _encoder = encoder


def _encode_chunk(rows: list[Row]) -> _Chunk:
    return _encoder.chunk(rows)


def _table(chunk: _Chunk, source: str) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], np.cumsum(chunk.lengths)]).astype(np.int32))
    columns = {
        "id": pa.array(chunk.ids, pa.string()),
        "source": pa.array([source] * len(chunk.ids), pa.string()),
        "input_ids": pa.ListArray.from_arrays(offsets, pa.array(chunk.input_ids)),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(chunk.labels)),
        "pieces": pa.array(chunk.pieces, pa.list_(pa.int32())),
        "n_tokens": pa.array(chunk.lengths),
        "n_targets": pa.array(chunk.n_targets),
    }
    return pa.table([columns[name] for name in TOKENS.names], schema=TOKENS)


def target_runs(input_ids: Sequence[int], labels: Sequence[int]) -> Iterator[tuple[bool, list[int]]]:
    """Yield runs of consecutive tokens that are all learnt or all not learnt, as (learnt, tokens), for a preview.

    A label can differ from its token, at the end of an answer within a conversation. Such a label is a run of its own,
    before the token.
    """
    run: list[int] = []
    learnt = False
    for token, label in zip(input_ids, labels, strict=True):
        if label not in (IGNORED, token):
            if run:
                yield learnt, run
            yield True, [label]
            run, learnt = [token], False
        elif (label != IGNORED) == learnt:
            run.append(token)
        else:
            if run:
                yield learnt, run
            run, learnt = [token], label != IGNORED
    if run:
        yield learnt, run
