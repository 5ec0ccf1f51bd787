"""Print what the demo found: which rows each method selects, and how well a model recalls far notes after training.

``make demo`` runs ``python scripts/demo_summary.py results/demo`` at its end. The tables are also written to demo.md in
that folder. With several folders of results, such as those of ``scripts/demo_seeds.py``, one table of all is printed.
"""

import csv
import json
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from gateau.command import argument_parser, run
from gateau.errors import DataError
from gateau.evaluation.benchmarks import titles
from gateau.files import write_text
from gateau.reports import COLOURS, GREY, UNKNOWN, make_figure, markdown_table, save_figure

BEFORE, BEST, RANDOM = "before", "gateau_robust", "random"
NAMES = {"gateau": "gateau (the paper's)", RANDOM: "random rows"}
FAR = "far"


@dataclass(frozen=True)
class Trained:
    """One experiment of the demo.

    ``auroc`` is the chance that a far row is ranked before another row, or None without a ranking. ``kinds`` counts
    the long rows that the model was trained on, by kind.
    """

    name: str
    auroc: float | None
    kinds: Counter[str]

    @property
    def n_rows(self) -> int:
        """Number of long rows that the model was trained on."""
        return self.kinds.total()


class Demo:
    """The results of one run of the demo.

    Args:
        results: the run's folder of results.

    Raises:
        DataError: the folder lacks a result.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        try:
            with (results / "leaderboard/leaderboard.csv").open(encoding="utf-8", newline="") as file:
                self.measures = [row for row in csv.DictReader(file) if row["source"] == "measured"]
            places = {BEFORE: 0, BEST: 1, RANDOM: 3}
            models = sorted({row["model"] for row in self.measures}, key=lambda model: (places.get(model, 2), model))
            recall = {row["model"]: row for row in self.measures if row["benchmark"] == "recall"}
            self.recall = {model: recall[model] for model in models if model in recall}
            self.recalled = {model: self._recalled(model) for model in models}
            self.trained = [self._trained(model) for model in models if model != BEFORE]
        except FileNotFoundError as error:
            raise DataError(f"{error.filename}: no such file; run make demo first") from error
        if not {BEFORE, BEST, RANDOM} <= set(self.recall):
            raise DataError(f"{results}: these are not results of config/demo.yaml; run make demo first")

    def _recalled(self, model: str) -> dict[str, float]:
        lines = (self.results / f"score_recall/{model}/items.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["item"]: row["score"] for row in map(json.loads, lines)}

    def _trained(self, name: str) -> Trained:
        import pyarrow.parquet

        rows = self.results / "planted_rows/long.jsonl"
        kinds = {row["id"]: row["dataset"] for row in map(json.loads, rows.read_text(encoding="utf-8").splitlines())}
        # a ParquetFile starts faster than read_table, which imports pandas
        file = pyarrow.parquet.ParquetFile(self.results / f"mixture/{name}/mixture.parquet")
        columns = file.read(columns=["id", "source", "split"]).to_pydict()
        rows_of = zip(columns["id"], columns["source"], columns["split"], strict=True)
        ids = [row_id for row_id, source, split in rows_of if (source, split) == ("long", "train")]
        ranking = self.results / f"selection/{name}/summary.json"
        auroc = None
        if ranking.exists():
            auroc = json.loads(ranking.read_text(encoding="utf-8"))["by_dataset"][f"planted/{FAR}"]["auroc"]
        return Trained(name, auroc, Counter(kinds[row_id].removeprefix("planted/") for row_id in ids))

    def difference(self, first: str, second: str) -> tuple[float, float, float]:
        """Return the difference of two models' recall on the same notes in points, with its 95 % interval."""
        one, other = self.recalled[first], self.recalled[second]
        values = [one[item] - other[item] for item in one]
        half = 1.96 * stdev(values) / len(values) ** 0.5
        return mean(values), mean(values) - half, mean(values) + half


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="folders of results of config/demo.yaml")
    parser.add_argument("--picture", type=Path, help="output: the table as a picture, PNG (default: not drawn)")
    args = parser.parse_args()
    demos = [Demo(folder) for folder in args.results]
    if len(demos) > 1:
        print(table_of_seeds(demos))
        return
    demo, folder = demos[0], args.results[0]
    others = table_of_others(demo)
    text = f"{table(demo)}\n\n{sentence(demo)}\n"
    write_text(folder / "demo.md", f"# The demo\n\n{text}\n{others}".rstrip() + "\n")
    if args.picture:
        plot(demo, args.picture)
    print(f"{others}{text}\n{places(folder)}")


def table(demo: Demo) -> str:
    """Return the main table: one line per method."""
    columns = ["fine-tuned on", "AUROC of far rows", "far rows among them", "far recall before", "far recall after"]
    before = _cell(demo.recall[BEFORE])
    rows = [
        [
            described(one),
            "0.50 (chance)" if one.auroc is None else f"{one.auroc:.2f}",
            one.kinds[FAR],
            before,
            _cell(demo.recall[one.name]),
        ]
        for one in demo.trained
    ]
    return markdown_table(columns, rows)


def described(one: Trained) -> str:
    """Return what a model was trained on, such as ``best 36 by gateau_robust``."""
    name = NAMES.get(one.name, one.name)
    return f"{one.n_rows} {name}" if one.name == RANDOM else f"best {one.n_rows} by {name}"


def _cell(measure: dict[str, Any]) -> str:
    return f"{float(measure['score']):.0f} % [{float(measure['low']):.0f}, {float(measure['high']):.0f}]"


def sentence(demo: Demo) -> str:
    """Return what the table shows, with the paired differences between the best model and two others."""
    n_rows = next(one.n_rows for one in demo.trained if one.name == BEST)
    to_before, to_random = demo.difference(BEST, BEFORE), demo.difference(BEST, RANDOM)
    found = (
        f"Trained on the {n_rows} rows that {BEST} ranks first, the model recalls {_points(to_before)} more far notes "
        f"than before training and {_points(to_random)} more than after training on {n_rows} random rows "
        f"({demo.recall[BEST]['n']} new notes; in brackets are 95 % intervals)."
    )
    unclear = [name for name, found in (("first", to_before), ("second", to_random)) if found[1] <= 0]
    found += "".join(f" The {name} difference is not clearly above zero." for name in unclear)
    return textwrap.fill(found, 110)


def _points(difference: tuple[float, float, float]) -> str:
    value, low, high = difference
    return f"{value:.0f} points [{low:.0f}, {high:.0f}]"


def table_of_others(demo: Demo) -> str:
    """Return the other benchmarks' headline measures, without those that are the same for all models."""
    shown: dict[str, dict[str, str]] = {}
    for row in demo.measures:
        if row["benchmark"] != "recall" and row["headline"] == "True":
            judge = f", {row['judge']}" if row["judge"] else ""
            title = f"{titles()[row['benchmark']]} {row['name']} ({row['unit']}{judge})"
            shown.setdefault(title, {})[row["model"]] = f"{float(row['score']):.2f}"
    columns = [title for title, values in shown.items() if len(set(values.values())) > 1]
    models = list(demo.recall)
    rows = [[title, *(shown[title].get(model, UNKNOWN) for model in models)] for title in columns]
    if not rows:
        return ""
    return f"The other benchmarks on small generated items:\n\n{markdown_table(['measure', *models], rows)}\n\n"


def table_of_seeds(demos: Iterable[Demo]) -> str:
    """Return one line per run: the AUROC of far rows by method, and far recall before and after training."""
    lines = []
    for demo in demos:
        aurocs = {one.name: f"{one.auroc:.2f}" for one in demo.trained if one.auroc is not None}
        lines.append([demo.results.name, *aurocs.values(), *(_cell(row) for row in demo.recall.values())])
    names = [NAMES.get(name, name) for name in demo.recall]
    return markdown_table(["run", *(f"AUROC {name}" for name in aurocs), *(f"recall {n}" for n in names)], lines)


def places(folder: Path) -> str:
    """Return where the most interesting files are, and what to do next."""
    best = folder / "selection" / BEST
    found = [
        (folder / "report_page/index.html", "the whole run on one page: which rows, and why"),
        (best / "gateau_long.jsonl", "the selected rows, best first"),
        (best / "ranking.parquet", "the rank and the scores of every sample"),
        (folder / "samples/rejects.jsonl", "rows that were left out, and why"),
        (folder / "tokens/long_preview.html", "what a model reads and what it learns"),
        (folder / "plot_train/losses.png", "training and held-out losses"),
        (folder / "leaderboard/leaderboard.html", "all models on all benchmarks"),
        (folder / f"export/{BEST}/README.md", "the card of the model that was trained"),
    ]
    lines = [f"  {path!s:<55} {text}" for path, text in found]
    lines += [f"Talk to it:  .venv/bin/gateau chat --model {folder}/export/{BEST}"]
    return "\n".join(["Look at", *lines])


def plot(demo: Demo, output: Path) -> None:
    """Draw the kinds of the selected rows, and far recall with its 95 % intervals beside them."""
    figure, axes = make_figure(1, 2, size=(11, 3.4), width_ratios=(1.15, 1))
    left, right = axes[0]
    kinds = [FAR, *sorted({kind for one in demo.trained for kind in one.kinds} - {FAR})]
    shades = dict(zip(kinds, (COLOURS[0], *("#b8b8b8", "#cfcfcf", "#a0a0a0", "#dedede", "#8c8c8c")), strict=False))
    shades |= {kind: COLOURS[3] for kind in kinds if kind == "wrong"}
    labels = []
    for place, one in enumerate(demo.trained):
        start = 0
        for kind in kinds:
            left.barh(place, one.kinds[kind], left=start, color=shades[kind], edgecolor="white", height=0.62)
            start += one.kinds[kind]
        auroc = "no ranking" if one.auroc is None else f"AUROC of far rows {one.auroc:.2f}"
        labels.append(f"{NAMES.get(one.name, one.name)}\n{auroc}")
    left.set_yticks(range(len(labels)), labels)
    left.invert_yaxis()
    left.set(title="The rows that each method selects, by kind", xlabel="rows")
    left.grid(axis="y", visible=False)
    meanings = {"parametric": "no context needed"}
    handles = [left.barh(0, 0, color=shades[kind], label=meanings.get(kind, f"{kind} answer")) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds))
    for place, one in enumerate(demo.trained):
        row = demo.recall[one.name]
        colour = COLOURS[0] if one.name == BEST else GREY
        right.plot([float(row["low"]), float(row["high"])], [place, place], color=colour, linewidth=2.2)
        right.plot(float(row["score"]), place, "o", color=colour, markersize=7)
    before = demo.recall[BEFORE]
    right.axvspan(float(before["low"]), float(before["high"]), color="black", alpha=0.08, linewidth=0)
    right.axvline(float(before["score"]), color="black", linestyle="--", linewidth=1.2)
    right.annotate(" before training", (float(before["score"]), -0.48), fontsize=9, va="top")
    right.set_yticks(range(len(labels)), [])
    right.set(ylim=(len(labels) - 0.5, -0.5), xlim=(0, 100), xlabel="% of far notes recalled exactly, 95 % intervals")
    right.set_title(f"Recall of {before['n']} new far notes after training on them")
    save_figure(figure, output)


if __name__ == "__main__":
    run(main)
