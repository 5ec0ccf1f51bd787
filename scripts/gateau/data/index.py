"""The index: how long each sample is in tokens, whether it can be scored, and which shard scores it.

Shards are balanced by estimated cost, longest first (the classic LPT rule), and exist only as a column: every shard
job reads the one sample table at the rows that the index names.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gateau.prompts import EncodedSample, PromptEncoder
from gateau.schemas import SAMPLES
from gateau.tables import open_table
from gateau.work import forward_cost

_SEGMENT = 128


def sample_cost(sample: EncodedSample) -> float:
    """Two passes over the whole sequence and one over each 128-token segment with question and response."""
    n_segments = -(-len(sample.context) // _SEGMENT)
    return 2 * forward_cost(sample.n_tokens) + n_segments * forward_cost(_SEGMENT + sample.n_frame)


def index_rows(samples_path: str, encoder: PromptEncoder, max_length: int, shards: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of :data:`gateau.schemas.INDEX` in the order of the sample table.

    Texts are read and tokenized one row group at a time; only the numbers are kept.
    """
    rows = list(_measure(samples_path, encoder, max_length))
    for row, shard in zip(rows, assign_shards([row["cost"] for row in rows], shards), strict=True):
        yield {**row, "shard": shard}


def _measure(samples_path: str, encoder: PromptEncoder, max_length: int) -> Iterator[dict[str, Any]]:
    number = 0
    with open_table(samples_path, SAMPLES) as file:
        for group in range(file.num_row_groups):
            texts = file.read_row_group(group, columns=["id", "context", "instruction", "response"]).to_pydict()
            samples = encoder.encode(texts["context"], texts["instruction"], texts["response"])
            instructions = encoder.count_tokens(texts["instruction"])
            for row_id, sample, n_instruction in zip(texts["id"], samples, instructions, strict=True):
                yield {"id": row_id, "row": number, "n_instruction": n_instruction, **_lengths(sample, max_length)}
                number += 1


def _lengths(sample: EncodedSample, max_length: int) -> dict[str, Any]:
    status = "ok" if sample.context else "no_context"
    if not sample.response:
        status = "no_response"
    elif not sample.fits(max_length):
        status = "too_long"
    else:
        sample = sample.truncated(max_length)
        if status == "ok" and not sample.context:
            status = "too_long"
    return {
        "status": status,
        "n_context": len(sample.context),
        "n_response": len(sample.response),
        "n_tokens": sample.n_tokens,
        "truncated_tokens": sample.truncated_tokens,
        "cost": sample_cost(sample) if status in ("ok", "no_context") else 0.0,
    }


def assign_shards(costs: Sequence[float], shards: int) -> list[int]:
    """Longest processing time first: each sample, costliest first, goes to the least loaded shard. Deterministic."""
    loads = [(0.0, shard) for shard in range(shards)]
    assignment = [0] * len(costs)
    for position in np.argsort(-np.asarray(costs), kind="stable"):
        load, shard = heapq.heappop(loads)
        assignment[position] = shard
        heapq.heappush(loads, (load + costs[position], shard))
    return assignment
