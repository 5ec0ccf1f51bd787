"""The leaderboard of all models, as CSV, Markdown, HTML and a plot.

There is one table per benchmark, protocol, data and judge, because other numbers cannot be compared. Published numbers
are reference rows in the table of their own protocol, data and judge. A comparison with the baseline resamples the
items of both models together, so that an item that is hard for both models does not count as noise. Items of one
cluster, such as a document, are resampled together.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gateau.errors import DataError
from gateau.evaluation import benchmarks
from gateau.evaluation.results.intervals import Comparison, stratified_difference
from gateau.evaluation.results.measures import OWN_UNIT, Measure, ScoredItem, read_items, read_measures
from gateau.files import read_json
from gateau.reports import GREY, MARKERS, UNKNOWN, colours, decimal, make_figure, markdown_table, save_figure


@dataclass(frozen=True)
class Entry:
    """A measure of a model. ``source`` is "measured", or the publication of a number, which has no interval."""

    model: str
    source: str
    measure: Measure


@dataclass(frozen=True)
class Difference:
    """A model's mean minus the baseline's on the same ``n`` items, with its 95 % interval, in ``unit``.

    Without several ``clusters``, there is neither an interval nor a p-value.
    """

    model: str
    benchmark: str
    protocol: str
    name: str
    unit: str
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    n: int
    clusters: int


Section = tuple[str, str, str, str | None]
Table = tuple[list[str], list[list[str]]]
Items = Mapping[str, Sequence[ScoredItem]]


def section_of(measure: Measure) -> Section:
    """Return what all numbers of one table share: benchmark, protocol, data and judge."""
    return measure.benchmark, measure.protocol, measure.data, measure.judge


def read_entries(folders: Mapping[str, Sequence[str | Path]]) -> tuple[list[Entry], dict[str, list[ScoredItem]]]:
    """Read the measures of all models, and the items of each model.

    Args:
        folders: the folders of each model's scorers, which hold ``scores.json`` and ``items.jsonl``.
    """
    entries: list[Entry] = []
    items: dict[str, list[ScoredItem]] = {}
    for model, places in folders.items():
        for place in map(Path, places):
            entries += [Entry(model, "measured", measure) for measure in read_measures(place / "scores.json")]
            items.setdefault(model, []).extend(read_items(place / "items.jsonl"))
    return entries, items


def published_entries(path: str | Path, evaluated: Iterable[str]) -> list[Entry]:
    """Return the reference rows of the evaluated benchmarks. They have no intervals, because only means were published.

    Args:
        path: JSON with ``source`` and a block for each benchmark that has published scores.
        evaluated: names of the benchmarks.
    """
    table = read_json(path)
    entries = []
    for benchmark in sorted(evaluated):
        published = benchmarks.load(benchmark).published
        if published is None:
            continue
        block = table[benchmark]
        for model, scores in block["scores"].items():
            for name, score, headline in published(scores):
                measure = Measure(
                    benchmark, name, block["protocol"], block["unit"], score, score, score, 0, block["data"],
                    block.get("judge"), headline=headline,
                )  # fmt: skip
                entries.append(Entry(model, table["source"], measure))
    return entries


def compare(entries: Sequence[Entry], items: Items, baseline: str) -> list[Difference]:
    """Compare every model with ``baseline``, for every measure, on the items for which both have a score.

    Raises:
        DataError: the baseline was not evaluated.
    """
    if baseline not in items:
        raise DataError(f"evaluate.baseline: {baseline} is not evaluated; evaluated are {', '.join(items)}")
    own = by_measure(items[baseline])
    differences = []
    for entry in entries:
        if entry.model == baseline or entry.source != "measured":
            continue
        strata, clusters = _strata(entry.measure, own, by_measure(items[entry.model]))
        if strata:
            differences.append(_difference(entry, stratified_difference(strata, clusters=clusters)))
    return differences


def _difference(entry: Entry, found: Comparison) -> Difference:
    measure, interval = entry.measure, found.interval
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Difference(
        entry.model, measure.benchmark, measure.protocol, measure.name, measure.unit,
        found.difference, low, high, found.p_value, found.n, found.clusters,
    )  # fmt: skip


_Key = tuple[str, str, str]


def _strata(
    measure: Measure, own: Mapping[_Key, Any], theirs: Mapping[_Key, Any]
) -> tuple[list[list[float]], list[list[str]]]:
    """Return the differences of paired items, and their clusters.

    There is one list or, for a category of LongBench, one list per data set. Each data set weighs the same in its
    category's mean. Items for which one model has no score are left out.
    """
    names = benchmarks.parts(measure.benchmark, measure.name)
    keys = [(measure.benchmark, measure.protocol, name) for name in names]
    pairs = [(theirs.get(key, {}), own.get(key, {})) for key in keys]
    shared = [(their, our, sorted(their.keys() & our.keys())) for their, our in pairs]
    shared = [(their, our, both) for their, our, both in shared if both]
    differences = [[their[item].score - our[item].score for item in both] for their, our, both in shared]
    return differences, [[our[item].shared for item in both] for _, our, both in shared]


def by_measure(items: Iterable[ScoredItem]) -> dict[_Key, dict[str, ScoredItem]]:
    """Return the items by their id, of each measure by benchmark, protocol and name."""
    found: dict[_Key, dict[str, ScoredItem]] = {}
    for item in items:
        found.setdefault((item.benchmark, item.protocol, item.name), {})[item.item] = item
    return found


def to_csv(entries: Iterable[Entry]) -> str:
    """Return a CSV in long form: one line per model and measure, headline or not."""
    output = io.StringIO()
    columns = ["model", "source", *(field.name for field in fields(Measure))]
    writer = csv.DictWriter(output, columns, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        row = {"model": entry.model, "source": entry.source, **asdict(entry.measure)}
        if entry.source != "measured":
            row |= {"low": "", "high": "", "n": "", "nulls": "", "clusters": ""}
        writer.writerow(row)
    return output.getvalue()


def differences_csv(differences: Iterable[Difference]) -> str:
    """Return a CSV with one line per model and measure."""
    output = io.StringIO()
    writer = csv.DictWriter(output, [field.name for field in fields(Difference)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(difference) for difference in differences)
    return output.getvalue()


def _section_tables(entries: Sequence[Entry], headline: bool) -> list[_Part]:
    tables = []
    shown = [entry for entry in entries if entry.measure.headline == headline]
    for section in dict.fromkeys(section_of(entry.measure) for entry in shown):
        mine = [entry for entry in shown if section_of(entry.measure) == section]
        names = list(dict.fromkeys(entry.measure.name for entry in mine))
        cells = {(entry.model, entry.source, entry.measure.name): entry for entry in mine}
        models = list(dict.fromkeys((entry.model, entry.source) for entry in mine))
        rows = [
            [
                model if source == "measured" else f"{model} (published)",
                *(_cell(cells.get((model, source, name))) for name in names),
            ]
            for model, source in models
        ]
        tables.append(_Part(_title(section, mine), (["model", *names], rows), _notes(mine)))
    return tables


def _notes(entries: Iterable[Entry]) -> list[str]:
    """Return the remarks about measures, each with the models that it is about."""
    about: dict[str, dict[str, None]] = {}
    for entry in entries:
        for note in filter(None, entry.measure.note.split("; ")):
            about.setdefault(note, {})[entry.model] = None
    return [f"{', '.join(models)}: {note}." for note, models in about.items()]


def _title(section: Section, entries: Sequence[Entry]) -> str:
    benchmark, protocol, data, judge = section
    unit = ", ".join(dict.fromkeys(entry.measure.unit for entry in entries))
    title = f"{benchmarks.title(benchmark)}, protocol {protocol}, in {unit}; items: {data}"
    if judge:
        title += f"; judge: {judge}"
    if all(entry.source != "measured" for entry in entries):
        title += "; published only, no model of this run was measured so"
    return title


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return UNKNOWN
    measure = entry.measure
    if entry.source != "measured":
        return decimal(measure.score)
    nulls = f", {measure.nulls} without rating" if measure.nulls else ""
    clusters = f" in {measure.clusters} clusters" if 1 < measure.clusters < measure.n else ""
    n = f"n = {measure.n}{clusters}{nulls}"
    return _with_interval(measure.score, measure.low, measure.high, measure.unit, more=n)


def _with_interval(
    score: float, low: float | None, high: float | None, unit: str, sign: str = "", more: str = ""
) -> str:
    """Return a number with its interval, if it has one.

    A number of unknown unit may be a share from 0 to 1, so it gets more places.
    """
    number = f"{sign}.{4 if unit == OWN_UNIT else 2}f"
    interval = "" if low is None or high is None else f"{low:{number}} to {high:{number}}"
    inside = ", ".join(part for part in (interval, more) if part)
    return f"{score:{number}} ({inside})" if inside else f"{score:{number}}"


def _difference_table(differences: Sequence[Difference]) -> Table:
    columns = ["model", "benchmark", "protocol", "measure", "difference (95 % interval)", "unit", "p", "n"]
    rows = [
        [
            one.model, benchmarks.title(one.benchmark), one.protocol, one.name,
            _with_interval(one.difference, one.low, one.high, one.unit, "+"), one.unit, decimal(one.p_value, 3),
            str(one.n),
        ]
        for one in differences
    ]  # fmt: skip
    return columns, rows


@dataclass(frozen=True)
class _Part:
    """A table of the page under its title, with remarks below it."""

    title: str
    table: Table
    notes: Sequence[str] = ()


def _parts(entries: Sequence[Entry], differences: Sequence[Difference], baseline: str) -> list[_Part]:
    parts = _section_tables(entries, headline=True)
    if differences:
        headlines = {
            (entry.measure.benchmark, entry.measure.protocol, entry.measure.name)
            for entry in entries
            if entry.measure.headline
        }
        shown = [one for one in differences if (one.benchmark, one.protocol, one.name) in headlines]
        parts.append(_Part(f"Against {baseline}: paired bootstrap over the same items", _difference_table(shown)))
    details = _section_tables(entries, headline=False)
    return parts + [replace(part, title=f"In detail: {part.title}") for part in details]


_NOTE = (
    "Each cell: mean (95 % interval, number of items). Intervals are bootstraps over clusters: items that share a "
    "document, a needle or a dialogue. A single cluster has no interval. "
    "Numbers of different tables cannot be compared: their protocol, items or judge differ."
)


def to_markdown(entries: Sequence[Entry], differences: Sequence[Difference], baseline: str) -> str:
    """Return a Markdown page: all tables, under headings that say what their numbers share."""
    lines = ["# Leaderboard", "", _NOTE, ""]
    for part in _parts(entries, differences, baseline):
        lines += [f"## {part.title}", "", markdown_table(*part.table, numbers=()), ""]
        lines += [text for note in part.notes for text in (note, "")]
    return "\n".join([*lines, *_sources(entries)])


def _sources(entries: Iterable[Entry]) -> list[str]:
    sources = dict.fromkeys(entry.source for entry in entries if entry.source != "measured")
    return [f"Published numbers: {source}." for source in sources] + [""]


_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c}"
    "h2{font-size:1.05rem;margin:2rem 0 .5rem}.scroll{overflow-x:auto}table{border-collapse:collapse}"
    "th,td{padding:.35rem .7rem;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}"
    "th{background:#f4f4f4}tr.published{color:#666;font-style:italic}"
)


def to_html(entries: Sequence[Entry], differences: Sequence[Difference], baseline: str) -> str:
    """Return the same tables as an HTML page, which holds no script and loads nothing from elsewhere."""
    body = [f"<h1>Leaderboard</h1><p>{html.escape(_NOTE)}</p>"]
    for part in _parts(entries, differences, baseline):
        columns, rows = part.table
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        lines = []
        for row in rows:
            kind = ' class="published"' if row[0].endswith("(published)") else ""
            lines.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
        body.append(
            f'<h2>{html.escape(part.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
            + "".join(f"<p>{html.escape(note)}</p>" for note in part.notes)
        )
    body += [f"<p>{html.escape(line)}</p>" for line in _sources(entries) if line]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Leaderboard</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def plot_leaderboard(entries: Sequence[Entry], output: str | Path) -> None:
    """Plot the measured headline measures as points with their 95 % intervals, if they have one.

    There is one panel per table, one group of rows per measure, and one row per model in it. Each model has its own
    colour and marker. The name of ``output`` ends with the format, such as ``.png``.
    """
    shown = [entry for entry in entries if entry.measure.headline and entry.source == "measured"]
    groups: dict[Section, list[Entry]] = {}
    for entry in shown:
        groups.setdefault(section_of(entry.measure), []).append(entry)
    models = list(dict.fromkeys(entry.model for entry in shown))
    n_measures = [len({entry.measure.name for entry in group}) for group in groups.values()]
    heights = [1.2 + 0.18 * n * (len(models) + 1) for n in n_measures]  # inches
    figure, axes = make_figure(len(groups), size=(9, sum(heights) + 0.5), height_ratios=heights)
    points: dict[str, Any] = {}
    for panel, (section, group) in zip(axes[:, 0], groups.items(), strict=True):
        points |= _plot_panel(panel, group, models)
        panel.set_title(_panel_title(section), loc="left")
    figure.legend(points.values(), points, loc="outside upper center", ncols=min(len(models), 4), frameon=False)
    save_figure(figure, output)


def _plot_panel(panel: Any, group: Sequence[Entry], models: Sequence[str]) -> dict[str, Any]:
    """Draw the measures of one table, and return the points of each model by its name."""
    names = list(dict.fromkeys(entry.measure.name for entry in group))
    colour_of, points = colours(models), {}
    for number, model in enumerate(models):
        mine = [entry.measure for entry in group if entry.model == model]
        rows = [names.index(measure.name) + (number + 1) / (len(models) + 1) - 0.5 for measure in mine]
        style = {"color": colour_of[model], "zorder": 3}
        ends = [(row, one.low, one.high) for row, one in zip(rows, mine, strict=True) if one.low is not None]
        if ends:
            panel.hlines(*zip(*ends, strict=True), linewidth=2, **style)
        marker = MARKERS[number % len(MARKERS)]
        (points[model],) = panel.plot([one.score for one in mine], rows, marker, markersize=6, label=model, **style)
    for boundary in range(1, len(names)):
        panel.axhline(boundary - 0.5, color=GREY, linewidth=0.5)
    panel.set_yticks(range(len(names)), [_measure_label(name, group) for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel(f"mean and 95 % interval ({', '.join(dict.fromkeys(entry.measure.unit for entry in group))})")
    return points


def _measure_label(name: str, group: Sequence[Entry]) -> str:
    counts = sorted({entry.measure.n for entry in group if entry.measure.name == name})
    return f"{name}\nn = {'–'.join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))}"


def _panel_title(section: Section) -> str:
    benchmark, protocol, data, judge = section
    title = f"{benchmarks.title(benchmark)}, protocol {protocol}\nitems: {data}"
    return f"{title}; judge: {judge}" if judge else title
