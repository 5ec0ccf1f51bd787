"""Scores of needle answers on the grid of lengths × depths: by key phrases, or by a judge's ratings.

Means come with Wilson's interval, which is not empty when all answers are right; the bootstrap's would be.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateau.errors import DataError
from gateau.evaluation.results.measures import Measure, ScoredItem
from gateau.files import Row, number_of, read_jsonl, text_of
from gateau.reports import make_figure, save_figure

# unit, the scale's ends, and what a score is multiplied with
_SCALES = {"containment": ("%", 0.0, 1.0, 100.0), "judge": ("1-10", 1.0, 10.0, 1.0)}


@dataclass(frozen=True)
class NeedlePrediction:
    """One answer: ``length`` in tokens, ``depth`` in percent. Only a judge needs needle and question."""

    id: str
    length: int
    depth: float
    pred: str
    needle: str | None = None
    question: str | None = None


def read_predictions(path: str | Path) -> list[NeedlePrediction]:
    """Rows of a jsonl file: length, depth, pred, perhaps needle and question, and an id where a cell has several.

    Raises DataError, naming the line, for a row that is none and for a cell or id that comes twice.
    """
    predictions: dict[str, NeedlePrediction] = {}
    first: dict[str, str] = {}
    for where, row in read_jsonl(path):
        prediction = _prediction(row, where)
        if prediction.id in predictions:
            raise DataError(
                f"{where}: {prediction.id!r} was in {first[prediction.id]} before; keep one of them, or give each row "
                "its own id where a cell has several answers"
            )
        first[prediction.id] = where.rpartition(", ")[2]
        predictions[prediction.id] = prediction
    return list(predictions.values())


def _prediction(row: Row, where: str) -> NeedlePrediction:
    length, depth, pred = number_of(row, "length", where), row.get("depth"), text_of(row, "pred", where)
    if length <= 0:
        raise DataError(f"{where}: length must be a whole number of tokens above 0; found {length!r}")
    if not isinstance(depth, int | float) or isinstance(depth, bool) or not 0 <= depth <= 100:
        raise DataError(f"{where}: depth must be a number of percent from 0 to 100; found {depth!r}")
    identifier = row.get("id", f"needle-{length}-{depth:g}")
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        raise DataError(f"{where}: id must be text or a whole number; found {identifier!r}")
    needle, question = (None if row.get(name) is None else text_of(row, name, where) for name in ("needle", "question"))
    return NeedlePrediction(str(identifier), length, depth, pred, needle, question)


@dataclass(frozen=True)
class NeedleCell:
    """The scores of one length (tokens) and depth (percent): how many, and their mean, None without any."""

    length: int
    depth: float
    n: int
    mean: float | None


def needle_cells(scores: Iterable[tuple[int, float, float | None]]) -> list[NeedleCell]:
    """The grid of all lengths × all depths in ``scores``, (length, depth, score) each.

    A null counts in no cell, but its length and depth are in the grid. Cells without any score have n = 0.
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
    """The mean over all answers, how many they are, and its 95 % interval."""

    mean: float
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"mean {self.mean:.3f}, 95 % interval {self.low:.3f} to {self.high:.3f}, n = {self.n}"


def needle_mean(cells: Sequence[NeedleCell], lowest: float = 0.0, highest: float = 1.0) -> NeedleMean:
    """Mean over all answers with Wilson's interval, which is not empty when all answers are right.

    ``lowest`` and ``highest`` are the scale's ends: 0 and 1 for containment, 1 and 10 for a judge's ratings. Ratings
    spread less than the two ends do, so for them the interval is too wide rather than too narrow. Raises DataError
    without any answer.
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
    """The mean of all answers, of each length and of each depth, and their items.

    ``scores``, by id, are 0 or 1 for ``containment``, whose measures are in percent, and ratings of 1 to 10 or null for
    ``judge``. A length or depth of nulls only has no measure.
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
    """A table of depths × lengths, each cell its mean and (n); below it, the overall mean."""
    lengths, depths, by_cell = _grid(cells)
    rows = [
        ["depth (%) \\ length (tokens)", *map(str, lengths)],
        ["---:"] * (len(lengths) + 1),
        *([f"{depth:g}", *(_cell_text(by_cell[length, depth], " ") for length in lengths)] for depth in depths),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
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
    return "–" if cell.mean is None else f"{cell.mean:.2f}{between}({cell.n})"
