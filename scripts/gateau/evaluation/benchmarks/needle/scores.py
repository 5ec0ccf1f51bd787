"""Scores of needle answers on the grid of lengths × depths, by key phrases or by a judge's ratings.

Means have Wilson's interval (Wilson 1927). Unlike the bootstrap's, it has a width even if all answers are right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateau.errors import DataError
from gateau.evaluation.benchmarks.needle.predictions import NeedlePrediction
from gateau.evaluation.results.measures import Measure, ScoredItem
from gateau.reports import UNKNOWN, make_figure, markdown_table, save_figure

# unit, the scale's ends, and what a score is multiplied with
_SCALES = {"containment": ("%", 0.0, 1.0, 100.0), "judge": ("1-10", 1.0, 10.0, 1.0)}


@dataclass(frozen=True)
class NeedleCell:
    """The scores of one length (tokens) and depth (percent): their number, and their mean (None if there are none)."""

    length: int
    depth: float
    n: int
    mean: float | None


def needle_cells(scores: Iterable[tuple[int, float, float | None]]) -> list[NeedleCell]:
    """Return the grid of all lengths × all depths in ``scores``, each of which is (length, depth, score).

    A score of None is not counted, but its length and depth are in the grid. Cells without scores have n = 0.
    """
    by_cell: defaultdict[tuple[int, float], list[float]] = defaultdict(list)
    for length, depth, score in scores:
        by_cell[length, depth] += [] if score is None else [score]
    cells = []
    for length in sorted({length for length, _ in by_cell}):
        for depth in sorted({depth for _, depth in by_cell}):
            values = by_cell.get((length, depth), [])
            cells.append(NeedleCell(length, depth, len(values), sum(values) / len(values) if values else None))
    return cells


@dataclass(frozen=True)
class NeedleMean:
    """The mean over all answers, their number, and the 95 % interval of the mean."""

    mean: float
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"mean {self.mean:.3f}, 95 % interval {self.low:.3f} to {self.high:.3f}, n = {self.n}"


def needle_mean(cells: Sequence[NeedleCell], lowest: float = 0.0, highest: float = 1.0) -> NeedleMean:
    """Return the mean over all answers with Wilson's interval.

    Args:
        cells: the grid.
        lowest: lower end of the scale: 0 for containment, 1 for a judge's ratings.
        highest: upper end of the scale: 1 for containment, 10 for a judge's ratings. Ratings vary less than scores that
            are at one of the ends, so their interval is too wide rather than too narrow.

    Raises:
        DataError: there are no answers.
    """
    n = sum(cell.n for cell in cells)
    if not n:
        raise DataError("needle: no answers to score")
    mean = sum(cell.n * cell.mean for cell in cells if cell.mean is not None) / n
    return _with_interval(mean, n, lowest, highest)


def _with_interval(mean: float, n: int, lowest: float, highest: float) -> NeedleMean:
    z, width = 1.959964, highest - lowest
    share = (mean - lowest) / width
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(share * (1 - share), 0) / n + z * z / (4 * n * n))
    return NeedleMean(mean, n, lowest + width * max(centre - half, 0.0), lowest + width * min(centre + half, 1.0))


def needle_measures(
    predictions: Sequence[NeedlePrediction],
    scores: Mapping[str, float | None],
    protocol: Literal["containment", "judge"],
    *,
    data: str,
    judge: str | None = None,
) -> tuple[list[Measure], list[ScoredItem]]:
    """Return the mean of all answers, of each length and of each depth, and their items.

    Args:
        predictions: the answers.
        scores: by id. For ``containment`` they are 0 or 1, and the measures are in percent. For ``judge`` they are
            ratings from 1 to 10, or None. A length or depth that has only None gets no measure.
        protocol: how answers were scored.
        data: whose items they are.
        judge: who rated them.
    """
    unit, lowest, highest, factor = _SCALES[protocol]
    groups = defaultdict(list, {"all": list(predictions)})
    for one in sorted(predictions, key=lambda one: one.length):
        groups[f"length {one.length}"].append(one)
    for one in sorted(predictions, key=lambda one: one.depth):
        groups[f"depth {one.depth:g} %"].append(one)
    measures: list[Measure] = []
    items: list[ScoredItem] = []
    for name, members in groups.items():
        scored = [(one.id, score) for one in members if (score := scores[one.id]) is not None]
        if not scored:
            continue
        mean = _with_interval(sum(score for _, score in scored) / len(scored), len(scored), lowest, highest)
        measures.append(
            Measure(
                benchmark="needle",
                name=name,
                protocol=protocol,
                unit=unit,
                score=factor * mean.mean,
                low=factor * mean.low,
                high=factor * mean.high,
                n=mean.n,
                data=data,
                judge=judge,
                nulls=len(members) - len(scored),
                headline=name == "all",
            )
        )
        items += [ScoredItem("needle", name, protocol, item, factor * score) for item, score in scored]
    return measures, items


def needle_markdown(cells: Sequence[NeedleCell], overall: NeedleMean) -> str:
    """Return a table of depths × lengths. Each cell has its mean and (n); the overall mean is below the table."""
    lengths, depths, by_cell = _grid(cells)
    rows = [[f"{depth:g}", *(_cell_text(by_cell[length, depth], " ") for length in lengths)] for depth in depths]
    titles = ["depth (%) \\ length (tokens)", *map(str, lengths)]
    table = markdown_table(titles, rows, numbers=range(len(titles)))
    return f"{table}\n\nCells: mean (number of answers). Overall: {overall}.\n"


def plot_needle(
    cells: Sequence[NeedleCell], overall: NeedleMean, title: str, output: str | Path, highest: float = 1.0
) -> None:
    """Plot a heatmap of depth × length. Colours always run from 0 to ``highest``; cells without answers are grey."""
    import matplotlib  # here, so that making prompts does not wait for it

    lengths, depths, by_cell = _grid(cells)
    means = [[by_cell[length, depth].mean for length in lengths] for depth in depths]
    figure, panels = make_figure(size=(3 + 0.8 * len(lengths), 2.5 + 0.5 * len(depths)))
    axes = panels[0, 0]
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="0.85")
    image = axes.imshow(
        [[math.nan if mean is None else mean for mean in row] for row in means],
        cmap=colours,
        vmin=0,
        vmax=highest,
        aspect="auto",
    )
    for row, depth in enumerate(depths):
        for column, length in enumerate(lengths):
            mean = means[row][column]
            bright = mean is None or mean > highest / 2
            axes.text(
                column, row, _cell_text(by_cell[length, depth], "\n"), ha="center", va="center", fontsize=8,
                color="black" if bright else "white",
            )  # fmt: skip
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], rotation=45, ha="right")
    axes.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths])
    axes.set(xlabel="length of the context (tokens)", ylabel="depth of the needle (%)")
    axes.grid(visible=False)
    figure.suptitle(f"{title}\n{overall}", fontsize="medium", fontweight="normal")
    figure.colorbar(image, label="mean score; in each cell, (number of answers)")
    save_figure(figure, output)


def _grid(cells: Sequence[NeedleCell]) -> tuple[list[int], list[float], dict[tuple[int, float], NeedleCell]]:
    by_cell = {(cell.length, cell.depth): cell for cell in cells}
    return sorted({cell.length for cell in cells}), sorted({cell.depth for cell in cells}), by_cell


def _cell_text(cell: NeedleCell, between: str) -> str:
    return UNKNOWN if cell.mean is None else f"{cell.mean:.2f}{between}({cell.n})"
