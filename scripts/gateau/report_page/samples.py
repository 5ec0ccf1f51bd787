"""What the explorer shows: which samples are points, which are embedded in full, and everything about the latter."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gateau.report_page.numbers import rounded, rounded_list
from gateau.report_page.pool import Ranked
from gateau.report_page.results import Results
from gateau.report_page.texts import Divider
from gateau.schemas import SAMPLES, SCORES
from gateau.selection.awareness import IMPORTANCE, evidence_of_segments, weighted_median

MOST_POINTS = 4000
_EACH = 50  # best, worst, around the cut, and drawn
_MOST_BYTES = 10_500_000  # of all embedded samples
_FULL_SEGMENTS = 64  # contexts with more keep the text of their telling segments only
_TELLING = 8
_MOST_CHARACTERS = 6000  # of a segment, an instruction or a response
_TEXTS = ["context", "instruction", "response"]
_LISTS = ["token_nll_short", "token_nll_long", "segment_nll", "segment_weight", "segment_attention"]

Array = NDArray[np.float64]


def interesting_ids(rankings: Sequence[Ranked], pool: pd.DataFrame, asked: Sequence[str], seed: int = 0) -> list[str]:
    """Return the ids that are worth embedding, the most telling first, each once.

    These are the samples that were asked for by name, then by turns the best and the worst 50 of every experiment, 50
    around its cut, and 50 drawn with a seed.
    """
    lists = []
    for ranked in rankings:
        ids = ranked.table.index.tolist()
        states = ranked.table["state"].to_numpy()
        cut = int(np.flatnonzero(states == "selected")[-1]) + 1 if ranked.selected else 0
        lists += [ids[:_EACH], ids[::-1][:_EACH], ids[max(cut - _EACH // 2, 0) : cut + _EACH // 2]]
    drawn = pool.index.to_series().sample(min(_EACH, len(pool)), random_state=seed).tolist()
    turns = (one for turn in zip_longest(*lists, drawn) for one in turn if one is not None)
    return list(dict.fromkeys([*asked, *turns]))


def point_ids(pool: pd.DataFrame, embedded: Sequence[str], most: int = MOST_POINTS, seed: int = 0) -> list[str]:
    """Return the ids that become points: the embedded ones, and a seeded draw of the others up to ``most``."""
    rest = pool.index.difference(pd.Index(embedded), sort=False).to_series()
    drawn = rest.sample(max(min(most - len(embedded), len(rest)), 0), random_state=seed)
    return [*embedded, *drawn.tolist()]


def points(pool: pd.DataFrame, ids: Sequence[str]) -> dict[str, Any]:
    """Return columns of the points, by name, as JSON-ready lists; text columns as codes with their names."""
    rows = pool.loc[list(ids)]
    found: dict[str, Any] = {"id": list(ids)}
    for name in ("dataset", "status"):
        if name in rows:
            codes, names = pd.factorize(rows[name].fillna("(none)"), sort=True)
            found[name] = {"codes": codes.tolist(), "names": names.tolist()}
    for name in ("tokens", "n_context", "n_response", "truncated_tokens", "nll_short", "nll_long", "cas"):
        if name in rows:
            found[name] = rounded_list(rows[name])
    return found


def experiment_columns(ranked: Ranked, ids: Sequence[str], states: Sequence[str]) -> dict[str, Any]:
    """Return an experiment's description and its columns for these ids. A sample without a rank has null."""
    rows = ranked.table.reindex(list(ids))
    codes = {state: code for code, state in enumerate(states)}
    clusters = rows["cluster"].notna().any()
    return {
        "name": ranked.name,
        "method": ranked.method,
        "about": ranked.about,
        "ranked": len(ranked.table),
        "selected": ranked.selected,
        "rank": rounded_list(rows["rank"]),
        "score": rounded_list(rows["score"]),
        "hmp": rounded_list(rows["hmp"]),
        "cas": rounded_list(rows["cas"]),
        "state": [codes[state] for state in rows["state"].fillna("not ranked")],
        "cluster": rounded_list(rows["cluster"]) if clusters else None,
        "parts": [
            {
                "name": part.name,
                "weight": part.weight,
                "value": rounded_list(part.value.reindex(rows.index)),
                "normed": rounded_list(part.normed.reindex(rows.index)),
                "below": rounded_list(part.value.rank(pct=True, method="average").reindex(rows.index)),
            }
            for part in ranked.parts
        ],
    }


def details(
    results: Results, pool: pd.DataFrame, rankings: Sequence[Ranked], ids: Sequence[str], divider: Divider,
    config: Mapping[str, Any], page: Path,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Return everything about the first of ``ids`` that fit into the page, by id.

    Args:
        results: the results folder.
        pool: of :func:`gateau.report_page.pool.read_pool`.
        rankings: of :func:`gateau.report_page.pool.read_rankings`.
        ids: the most telling first.
        divider: of texts.
        config: the configuration of the run, or an empty mapping.
        page: where the page will be, for the links to raw files.
    """
    wanted = set(ids)
    lists = {row["id"]: row for row in results.rows("scores/scores.parquet", SCORES, _LISTS, wanted)}
    length = config.get("cam", {}).get("segment_length")
    importance = config.get("selection", {}).get("importance", "softmax_neg_ppl")
    texts = {row["id"]: row for row in results.rows("samples/samples.parquet", SAMPLES, _TEXTS, wanted)}
    rows = pool.loc[list(ids)].to_dict("index")
    repeats = _near_duplicates(rankings, wanted)
    kept: dict[str, dict[str, Any]] = {}
    size = 0
    for sample in [one for one in ids if one in texts]:
        one, row, numbers = rows[sample], texts.pop(sample), lists.pop(sample, None)
        kept[sample] = {
            "file": str(one["file"]),
            "href": _href(str(one["file"]), page),
            "line": int(one["line"]),
            "duplicates": repeats.get(sample, []),
            "instruction": _shortened(row["instruction"]),
            **_response(row["response"], numbers, divider),
            **_context(row["context"], one, numbers, divider, length, importance),
        }
        size += len(json.dumps(kept[sample], ensure_ascii=False).encode())
        if size > _MOST_BYTES:
            del kept[sample]
            break
    return kept


def far_contributions(segment_nll: Sequence[float], segment_weight: Sequence[float] | None = None) -> Array:
    """Return what each segment adds to :func:`gateau.selection.awareness.far_evidence`, float ``[segments]``."""
    evidence = evidence_of_segments(segment_nll, segment_weight)
    if not evidence.max() > 0:
        return np.zeros_like(evidence)
    weights = (evidence / evidence.max()) ** 2
    distance = 1 - (np.arange(len(evidence)) + 0.5) / len(evidence)
    found: Array = weights * distance / max(weights.sum(), 1.0) * -np.expm1(-evidence.max())
    return found


def _response(text: str, scores: Mapping[str, Any] | None, divider: Divider) -> dict[str, Any]:
    short, long = ((scores or {}).get(name) for name in ("token_nll_short", "token_nll_long"))
    if short is None or long is None or len(short) != len(long):
        return {"response": _shortened(text)}
    divided = divider.tokens(text, len(long))
    kept = next(
        (n for n, size in enumerate(np.cumsum([len(one) for one in divided.pieces])) if size > _MOST_CHARACTERS), None
    )
    found: dict[str, Any] = {
        "short": rounded_list(short[:kept]),
        "long": rounded_list(long[:kept]),
        "n_tokens": len(long),
    }
    return {**found, "tokens": divided.pieces[:kept]} if divided.exact else {**found, "response": _shortened(text)}


def _context(
    text: str, sample: Mapping[Any, Any], scores: Mapping[str, Any] | None, divider: Divider, length: int | None,
    importance: str,
) -> dict[str, Any]:  # fmt: skip
    names = ("segment_nll", "segment_attention", "segment_weight")
    nll, attention, share = ((scores or {}).get(name) for name in names)
    if nll is None or attention is None or not len(nll):
        return {"context": _shortened(text)}
    was_read = np.ones(len(nll), dtype=bool) if share is None else np.asarray(share) > 0
    values = np.where(was_read, np.asarray(nll, dtype=np.float64), np.inf)  # so that the others have no importance
    weights, far = IMPORTANCE[importance](values), far_contributions(nll, share)
    tokens = length or -(-int(sample["n_context"]) // len(nll))
    divided = divider.segments(text, int(sample["truncated_tokens"]), int(sample["n_context"]), tokens)
    pieces: list[str | None] = [_shortened(piece) for piece in divided.pieces]
    if len(pieces) > _FULL_SEGMENTS:
        telling = {0, len(pieces) - 1}
        for numbers in (np.asarray(attention), weights, far):
            telling |= set(np.argsort(-numbers)[:_TELLING].tolist())
        pieces = [piece if number in telling else None for number, piece in enumerate(pieces)]
    return {
        "segments": pieces if len(pieces) == len(nll) else [None] * len(nll),
        "exact": divided.exact,
        "nll": rounded_list(nll),
        "attention": rounded_list(attention),
        "importance": rounded_list(np.where(was_read, weights, np.nan)),
        "far": rounded_list(np.where(was_read, far, np.nan)),
        "median": rounded(float(weighted_median(values, was_read if share is None else share))),
        "left_out": int(sample["truncated_tokens"]),
    }


def _near_duplicates(rankings: Sequence[Ranked], wanted: set[str]) -> dict[str, list[str]]:
    """Return the near duplicates of these samples, as any experiment found them."""
    found: dict[str, dict[str, None]] = {}
    for ranked in rankings:
        for one, other in ranked.table["duplicate_of"].dropna().items():
            for first, second in ((str(one), str(other)), (str(other), str(one))):
                if first in wanted:
                    found.setdefault(first, {})[second] = None
    return {one: list(others)[:20] for one, others in found.items()}


def _href(file: str, page: Path) -> str:
    """Return the path of a raw file as a link from the page."""
    return Path(os.path.relpath(file, page.parent)).as_posix()


def _shortened(text: str) -> str:
    """Return a text whose middle is left out if it is very long."""
    half = _MOST_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return text if left_out <= 0 else f"{text[:half]}\n… {left_out:,} characters left out …\n{text[-half:]}"
