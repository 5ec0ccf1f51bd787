"""The overview: the funnel from rows to selections, warnings in words, models, settings and measured times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from gateau.data.intake import SPARED
from gateau.report_page.numbers import duration, percent
from gateau.report_page.pool import Ranked
from gateau.report_page.results import Results
from gateau.schemas import RANKED_STATUSES, SCREENED_OUT

_MANY = 0.1  # share from which on near duplicates or truncated samples are worth a warning
_SHOWN = 3  # warnings of one kind
_FOLLOWS = 0.5  # Spearman's correlation with length from which on a score is said to follow length
_AFTERWARDS = ("manifest", "provenance", "report_page")  # rules that may run after the page, so it cannot count them
_ROLES = {
    "short": "θ_S, the model with the short window", "long": "θ_L, the model with the long window",
    "non_homologous": "a model in θ_S's place", "base": "the model to fine-tune", "embedder": "embeds texts",
    "reward": "gives rewards",
}  # fmt: skip


def funnel(
    intake: Mapping[str, Any] | None, pool: pd.DataFrame | None, rankings: Sequence[Ranked]
) -> list[dict[str, Any]]:
    """Return the steps from raw rows to selections, each with label, count, kind and a remark.

    Kinds are "kept", "lost" and "selected". Steps of stages that have not run are missing.
    """
    steps: list[dict[str, Any]] = []

    def step(label: str, count: int, kind: str, remark: str = "") -> None:
        steps.append({"label": label, "count": int(count), "kind": kind, "remark": remark})

    if intake:
        step("rows read", intake["rows"], "kept")
        for reason, count in sorted(intake["rejected_by_reason"].items(), key=lambda one: -one[1]):
            step(f"rejected: {reason}", count, "lost", "listed with file and line in samples/rejects.jsonl")
        step("samples", intake["samples"], "kept")
    if pool is not None and "status" in pool:
        scored = "nll_long" in pool
        for status, count in pool["status"].value_counts().sort_index().items():
            if status not in RANKED_STATUSES:
                step(f"status {status}", int(count), "lost", "not ranked")
        out = int((pool["status"] == SCREENED_OUT).sum())
        remark = f"{out:,} screened out: without the segment pass" if out else ""
        step("scored" if scored else "can be scored", int(pool["status"].isin(RANKED_STATUSES).sum()), "kept", remark)
    for ranked in rankings:
        states = ranked.table["state"].value_counts()
        remark = ", ".join(
            f"{states[name]:,} {words}"
            for name, words in (
                ("near duplicate", "near duplicates left out"),
                ("held out", "held out"),
                ("screened out", "without a score, ranked last"),
            )
            if states.get(name)
        )
        step(f"{ranked.name}: ranked", len(ranked.table), "kept", remark)
        step(f"{ranked.name}: selected", ranked.selected, "selected", ranked.method)
    return steps


def warnings(
    pool: pd.DataFrame | None, rankings: Sequence[Ranked], intake: Mapping[str, Any] | None
) -> list[dict[str, str]]:
    """Return what a reader should know before using the selections: what is the case, and what to do."""
    found = [*_of_rows(pool, intake)]
    for ranked in rankings:
        found += _of_ranking(ranked)
    by_advice: dict[str, list[str]] = {}
    for what, do in found:
        by_advice.setdefault(do, []).append(what)
    return [{"what": _few(whats), "do": do} for do, whats in by_advice.items()]


def _few(whats: Sequence[str]) -> str:
    """Return the first sentences; of many experiments, the others are only counted."""
    more = len(whats) - _SHOWN
    return " ".join([*whats[:_SHOWN], *([f"{more} more experiments do so, too."] if more > 0 else [])])


def _of_rows(pool: pd.DataFrame | None, intake: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    reasons = intake["rejected_by_reason"] if intake else {}
    broken = sum(count for reason, count in reasons.items() if reason not in SPARED)
    if intake and broken > _MANY * intake["rows"]:
        yield (
            f"{percent(broken / intake['rows'])} of the rows were rejected ({broken:,} of {intake['rows']:,}).",
            "Read samples/rejects.jsonl, which names file, line and reason, and correct the data.",
        )
    if pool is None or "status" not in pool:
        return
    n, counts = len(pool), pool["status"].value_counts()
    if counts.get("non_finite"):
        yield (
            f"{counts['non_finite']:,} samples have scores that are NaN or infinite, and are not ranked.",
            "Set scoring.dtype to bfloat16 or float32, and check that the model works at this length.",
        )
    if counts.get("no_context"):
        yield (
            f"{counts['no_context']:,} of {n:,} samples have no context, and are not ranked.",
            "A context is the text before the last blank line of the user turn; data.split can change this.",
        )
    if counts.get("too_long"):
        yield (
            f"{counts['too_long']:,} samples are not ranked, because instruction and response alone are too long.",
            "Raise scoring.max_length if the model's window allows it.",
        )
    cut = int((pool["truncated_tokens"] > 0).sum())
    if cut > _MANY * n:
        yield (
            f"The context of {cut:,} samples ({percent(cut / n)}) was cut from the left to fit scoring.max_length.",
            "What was cut has no scores. Raise scoring.max_length, or use a model with a longer window.",
        )


def _of_ranking(ranked: Ranked) -> Iterator[tuple[str, str]]:
    follows = ranked.summary.get("spearman_with_length")
    if follows is not None and abs(follows) >= _FOLLOWS and len(ranked.table) > 10:
        longer = "long" if follows > 0 else "short"
        yield (
            f"The score of {ranked.name} follows length (Spearman {follows:+.2f}): it prefers {longer} samples.",
            "Compare it with an experiment of method length or gateau_robust, which compares rows of similar length.",
        )
    repeats = int(ranked.summary.get("near_duplicates") or 0)
    if repeats > _MANY * len(ranked.table):
        yield (
            f"{ranked.name} leaves out {repeats:,} near duplicates, {percent(repeats / len(ranked.table))} of all.",
            "The pool repeats itself. Look at some pairs in the explorer, and remove the cause from the data.",
        )
    without = int(ranked.table.loc[ranked.table["state"] == "selected", "score"].isna().sum())
    if without:
        yield (
            f"{ranked.name} selects {without:,} samples without a score, which scoring.screen left out.",
            "Their order is that of HMP alone. Raise scoring.screen, or lower n_long.",
        )
    selectable = int(ranked.table["state"].isin(["selected", "not selected", "screened out"]).sum())
    if selectable and ranked.selected > 0.8 * selectable:
        yield (
            f"{ranked.name} selects {percent(ranked.selected / selectable)} of the samples that it could select.",
            "So large a share depends little on the ranking. Lower n_long, or add data.",
        )


def times(results: Results) -> list[dict[str, Any]]:
    """Return the measured time and the largest memory of each rule, the longest first."""
    found = []
    for folder in results.folders("benchmarks"):
        if folder in _AFTERWARDS:
            continue
        tables = [
            results.csv(path.relative_to(results.folder).as_posix())
            for path in results.files(f"benchmarks/{folder}/**/*.tsv")
        ]
        jobs = [table for table in tables if table is not None]
        if not jobs:
            continue
        rows = pd.concat(jobs)
        memory = pd.to_numeric(rows["max_rss"], errors="coerce").max()
        seconds = float(pd.to_numeric(rows["s"], errors="coerce").sum())
        found.append(
            {"rule": folder, "jobs": len(rows), "seconds": round(seconds, 1), "time": duration(seconds),
             "memory_gb": None if pd.isna(memory) else round(float(memory) / 1e3, 2)}
        )  # fmt: skip
    return sorted(found, key=lambda one: -one["seconds"])


def models(manifests: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return role, meaning, path and digest of the weights of each model of the run."""
    prints = {role: print_ for manifest in manifests for role, print_ in manifest["models"].items()}
    found = []
    for role, section in (config.get("models") or {}).items():
        if not section:
            continue
        path = section if isinstance(section, str) else str(section.get("path"))
        digest = str((prints.get(role) or {}).get("weights") or "")
        found.append({"role": role, "meaning": _ROLES.get(role, ""), "path": path, "weights": digest[:12]})
    return found


def settings(config: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return these sections of the configuration as dotted keys with their values."""

    def flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield from flat(inner, f"{name}.{key}")
        else:
            yield name, "null" if value is None else str(value)

    return [pair for name in names if name in config for pair in flat(config[name], name)]
