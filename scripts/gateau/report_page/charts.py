"""Charts of the page as Vega-Lite specifications. The page gives them their width and the colours of its theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateau.reports import COLOURS

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
# of the three kinds of steps in the funnel; the page's theme does not change them
KINDS = {"kept": "#0072B2", "lost": "#D55E00", "selected": "#009E73"}


def _spec(description: str, rows: Rows, height: int, **rest: Any) -> Spec:
    return {"description": description, "width": "container", "height": height, "data": {"values": list(rows)}, **rest}


def _rows_of(rows: Rows, field: str, size: int) -> int:
    """Return the height of a chart with a row of ``size`` pixels for each value of a field."""
    return size * len({row[field] for row in rows})


def funnel_chart(steps: Rows) -> Spec:
    """Return bars of the steps from rows to selections, with their counts, in order."""
    y = {"field": "label", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 260, "ticks": False}}
    x = {"field": "count", "type": "quantitative", "title": None, "axis": None}
    colour = {
        "field": "kind", "type": "nominal", "legend": None,
        "scale": {"domain": list(KINDS), "range": list(KINDS.values())},
    }  # fmt: skip
    tip = [{"field": "label", "title": "step"}, {"field": "count", "format": ","}, {"field": "remark"}]
    text = {"field": "count", "type": "quantitative", "format": ","}
    return _spec(
        "Bars: how many rows are left after each step, and how many are lost.", steps, 24 * len(steps),
        encoding={"y": y, "x": x, "tooltip": tip},
        layer=[
            {"mark": {"type": "bar", "cornerRadiusEnd": 3}, "encoding": {"color": colour}},
            {"mark": {"type": "text", "align": "left", "dx": 5}, "encoding": {"text": text}},
        ],
    )  # fmt: skip


def bars(rows: Rows, value: str, label: str, title: str, description: str) -> Spec:
    """Return horizontal bars, the longest first."""
    return _spec(
        description, rows, 20 * len(rows), mark={"type": "bar", "cornerRadiusEnd": 3},
        encoding={
            "y": {"field": label, "type": "nominal", "sort": "-x", "title": None, "axis": {"labelLimit": 200}},
            "x": {"field": value, "type": "quantitative", "title": title},
            "tooltip": [{"field": label}, {"field": value, "title": title}],
        },
    )  # fmt: skip


def matrix(
    rows: Rows, value: str, title: str, description: str, *, domain: Sequence[float], names: Sequence[str]
) -> Spec:
    """Return a heatmap of experiments against experiments with its numbers, fields ``first`` and ``second``."""
    axis = {"title": None, "labelLimit": 160}
    return _spec(
        description, rows, _rows_of(rows, "second", 34),
        encoding={
            "x": {"field": "first", "type": "nominal", "sort": list(names), "axis": {**axis, "labelAngle": -40}},
            "y": {"field": "second", "type": "nominal", "sort": list(names), "axis": axis},
            "tooltip": [{"field": "first"}, {"field": "second"}, {"field": value, "title": title}],
        },
        layer=[
            {"mark": "rect", "encoding": {"color": {
                "field": value, "type": "quantitative", "title": title, "legend": None,
                "scale": {"domain": list(domain), "scheme": "blues" if domain[0] >= 0 else "redblue"}}}},
            {"mark": {"type": "text", "fontSize": 11}, "encoding": {
                "text": {"field": "shown", "type": "nominal"},
                "color": {"condition": {"test": f"abs(datum['{value}']) > 0.6",
                                        "value": "white"}, "value": "#1a1a1a"}}},
        ],
    )  # fmt: skip


def shares(rows: Rows, title: str, description: str, names: Sequence[str]) -> Spec:
    """Return stacked bars of the shares of labels: fields ``group``, ``label`` and ``share``."""
    return _spec(
        description, rows, _rows_of(rows, "group", 26), mark="bar",
        encoding={
            "y": {"field": "group", "type": "nominal", "sort": list(names), "title": None, "axis": {"labelLimit": 180}},
            "x": {"field": "share", "type": "quantitative", "stack": "normalize", "title": title,
                  "axis": {"format": "%"}},
            "color": {"field": "label", "type": "nominal", "title": None, "legend": {"orient": "top", "columns": 3,
                                                                                  "labelLimit": 200}},
            "tooltip": [{"field": "group"}, {"field": "label"}, {"field": "count", "format": ","},
                        {"field": "share", "format": ".1%"}],
        },
    )  # fmt: skip


def curves(rows: Rows, x: str, y: str, titles: tuple[str, str], description: str, *, log: bool = False) -> Spec:
    """Return one line for each value of ``name``, over ``x``."""
    kind = {"type": "log"} if log else {"zero": False}
    return _spec(
        description, rows, 240, mark={"type": "line", "interpolate": "monotone"},
        encoding={
            "x": {"field": x, "type": "quantitative", "title": titles[0], "scale": kind},
            "y": {"field": y, "type": "quantitative", "title": titles[1], "scale": {"zero": False}},
            "color": {"field": "name", "type": "nominal", "title": None, "legend": {"orient": "top", "columns": 3}},
            "strokeDash": {"field": "name", "type": "nominal", "title": None},
            "tooltip": [{"field": "name"}, {"field": x}, {"field": y, "format": ".4~g"}],
        },
    )  # fmt: skip


def intervals(rows: Rows, title: str, description: str, *, chance: float | None = None) -> Spec:
    """Return values with their intervals: fields ``name``, ``value``, ``low`` and ``high``, the highest first.

    ``low`` and ``high`` are None where there is no interval.
    """
    y = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 220}}
    x = {"type": "quantitative", "title": title, "scale": {"zero": False}}
    layers: list[Spec] = [
        {"mark": {"type": "rule", "strokeWidth": 2}, "transform": [{"filter": "datum.low !== null"}],
         "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}}},
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
         "encoding": {"x": {"field": "value", **x}}},
    ]  # fmt: skip
    if chance is not None:
        line = {"type": "rule", "strokeDash": [4, 4], "color": COLOURS[3]}
        layers.append(
            {"data": {"values": [{"at": chance}]}, "mark": line, "encoding": {"x": {"field": "at", **x}, "y": None}}
        )
        layers[-1]["encoding"].pop("y")
    for layer in layers[:2]:
        layer["encoding"] |= {
            "y": y, "tooltip": [{"field": name, "format": ".3~f"} if name != "name" else {"field": name}
                                for name in ("name", "value", "low", "high")],
        }  # fmt: skip
    return _spec(description, rows, 24 * len(rows), layer=layers)


def heatmap(rows: Rows, titles: tuple[str, str], description: str, best: float = 1) -> Spec:
    """Return a needle's heatmap: fields ``length``, ``depth`` and ``score``, on one scale of colours up to ``best``."""
    return _spec(
        description, rows, 190, mark={"type": "rect", "stroke": "#ffffff", "strokeWidth": 1},
        encoding={
            "x": {"field": "length", "type": "ordinal", "title": titles[0], "axis": {"labelAngle": -40}},
            "y": {"field": "depth", "type": "ordinal", "title": titles[1]},
            "color": {"field": "score", "aggregate": "mean", "type": "quantitative", "title": "score",
                      "scale": {"domain": [0, best], "scheme": "viridis"}},
            "tooltip": [{"field": "length"}, {"field": "depth"},
                        {"field": "score", "aggregate": "mean", "format": ".2f"}],
        },
    )  # fmt: skip
