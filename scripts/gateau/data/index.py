"""The index: the length of each sample in tokens, whether it can be scored, and the shard that scores it.

Shards are balanced by estimated cost with the LPT rule (longest processing time first; Graham 1969, "Bounds on
Multiprocessing Timing Anomalies"). A shard is only a column of the index: every shard job reads its rows from the one
sample table.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gateau.prompts import EncodedSample, PromptEncoder
from gateau.schemas import INDEX, SAMPLES
from gateau.tables import open_table
from gateau.work import forward_cost

_SEGMENT = 128


def sample_cost(sample: EncodedSample) -> float:
    """Estimate the cost of scoring a sample, in floating point operations of a 7B decoder.

    The estimate counts two passes over the whole sequence (short and long pass), and one pass over each segment of 128
    context tokens together with the prompt's other tokens and the response (segment pass).
    """
    n_segments = -(-len(sample.context) // _SEGMENT)
    return 2 * forward_cost(sample.n_tokens) + n_segments * forward_cost(_SEGMENT + sample.n_frame)


def index_rows(samples_path: str, encoder: PromptEncoder, max_length: int, shards: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of :data:`gateau.schemas.INDEX` in the order of the sample table.

    Texts are read and tokenized one row group at a time, and only the numbers stay in memory.

    Args:
        samples_path: the sample table.
        encoder: the prompt encoder with the tokenizer that counts.
        max_length: maximum tokens of a whole sequence; the start of longer contexts is cut off.
        shards: number of shards.
    """
    schema = INDEX.remove(INDEX.get_field_index("shard"))
    measured = _measure_samples(samples_path, encoder, max_length)
    tables = [schema.empty_table()]
    while rows := list(itertools.islice(measured, 1024)):
        tables.append(pa.Table.from_pylist(rows, schema=schema))  # a tenth of the memory of the rows
    assigned = iter(assign_shards(pa.concat_tables(tables)["cost"].to_numpy(), shards))
    for table in tables:
        yield from ({**row, "shard": next(assigned)} for row in table.to_pylist())


def _measure_samples(samples_path: str, encoder: PromptEncoder, max_length: int) -> Iterator[dict[str, Any]]:
    """Yield all columns of the index except ``shard``."""
    number = 0
    with open_table(samples_path, SAMPLES) as file:
        for group in range(file.num_row_groups):
            texts = file.read_row_group(group, columns=["id", "context", "instruction", "response"]).to_pydict()
            samples = encoder.encode(texts["context"], texts["instruction"], texts["response"])
            instructions = encoder.count_tokens(texts["instruction"])
            for row_id, sample, n_instruction in zip(texts["id"], samples, instructions, strict=True):
                yield {
                    "id": row_id,
                    "row": number,
                    "n_instruction": n_instruction,
                    **_status_and_lengths(sample, max_length),
                }
                number += 1


def _status_and_lengths(sample: EncodedSample, max_length: int) -> dict[str, Any]:
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


def assign_shards(costs: Sequence[float] | NDArray[np.float64], shards: int) -> list[int]:
    """Assign each sample to a shard with the LPT rule and return the shard of each sample.

    Samples are taken in order of decreasing cost, and each goes to the shard with the least work so far. Equal costs
    keep their order, so the result is deterministic.
    """
    loads = [(0.0, shard) for shard in range(shards)]
    assignment = [0] * len(costs)
    for position in np.argsort(-np.asarray(costs), kind="stable"):
        load, shard = heapq.heappop(loads)
        assignment[position] = shard
        heapq.heappush(loads, (load + costs[position], shard))
    return assignment
