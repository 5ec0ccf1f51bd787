"""Screening: of which samples the segment pass reads all segments, by the scores of the short and the long pass.

HMP of log perplexities, compared among samples of similar length, says before the segment pass which samples can reach
a high score. The choice does not depend on any experiment, so that options of a selection rerun the ranking only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from gateau.command import progress
from gateau.schemas import LONG_RESULT, SCREEN, SHORT_RESULT
from gateau.selection.merging import Index, means, side_by_side, worst
from gateau.selection.method_scores import hmp_among_like_lengths
from gateau.selection.norms import Array
from gateau.tables import write_table_stream

_ROWS = 2**16  # of a row group
_UNREAD = tuple(name for name in LONG_RESULT.names if name != "token_nll")


def write_screen(
    index_path: str, short: Sequence[str], long: Sequence[str], share: float, output: str | os.PathLike[str]
) -> tuple[int, int]:
    """Write the table :data:`gateau.schemas.SCREEN`, sorted by id. Return how many samples it admits, and of how many.

    The files are read one row group at a time. Memory holds the index and a few numbers of each sample. Samples that
    cannot be ranked are not counted; their segment pass does not depend on the screen.

    Args:
        index_path: index.parquet.
        short: files of the short pass, in the order of shards.
        long: files of the long pass.
        share: of the samples that can be ranked.
        output: file to write.

    Raises:
        ScoreError: a pass lacks a sample of the index, has one twice, or has one that is not in the index.
    """
    index = Index(index_path)
    nll = {"nll_short": np.full(index.count, np.nan), "nll_long": np.full(index.count, np.nan)}
    is_ok = np.zeros(index.count, dtype=bool)
    for paths in progress(zip(short, long, strict=True), "screen", "shard", len(long)):
        for places, parts in side_by_side(index, paths, (SHORT_RESULT, LONG_RESULT), _UNREAD):
            for values, part in zip(nll.values(), parts, strict=True):
                values[places] = means(part["token_nll"]).to_numpy(zero_copy_only=False)
            known = index.take(places)["status"]
            is_ok[places] = worst([known, *(part["status"] for part in parts)]).to_numpy(zero_copy_only=False) == "ok"
    index.check_complete()
    lengths = index.table.select(["n_context", "n_instruction", "n_response"]).to_pandas()
    hmp = np.full(index.count, np.nan)
    hmp[is_ok] = hmp_among_like_lengths(pd.DataFrame({**nll, **lengths}).loc[is_ok])
    table = index.table.select(["id", "shard"]).append_column("hmp", pa.array(hmp, from_pandas=True)).sort_by("id")
    ordered = table["hmp"].to_numpy()
    admitted = best_share(ordered, share) | np.isnan(ordered)
    table = table.append_column("admitted", pa.array(admitted))
    groups = (table.slice(start, _ROWS).cast(SCREEN) for start in range(0, index.count, _ROWS))
    write_table_stream(output, SCREEN, groups)
    return int((admitted & ~np.isnan(ordered)).sum()), int(is_ok.sum())


def best_share(values: Array, share: float) -> NDArray[np.bool_]:
    """Return whether each value is among the largest ``share`` of those that are known.

    Of equal values, the earlier one is preferred. Of a share above 0, there is at least one if any is known.

    Args:
        values: float ``[n]``; NaN is unknown.
        share: in [0, 1].
    """
    known = int((~np.isnan(values)).sum())
    count = min(max(round(share * known), 1), known) if share else 0
    best = np.argsort(-values, kind="stable")[:count]
    admitted = np.zeros(len(values), dtype=bool)
    admitted[best] = True
    return admitted
