"""Scores of needle answers on the grid of lengths × depths, by key phrases or by a judge's ratings.

All cells of the grid ask for the same sentence, so their scores are not independent. Intervals resample needles. With
one needle there is no interval: the grid then says how this needle fares at its positions, and nothing about others.
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
from gateau.evaluation.results.intervals import bootstrap_interval
from gateau.evaluation.results.measures import Measure, ScoredItem, measure_items
from gateau.reports import UNKNOWN, decimal, make_figure, markdown_table, save_figure

ONE_NEEDLE = "one needle: positions only"
# unit, and what a score is multiplied with
_SCALES = {"containment": ("%", 100.0), "judge": ("1-10", 1.0)}


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
    """The mean over all answers, their number, that of the needles, and the 95 % interval (None with one needle)."""

    mean: float
    n: int
    needles: int
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"mean {self.mean:.3f}, n = {self.n}, {ONE_NEEDLE}"
        interval = f"95 % interval {self.low:.3f} to {self.high:.3f}"
        return f"mean {self.mean:.3f}, {interval}, n = {self.n}, {self.needles} needles"


def needle_mean(predictions: Sequence[NeedlePrediction], scores: Mapping[str, float | None]) -> NeedleMean:
    """Return the mean over all answers. Its interval resamples needles.

    Args:
        predictions: the answers.
        scores: by id; those that are None are left out.

    Raises:
        DataError: there are no scores.
    """
    scored = [(score, one.needle or "") for one in predictions if (score := scores[one.id]) is not None]
    if not scored:
        raise DataError("needle: no answers to score")
    values, needles = zip(*scored, strict=True)
    found = bootstrap_interval(values, clusters=needles)
    low, high = (found.low, found.high) if found else (None, None)
    return NeedleMean(sum(values) / len(values), len(values), len(set(needles)), low, high)


def needle_measures(
    predictions: Sequence[NeedlePrediction],
    scores: Mapping[str, float | None],
    protocol: Literal["containment", "judge"],
    *,
    data: str,
    judge: str | None = None,
    left_out: Sequence[int] = (),
) -> tuple[list[Measure], list[ScoredItem]]:
    """Return the mean of all answers, of each length, of each depth and of each needle, and their items.

    The answers about one needle are a cluster, because they share its sentence and question.

    Args:
        predictions: the answers.
        scores: by id. For ``containment`` they are 0 or 1, and the measures are in percent. For ``judge`` they are
            ratings from 1 to 10, or None. A length or depth that has only None gets no measure.
        protocol: how answers were scored.
        data: whose items they are.
        judge: who rated them.
        left_out: lengths in tokens that were not asked, because the model's window is too small.
    """
    unit, factor = _SCALES[protocol]
    needles = list(dict.fromkeys(one.needle or "" for one in predictions))
    groups = defaultdict(list, {"all": list(predictions)})
    for one in sorted(predictions, key=lambda one: one.length):
        groups[f"length {one.length}"].append(one)
    for one in sorted(predictions, key=lambda one: one.depth):
        groups[f"depth {one.depth:g} %"].append(one)
    if len(needles) > 1:
        for one in predictions:
            groups[f"needle {needles.index(one.needle or '') + 1}"].append(one)
    missing = f"left out, above the window: {', '.join(map(str, left_out))}"
    measures: list[Measure] = []
    items: list[ScoredItem] = []
    for name, members in groups.items():
        scored = [
            ScoredItem(
                "needle", name, protocol, one.id, factor * score, one.needle or ONE_NEEDLE, f"length {one.length}"
            )
            for one in members
            if (score := scores[one.id]) is not None
        ]
        if not scored:
            continue
        notes = [ONE_NEEDLE] * (len({item.cluster for item in scored}) == 1)
        notes += [missing] * bool(left_out and not name.startswith("length"))
        nulls, note = len(members) - len(scored), "; ".join(notes)
        measures.append(
            measure_items(scored, unit=unit, data=data, judge=judge, nulls=nulls, headline=name == "all", note=note)
        )
        items += scored
    return measures, items


def needle_markdown(
    cells: Sequence[NeedleCell],
    overall: NeedleMean,
    means: Sequence[tuple[str, float | None]] = (),
    left_out: Sequence[int] = (),
) -> str:
    """Return a table of depths × lengths with its overall mean, and a table of needles if there are several.

    Args:
        cells: the grid; each cell of the table has its mean and (n).
        overall: the mean of all answers.
        means: each needle with its mean, None without a score.
        left_out: lengths in tokens that were not asked.
    """
    lengths, depths, by_cell = _grid(cells)
    rows = [[f"{depth:g}", *(_cell_text(by_cell[length, depth], " ") for length in lengths)] for depth in depths]
    titles = ["depth (%) \\ length (tokens)", *map(str, lengths)]
    table = markdown_table(titles, rows, numbers=range(len(titles)))
    text = f"{table}\n\nCells: mean (number of answers). Overall: {overall}.\n"
    if left_out:
        text += f"\nLengths that are left out, because they do not fit the window: {', '.join(map(str, left_out))}.\n"
    if len(means) > 1:
        rows = [[str(number), needle, decimal(mean)] for number, (needle, mean) in enumerate(means, start=1)]
        text += f"\n{markdown_table(['needle', 'sentence', 'mean'], rows, numbers=(2,))}\n"
    return text


def means_of_needles(
    predictions: Sequence[NeedlePrediction], scores: Mapping[str, float | None]
) -> list[tuple[str, float | None]]:
    """Return each needle with the mean of its scores; None if it has no score."""
    found: dict[str, list[float]] = {}
    for one in predictions:
        score = scores[one.id]
        found.setdefault(one.needle or "", []).extend([] if score is None else [score])
    return [(needle, sum(values) / len(values) if values else None) for needle, values in found.items()]


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
