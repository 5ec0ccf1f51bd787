"""Models × measures, as CSV, Markdown and HTML: one table per benchmark, protocol, data and judge, never mixed.

Published numbers stand as reference rows in the table of their own protocol, data and judge. A comparison with the
baseline resamples both models' items together, so that an item that is hard for both does not count as noise.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gateau.errors import DataError
from gateau.evaluation import benchmarks
from gateau.evaluation.results.intervals import Comparison, stratified_difference
from gateau.evaluation.results.measures import Measure, ScoredItem, read_items, read_measures
from gateau.files import atomic_path


@dataclass(frozen=True)
class Entry:
    """One model's measure; ``source`` is "measured", or where a published number was found (without interval)."""

    model: str
    source: str
    measure: Measure


@dataclass(frozen=True)
class Difference:
    """A model less the baseline on the same ``n`` items, in the measure's unit, with its 95 % interval."""

    model: str
    benchmark: str
    protocol: str
    name: str
    unit: str
    difference: float
    low: float
    high: float
    p_value: float
    n: int


Section = tuple[str, str, str, str | None]
Table = tuple[list[str], list[list[str]]]


def section_of(measure: Measure) -> Section:
    """What all numbers of one table share: benchmark, protocol, data, judge."""
    return measure.benchmark, measure.protocol, measure.data, measure.judge


def read_entries(folders: Mapping[str, Sequence[str | Path]]) -> tuple[list[Entry], dict[str, list[ScoredItem]]]:
    """Measures and items of every model from the folders of its scorers (``scores.json``, ``items.jsonl``)."""
    entries: list[Entry] = []
    items: dict[str, list[ScoredItem]] = {}
    for model, places in folders.items():
        for place in map(Path, places):
            entries += [Entry(model, "measured", measure) for measure in read_measures(place / "scores.json")]
            items.setdefault(model, []).extend(read_items(place / "items.jsonl"))
    return entries, items


def published_entries(path: str | Path, evaluated: Iterable[str]) -> list[Entry]:
    """Return reference rows of the benchmarks that are evaluated, without intervals: only means were published.

    Args:
        path: JSON with ``source`` and a block for each benchmark that has published scores.
        evaluated: names of the benchmarks.
    """
    table = json.loads(Path(path).read_text(encoding="utf-8"))
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


def compare(entries: Sequence[Entry], items: Mapping[str, Sequence[ScoredItem]], baseline: str) -> list[Difference]:
    """Every model against ``baseline``, for every measure, over the items that both have a score of.

    Raises DataError when the baseline was not evaluated.
    """
    if baseline not in items:
        raise DataError(f"evaluate.baseline: {baseline} is not evaluated; evaluated are {', '.join(items)}")
    own = _by_measure(items[baseline])
    differences = []
    for entry in entries:
        if entry.model == baseline or entry.source != "measured":
            continue
        strata = _strata(entry.measure, own, _by_measure(items[entry.model]))
        if strata:
            differences.append(_difference(entry, stratified_difference(strata)))
    return differences


def _difference(entry: Entry, found: Comparison) -> Difference:
    measure = entry.measure
    return Difference(
        entry.model, measure.benchmark, measure.protocol, measure.name, measure.unit,
        found.difference, found.interval.low, found.interval.high, found.p_value, found.n,
    )  # fmt: skip


_Key = tuple[str, str, str]


def _strata(measure: Measure, own: Mapping[_Key, Any], theirs: Mapping[_Key, Any]) -> list[list[float]]:
    """Differences of paired items: one list or, for a category of LongBench, one per data set.

    Each data set weighs the same in its category's mean. Ratings that one of the two lacks leave their item out.
    """
    names = benchmarks.of_measure(measure.benchmark).parts(measure.name)
    keys = [(measure.benchmark, measure.protocol, name) for name in names]
    pairs = [(theirs.get(key, {}), own.get(key, {})) for key in keys]
    found = [[their[item] - our[item] for item in sorted(their.keys() & our.keys())] for their, our in pairs]
    return [differences for differences in found if differences]


def _by_measure(items: Iterable[ScoredItem]) -> dict[_Key, dict[str, float]]:
    found: dict[_Key, dict[str, float]] = {}
    for item in items:
        found.setdefault((item.benchmark, item.protocol, item.name), {})[item.item] = item.score
    return found


def to_csv(entries: Iterable[Entry]) -> str:
    """Long form: one line per model and measure, headline or not."""
    output = io.StringIO()
    columns = ["model", "source", *(field.name for field in fields(Measure))]
    writer = csv.DictWriter(output, columns, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        row = {"model": entry.model, "source": entry.source, **asdict(entry.measure)}
        if entry.source != "measured":
            row |= {"low": "", "high": "", "n": "", "nulls": ""}
        writer.writerow(row)
    return output.getvalue()


def differences_csv(differences: Iterable[Difference]) -> str:
    """One line per model and measure."""
    output = io.StringIO()
    writer = csv.DictWriter(output, [field.name for field in fields(Difference)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(difference) for difference in differences)
    return output.getvalue()


def _section_tables(entries: Sequence[Entry], headline: bool) -> list[tuple[str, Table]]:
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
        tables.append((_title(section, mine), (["model", *names], rows)))
    return tables


def _title(section: Section, entries: Sequence[Entry]) -> str:
    benchmark, protocol, data, judge = section
    unit = ", ".join(dict.fromkeys(entry.measure.unit for entry in entries))
    title = f"{benchmarks.titles()[benchmark]}, protocol {protocol}, in {unit}; items: {data}"
    if judge:
        title += f"; judge: {judge}"
    if all(entry.source != "measured" for entry in entries):
        title += "; published only, no model of this run was measured so"
    return title


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return "–"
    measure = entry.measure
    if entry.source != "measured":
        return f"{measure.score:.2f}"
    nulls = f", {measure.nulls} without rating" if measure.nulls else ""
    return f"{measure.score:.2f} ({measure.low:.2f} to {measure.high:.2f}, n = {measure.n}{nulls})"


def _difference_table(differences: Sequence[Difference]) -> Table:
    columns = ["model", "benchmark", "protocol", "measure", "difference (95 % interval)", "unit", "p", "n"]
    rows = [
        [
            one.model, benchmarks.titles()[one.benchmark], one.protocol, one.name,
            f"{one.difference:+.2f} ({one.low:+.2f} to {one.high:+.2f})", one.unit, f"{one.p_value:.3f}", str(one.n),
        ]
        for one in differences
    ]  # fmt: skip
    return columns, rows


def _parts(entries: Sequence[Entry], differences: Sequence[Difference], baseline: str) -> list[tuple[str, Table]]:
    parts = _section_tables(entries, headline=True)
    if differences:
        headlines = {
            (entry.measure.benchmark, entry.measure.protocol, entry.measure.name)
            for entry in entries
            if entry.measure.headline
        }
        shown = [one for one in differences if (one.benchmark, one.protocol, one.name) in headlines]
        parts.append((f"Against {baseline}: paired bootstrap over the same items", _difference_table(shown)))
    return parts + [(f"In detail: {title}", table) for title, table in _section_tables(entries, headline=False)]


_NOTE = (
    "Each cell: mean (95 % interval, number of items); a bootstrap's over items, the needle's Wilson's. "
    "Numbers of different tables cannot be compared: their protocol, items or judge differ."
)


def to_markdown(entries: Sequence[Entry], differences: Sequence[Difference], baseline: str) -> str:
    """All tables under headings that say what their numbers share."""
    lines = ["# Leaderboard", "", _NOTE, ""]
    for title, (columns, rows) in _parts(entries, differences, baseline):
        lines += [f"## {title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
        lines.append("")
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
    """The same as one page without any script or address."""
    body = [f"<h1>Leaderboard</h1><p>{html.escape(_NOTE)}</p>"]
    for title, (columns, rows) in _parts(entries, differences, baseline):
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        lines = []
        for row in rows:
            kind = ' class="published"' if row[0].endswith("(published)") else ""
            lines.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
        body.append(
            f'<h2>{html.escape(title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )
    body += [f"<p>{html.escape(line)}</p>" for line in _sources(entries) if line]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Leaderboard</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def plot_leaderboard(entries: Sequence[Entry], output: str | Path) -> None:
    """Headline measures as points with their intervals, one panel per table, one row per model and measure (PNG)."""
    import matplotlib
    from matplotlib.figure import Figure

    shown = [entry for entry in entries if entry.measure.headline and entry.source == "measured"]
    sections = list(dict.fromkeys(section_of(entry.measure) for entry in shown))
    models = list(dict.fromkeys(entry.model for entry in shown))
    colours = matplotlib.colormaps["tab10" if len(models) <= 10 else "tab20"]
    groups = [[entry for entry in shown if section_of(entry.measure) == section] for section in sections]
    n_names = [len({entry.measure.name for entry in group}) for group in groups]
    heights = [1.1 + 0.2 * n * (len(models) + 1) for n in n_names]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(sections), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, section, group in zip(panels, sections, groups, strict=True):
        names = list(dict.fromkeys(entry.measure.name for entry in group))
        for entry in group:
            number = models.index(entry.model)
            row = names.index(entry.measure.name) + (number + 1) / (len(models) + 1) - 0.5
            measure = entry.measure
            axes.plot([measure.low, measure.high], [row, row], color=colours(number), linewidth=2)
            axes.plot(
                [measure.score], [row], "o", color=colours(number), markersize=5,
                label=entry.model if measure.name == names[0] else None,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(_title(section, group).replace("; ", "\n", 1), fontsize=9, loc="left")
    if shown:
        panels[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
