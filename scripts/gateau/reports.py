"""Reports for people: Markdown tables, numbers with units, and figures that share one look.

The colours are those of Okabe and Ito (2008), which people with any common colour vision deficiency can tell apart.
Lines and points also differ by marker. matplotlib is imported only when a figure is made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

UNKNOWN = "–"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
GREY = "#8c8c8c"
MARKERS = "osD^vP*X"
_LINES = ("-", "--", ":", "-.")

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "legend.fontsize": 9,
    "legend.title_fontsize": 9,
    "legend.frameon": False,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "savefig.dpi": 120,
    "svg.hashsalt": "gateau",
    "svg.fonttype": "none",  # text stays text
}
# dates and versions in a file's metadata would make its bytes differ
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None},
}  # fmt: skip


def markdown_table(
    titles: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[int] | range | None = None
) -> str:
    """Return a Markdown table, without a line end after the last row. Its columns also line up as plain text.

    Args:
        titles: one per column.
        rows: cells of any type; vertical bars are escaped.
        numbers: columns that are aligned right; all but the first if not given.
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (titles, *rows)]
    right = set(range(1, len(titles)) if numbers is None else numbers)
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width + 1) + ":" if column in right else "-" * (width + 2) for column, width in enumerate(widths)]
    return "\n".join([line(cells[0]), f"|{'|'.join(rule)}|", *map(line, cells[1:])])


def decimal(value: float | None, places: int = 2) -> str:
    """Return a number with ``places`` decimal places, or a dash for None."""
    return UNKNOWN if value is None else f"{value:.{places}f}"


def with_interval(value: float, low: float, high: float, *, sign: str = "") -> str:
    """Return a value with its interval, such as ``0.98 [0.97, 0.99]``. ``sign="+"`` shows the sign of the value."""
    return f"{value:{sign}.2f} [{low:.2f}, {high:.2f}]"


def whole(value: int | None) -> str:
    """Return a whole number with thousands separators, or a dash for None."""
    return UNKNOWN if value is None else f"{value:,}"


def si(value: float | None) -> str:
    """Return a number with three significant digits and an SI prefix, such as ``1.5 T``, or a dash for None."""
    if value is None:
        return UNKNOWN
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def gigabytes(size: float | None) -> str:
    """Return bytes as a number of GB (10^9 bytes), or a dash for None."""
    if size is None:
        return UNKNOWN
    value = size / 1e9
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def make_figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Return a figure in the common look, and its axes as an array ``[rows, columns]``.

    matplotlib reads its style whenever something is drawn, so the style is set for the whole process.

    Args:
        rows: number of rows of panels.
        columns: number of columns of panels.
        size: width and height in inches.
        options: further options of matplotlib's ``Figure.subplots``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(_STYLE)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_figure(figure: Figure, output: str | os.PathLike[str]) -> None:
    """Write a figure atomically, in the format of the file name's suffix. The same figure gives the same bytes."""
    kind = Path(output).suffix.removeprefix(".").lower() or "png"
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format=kind, dpi=120, metadata=_METADATA.get(kind))


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name, in order; names beyond the eight colours are grey."""
    return {name: COLOURS[number] if number < len(COLOURS) else GREY for number, name in enumerate(names)}


def line_styles(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return colour, marker and line style for each name, as options of matplotlib's ``plot``.

    After each round of eight, the colours repeat with the next marker and line style, so that 32 names stay distinct.
    """
    found = {}
    for number, name in enumerate(names):
        turn, place = divmod(number, len(COLOURS))
        found[name] = {
            "color": COLOURS[place],
            "marker": MARKERS[(place + turn) % len(MARKERS)],
            "linestyle": _LINES[turn % len(_LINES)],
        }
    return found


def symmetric_log_axis(axes: Axes, which: str, values: NDArray[np.float64]) -> float | None:
    """Make an axis linear around 0 and logarithmic beyond if a few values would else hide all others.

    The axis stays linear unless the largest absolute value is above 20 times the median one.

    Args:
        axes: the panel.
        which: its axis, "x" or "y".
        values: what the axis shows, float ``[n]``.

    Returns:
        The absolute value up to which the axis is nearly linear; None if all of it is linear.
    """
    import numpy as np
    from matplotlib.scale import AsinhScale
    from matplotlib.ticker import NullLocator

    sizes = np.abs(values[(values != 0) & np.isfinite(values)])
    if not len(sizes) or sizes.max() <= 20 * np.median(sizes):
        return None
    width = float(f"{np.median(sizes) / 2:.1g}")
    first, last = math.floor(math.log10(width)), math.floor(math.log10(sizes.max()))
    step = -(-(last - first) // 3)  # at most three ticks on each side of 0
    ticks = [10.0**power for power in range(last, first, -step)]
    ticks = [*(-tick for tick in ticks if values.min() <= -tick), 0.0, *(t for t in ticks if t <= values.max())]
    axes.set(**{f"{which}scale": AsinhScale(None, linear_width=width)})
    getattr(axes, f"{which}axis").set_minor_locator(NullLocator())
    axes.set(**{f"{which}ticks": sorted(ticks)})
    axes.set(**{f"{which}ticklabels": [f"{tick:g}" for tick in sorted(ticks)]})
    return width
