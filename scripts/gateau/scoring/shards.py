"""Runs one pass over one shard: computes the samples that are not stored yet and writes the results of the shard."""

from __future__ import annotations

import bisect
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from gateau.errors import ScoreError
from gateau.prompts import EncodedSample, PromptEncoder
from gateau.schemas import INDEX, shard_schema
from gateau.scoring.ahead import made_ahead
from gateau.scoring.store import ProgressStore
from gateau.tables import open_table, write_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gateau.scoring.passes import ScoringPass
    from gateau.scoring.segments import Chosen

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Encoded = tuple[str, str, EncodedSample]  # id, digest and sample
_COMPUTED = ("ok", "no_context")
_TEXTS = ["id", "context", "instruction", "response", "digest"]
_AHEAD = 4  # encoded samples, about 36 bytes a token each


def score_shard(
    scoring_pass: ScoringPass,
    index: Sequence[Row],
    samples: SampleReader,
    encoder: PromptEncoder,
    max_length: int,
    store: ProgressStore,
    load_model: Callable[[], PreTrainedModel],
    output: str,
    watch: Callable[[Iterable[Encoded], int], Iterable[Encoded]],
) -> None:
    """Score one shard and write its results to ``output``, in the order of ``index``.

    Only samples that are not in ``store`` are computed. If none is missing, ``load_model`` is not called. Results with
    a number that is not finite are not stored, so that a rerun computes them again; their status is ``non_finite``.

    While the model computes, a thread reads and encodes the next samples, and another one writes to ``store``. The log
    tells which share of the time the model computed.

    Args:
        scoring_pass: the pass to run.
        index: the shard's rows of the index, or those of :meth:`gateau.scoring.segments.Screen.apply`.
        samples: reader of the sample table.
        encoder: encoder of the prompts.
        max_length: maximum tokens of a whole sequence; the start of longer contexts is cut off.
        store: the progress store of this pass and these settings.
        load_model: loads the model.
        output: Parquet file to write.
        watch: wraps an iterable of a given length and reports progress.

    Raises:
        ScoreError: if the device runs out of memory. The message names the sample and the settings to lower.
    """
    shard = Shard(scoring_pass.name, scoring_pass.schema, scoring_pass.fits, index, samples, store)
    shard.report()
    if shard.missing:
        model, computing, started = load_model(), 0.0, time.perf_counter()
        encoded = _encoded(samples.read(shard.missing), encoder, max_length)
        with store, made_ahead(encoded, _AHEAD) as ahead:
            for row_id, _, sample in watch(ahead, len(shard.missing)):
                began = time.perf_counter()
                result = _compute(shard.pass_of(scoring_pass, row_id), model, sample, row_id)
                computing += time.perf_counter() - began
                if _is_finite(result):
                    store.add(shard.keys[row_id], result)
                else:
                    logger.warning("non-finite result for sample %s (%d tokens)", row_id, sample.n_tokens)
                    shard.statuses[row_id] = "non_finite"
        seconds = time.perf_counter() - started
        share = 100 * computing / seconds
        logger.info("%s: %.1f s without loading; the model computed %.1f %% of it", scoring_pass.name, seconds, share)
    shard.write(output)


def _encoded(texts: Iterable[Row], encoder: PromptEncoder, max_length: int) -> Iterator[Encoded]:
    """Yield id, digest and encoded sample of each row."""
    for text in texts:
        (sample,) = encoder.encode([text["context"]], [text["instruction"]], [text["response"]])
        yield text["id"], text["digest"], sample.truncated(max_length)


def index_of_shard(path: str, shard: int) -> list[Row]:
    """Return the rows of index.parquet that a shard scores."""
    with open_table(path, INDEX) as file:
        groups = (file.read_row_group(group) for group in range(file.num_row_groups))
        return [row for group in groups for row in group.filter(pc.equal(group["shard"], shard)).to_pylist()]


class Shard:
    """The samples of one shard: which of them the store has, and the table of its results.

    Attributes:
        statuses: status of every sample by id.
        keys: key of every sample in the store, by id.
        missing: row numbers, in the sample table, of the samples that have to be computed.
    """

    def __init__(
        self,
        name: str,
        schema: pa.Schema,
        fits: Callable[[int], bool],
        index: Sequence[Row],
        samples: SampleReader,
        store: ProgressStore,
    ) -> None:
        self._schema, self._index, self._store = schema, index, store
        self._chosen: dict[str, Chosen] = {row["id"]: row["chosen"] for row in index if "chosen" in row}
        digests = samples.digests([row["row"] for row in index])
        self.keys = {row["id"]: self._key(row["id"], digest) for row, digest in zip(index, digests, strict=True)}
        self.statuses = {row["id"]: _status(row, fits) for row in index}
        computable = [row for row in index if self.statuses[row["id"]] in _COMPUTED]
        self.missing = [row["row"] for row in computable if self.keys[row["id"]] not in store]
        self._report = (
            f"{name}: {len(index)} samples, {len(computable) - len(self.missing)} found in {store.directory}, "
            f"{len(self.missing)} to compute"
        )

    def _key(self, row_id: str, digest: str) -> str:
        """Return the key of a sample: the digest of its content, and how segments were chosen if not all are read."""
        return f"{digest} {self._chosen[row_id].about}" if row_id in self._chosen else digest

    def pass_of(self, scoring_pass: ScoringPass, row_id: str) -> ScoringPass:
        """Return the pass for one sample, which may read some of its segments only."""
        if row_id not in self._chosen:
            return scoring_pass
        return replace(scoring_pass, weights=self._chosen[row_id].weights)  # type: ignore[type-var]

    def report(self) -> None:
        """Log how many samples are stored and how many are missing."""
        logger.info(self._report)

    def write(self, output: str) -> None:
        """Write the results of all samples, in the order of the index."""
        write_rows(output, shard_schema(self._schema), self._rows(), row_group_size=32)

    def _rows(self) -> Iterator[Row]:
        empty = dict.fromkeys(self._schema.names)
        for row in self._index:
            status = self.statuses[row["id"]]
            result = next(iter(self._store.get([self.keys[row["id"]]]))) if status in _COMPUTED else empty
            yield {"id": row["id"], "status": status, **result}


def _status(row: Row, fits: Callable[[int], bool]) -> str:
    n_frame = row["n_tokens"] - row["n_context"]
    status: str = row["status"]
    return "too_long" if status in _COMPUTED and not fits(n_frame) else status


def _compute(scoring_pass: ScoringPass, model: PreTrainedModel, sample: EncodedSample, sample_id: str) -> Row:
    import torch

    try:
        return scoring_pass.compute(model, sample)
    except torch.OutOfMemoryError as error:
        raise ScoreError(
            f"{scoring_pass.name}: sample {sample_id} ({sample.n_tokens} tokens) exceeds the device memory ({error}); "
            "use a larger GPU or raise scoring.gpus_per_job (finished samples are kept), or use bfloat16 with "
            "flash-attn or lower scoring.max_length (all samples are computed again)"
        ) from error


def _is_finite(result: Row) -> bool:
    """Tell whether no number of the result is infinite or NaN."""
    columns = (value if isinstance(value, list) else [value] for value in result.values())
    return all(math.isfinite(number) for column in columns for number in column if number is not None)


class SampleReader:
    """Random access to rows of the sample table. Only the row groups that contain the rows are read."""

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        with open_table(path, schema) as file:
            sizes = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
            self._ends = list(itertools.accumulate(sizes))

    def read(self, rows: Sequence[int]) -> Iterator[Row]:
        """Yield id, texts and digest of the given rows, in the given order. Reading in file order is fastest."""
        yield from self._read(rows, _TEXTS)

    def digests(self, rows: Sequence[int]) -> list[str]:
        """Return the content digests of the given rows."""
        return [row["digest"] for row in self._read(rows, ["digest"])]

    def _read(self, rows: Sequence[int], columns: list[str]) -> Iterator[Row]:
        loaded, table = -1, None
        with open_table(self._path, self._schema) as file:
            for row in rows:
                group = bisect.bisect_right(self._ends, row)
                if group != loaded:
                    loaded, table = group, file.read_row_group(group, columns=columns)
                assert table is not None
                yield table.slice(row - self._ends[group] + len(table), 1).to_pylist()[0]
