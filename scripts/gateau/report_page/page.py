"""Make the page: read what is in a results folder, and fill the templates. The same results give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from gateau.errors import DataError
from gateau.places import RESOURCES
from gateau.report_page import charts, compare, later, overview
from gateau.report_page.pool import STATES, Ranked, read_pool, read_rankings
from gateau.report_page.results import Results
from gateau.report_page.samples import details, experiment_columns, interesting_ids, point_ids, points
from gateau.report_page.texts import Divider

TEMPLATES = RESOURCES / "report_page"
_LONGEST = 12  # rules in the chart of times; the table has all
_SETTINGS = ("data", "scoring", "cam", "selection", "experiments", "mixture", "plan", "train")


def make_page(folder: Path, page: Path, asked: Sequence[str] = ()) -> str:
    """Return the page of a results folder as HTML.

    Args:
        folder: the results folder, finished or not.
        page: where the page will be, for its links to raw files.
        asked: ids of samples that are embedded in full, whatever their rank.

    Raises:
        DataError: a sample that was asked for does not exist.
    """
    results = Results(folder)
    manifests, config = results.manifests, results.config
    intake = results.json("samples/summary.json")
    pool = read_pool(results)
    known = set() if pool is None else set(pool.index)
    rankings = _in_order(read_rankings(results, None if pool is None else known), config)
    if unknown := [one for one in asked if one not in known]:
        raise DataError(f"{folder}: no sample has the id {unknown[0]!r}; samples/samples.parquet holds all ids")
    steps = overview.funnel(intake, pool, rankings)
    made: dict[str, Any] = {"charts": {}, "explorer": None, "results": folder.as_posix()}
    view: dict[str, Any] = {
        "title": folder.name,
        "steps": steps,
        "warnings": overview.warnings(pool, rankings, intake),
        "times": overview.times(results),
        "models": overview.models(manifests, config),
        "settings": overview.settings(config, _SETTINGS),
        "rankings": rankings,
        "pool": pool,
        "intake": intake,
        "manifests": manifests,
        "divider_note": "",
    }
    if steps:
        made["charts"]["funnel"] = charts.funnel_chart(steps)
    if view["times"]:
        what = f"Bars: measured seconds of all jobs of the {_LONGEST} rules that took longest."
        made["charts"]["times"] = charts.bars(
            view["times"][:_LONGEST], "seconds", "rule", "seconds, all jobs together", what
        )
    if pool is not None and len(pool):
        made["explorer"], view["divider_note"] = _explorer(results, pool, rankings, config, page, asked)
    view["overlap"] = _compare(results, pool, rankings, made["charts"])
    view["trainings"] = _trainings(results, made["charts"])
    view["benchmarks"] = _benchmarks(results, made["charts"])
    view["judging"] = later.judging(results)
    view["evidence"] = _evidence(results, made["charts"])
    view["records"] = later.records(manifests)
    view["notes"] = results.notes
    return render(view, made)


def _in_order(rankings: list[Ranked], config: Mapping[str, Any]) -> list[Ranked]:
    """Return the rankings in the order of the configuration."""
    order = {name: place for place, name in enumerate(config.get("experiments") or {})}
    return sorted(rankings, key=lambda ranked: order.get(ranked.name, len(order)))


def _explorer(
    results: Results, pool: Any, rankings: Sequence[Ranked], config: Mapping[str, Any], page: Path, asked: Sequence[str]
) -> tuple[dict[str, Any], str]:
    """Return the explorer's data, and why texts are not divided exactly, if so."""
    divider = Divider((config.get("models") or {}).get("long"))
    embedded = details(results, pool, rankings, interesting_ids(rankings, pool, asked), divider, config, page)
    ids = point_ids(pool, list(embedded))
    found = {
        "n": len(pool),
        "points": points(pool, ids),
        "states": list(STATES),
        "experiments": [experiment_columns(ranked, ids, STATES) for ranked in rankings],
        "details": embedded,
        "segment_length": (config.get("cam") or {}).get("segment_length"),
    }
    return found, divider.note


def _compare(results: Results, pool: Any, rankings: Sequence[Ranked], made: dict[str, Any]) -> dict[str, Any] | None:
    """Add the charts that compare experiments; return the same numbers for tables, or None without a selection."""
    selections = compare.read_selections(results, rankings, None if pool is None else set(pool.index))
    if pool is None or not selections:
        return None
    names = list(selections)
    found: dict[str, Any] = {"selections": {name: len(ids) for name, ids in selections.items()}}
    if len(names) > 1:
        found["shared"] = compare.overlaps(selections)
        what = "Heatmap: how many selected samples each pair of experiments shares. The colour is their Jaccard index."
        made["shared"] = charts.matrix(found["shared"], "jaccard", "Jaccard index", what, domain=[0, 1], names=names)
    if len(rankings) > 1:
        found["ranks"] = compare.correlations(rankings)
        what = "Heatmap: Spearman's correlation of the ranks of each pair of experiments."
        ranked = [one.name for one in rankings]
        made["ranks"] = charts.matrix(found["ranks"], "spearman", "Spearman", what, domain=[-1, 1], names=ranked)
    if pool["dataset"].notna().any():
        found["shares"] = compare.label_shares(pool, selections)
        what = "Bars: shares of the data sets in all samples and in each selection."
        groups = [compare.POOL, *names]
        made["shares"] = charts.shares(found["shares"], "share of the samples", what, groups)
    found["lengths"] = compare.length_curves(pool, selections)
    if found["lengths"]:
        what = "Curves: the share of samples that have at most so many tokens, for all samples and each selection."
        titles = ("tokens", "share of samples that are not longer")
        made["lengths"] = charts.curves(found["lengths"], "tokens", "share", titles, what)
    return found


def _trainings(results: Results, made: dict[str, Any]) -> dict[str, Any] | None:
    """Add the charts of the trainings; return their tables, or None if none has begun."""
    found = later.trainings(results)
    for kind, rows in (found or {}).get("losses", {}).items():
        what = f"Lines: loss over the optimiser steps of every experiment, {later.LOSSES[kind]}."
        made[f"loss-{kind}"] = charts.curves(rows, "step", "loss", ("optimiser step", "nats per token"), what)
    if found and found["speeds"]:
        what = "Lines: tokens per second over the optimiser steps of every experiment."
        made["speeds"] = charts.curves(found["speeds"], "step", "speed", ("optimiser step", "tokens per second"), what)
    return found


def _benchmarks(results: Results, made: dict[str, Any]) -> list[dict[str, Any]]:
    """Add the charts of all benchmarks; return their tables and examples."""
    found = later.benchmarks(results)
    for number, section in enumerate(found):
        if section["intervals"]:
            what = f"Points with 95 % intervals: {section['measure']} of every model."
            made[f"scores-{number}"] = charts.intervals(section["intervals"], section["measure"], what)
        for place, (model, cells) in enumerate(section["heatmaps"].items()):
            what = f"Heatmap: score of {model} by length of the text and depth of the needle."
            titles = ("length in tokens", "depth in %")
            made[f"heatmap-{number}-{place}"] = charts.heatmap(cells, titles, what, section["best"])
    return found


def _evidence(results: Results, made: dict[str, Any]) -> dict[str, Any]:
    """Add the chart of the labelled comparison; return the tables of all labelled data."""
    found = later.evidence(results)
    if "intervals" in found:
        what = "Points with 95 % intervals: AUROC of every experiment. The dashed line is chance."
        made["aurocs"] = charts.intervals(found["intervals"], "AUROC", what, chance=0.5)
    return found


def render(view: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        view: what the templates show as text.
        made: charts and the explorer's data, which the page's script reads.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template("index.html.j2")
    library = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # without a snippet, it is all of Vega
    return template.render(view, data=as_script(made), library=library.replace("</script", "<\\/script"))


def as_script(value: Any) -> str:
    """Return a value as JSON that can stand in a script element: no text in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
