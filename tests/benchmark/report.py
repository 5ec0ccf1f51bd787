"""What a run of the suite writes: bench.json, bench.md and bench.png, and the comparison of two runs."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gateau.files import write_json, write_text
from gateau.reports import COLOURS, UNKNOWN, make_figure, markdown_table, save_figure

from benchmark.harness import ROOT

LIBRARIES = ("torch", "transformers", "snakemake", "pandas", "pyarrow")
TITLES = ("part", "case", "ways, a / b", "unit", "a", "b", "ratio", "quartiles", "share", "what bounds it")
MOST_ROWS = 24  # of a part, in the table and the picture
HEAD = (
    "Every figure is the ratio a / b of two ways in one run: the median of alternating rounds, with quartiles. Above "
    "1, way b (this project) needs less than way a. The share is that of the bound, where the bound has a number."
)


def surroundings(device: str) -> dict[str, Any]:
    """Return the machine, the versions and the date of a run."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "gpu": gpu_name(device),
        },
        "versions": {
            "python": platform.python_version(), **{name: installed(name) for name in LIBRARIES}, "commit": commit,
        },
    }  # fmt: skip


def installed(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpu_name(device: str) -> str | None:
    """Return the name of the GPU, or None on the CPU."""
    if device != "cuda":
        return None
    import torch

    return str(torch.cuda.get_device_name())


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Write bench.json, bench.md and bench.png."""
    write_json(folder / "bench.json", result)
    write_text(folder / "bench.md", markdown(result))
    draw(folder / "bench.png", result)


def number(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.2e}"


def line(row: Mapping[str, Any]) -> str:
    """Return a row in one line."""
    return f"{row['part']}: {row['case']}: {row['way_a']} / {row['way_b']} ({row['unit']}) = {number(row['ratio'])}"


def markdown(result: Mapping[str, Any]) -> str:
    """Return the table of a run, and what its parts mean."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        "# Benchmark", "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB, GPU: "
        f"{machine['gpu'] or 'none'}. {', '.join(f'{name} {value}' for name, value in versions.items())}. "
        f"{result['date']}.", "",
        *(["**Quick run: tiny sizes, which show only that everything works.**", ""] if result["quick"] else []),
        HEAD,
    ]  # fmt: skip
    rows = [cells(row) for part in result["parts"] for row in shown(result, part)]
    lines += ["", markdown_table(TITLES, rows, numbers=(4, 5, 6, 7, 8)), "", "## What the parts mean", ""]
    for part, about in result["parts"].items():
        n_rows = sum(row["part"] == part for row in result["rows"])
        few = f" The least, the middle and the largest of {n_rows} ratios are shown." if n_rows > MOST_ROWS else ""
        lines.append(f"- **{part}**: {about['meaning']}{few}")
    return "\n".join(lines) + "\n"


def shown(result: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    """Return the rows of a part; of very many rows, those with the least, the middle and the largest ratio."""
    rows = [row for row in result["rows"] if row["part"] == part]
    if len(rows) <= MOST_ROWS:
        return rows
    ordered = sorted(rows, key=lambda row: float(row["ratio"]))
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of a row of the table."""
    share = UNKNOWN if row["share"] is None else f"{row['share']:.2f}"
    spread = f"{number(row['low'])} to {number(row['high'])}" if row["rounds"] > 1 else UNKNOWN
    scale, unit = (1e6, f"M{row['unit']}") if row["unit"].startswith("B") else (1.0, row["unit"])
    return [
        row["part"], row["case"], f"{row['way_a']} / {row['way_b']}", unit, *(number(row[way] / scale) for way in "ab"),
        f"**{number(row['ratio'])}**", spread, share, row["bound"],
    ]  # fmt: skip


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """Draw a bar for each ratio, from 1 to it, with its quartiles, on a logarithmic axis; one colour for each part."""
    parts = list(result["parts"])
    rows = [row for part in parts for row in shown(result, part)]
    places, labels, place, last = [], [], 0.0, None
    for row in rows:
        place += 1.0 if row["part"] == last else 1.9
        last = row["part"]
        places.append(place)
        labels.append(f"{row['case']}\n{row['way_a']} / {row['way_b']}, {row['unit']}")
    figure, axes = make_figure(size=(11, 1.6 + 0.36 * place))
    panel = axes[0, 0]
    panel.set_xscale("log")
    for row, at in zip(rows, places, strict=True):
        colour = COLOURS[parts.index(row["part"]) % len(COLOURS)]
        ratio, low, high = row["ratio"], row["low"], row["high"]
        panel.barh(at, ratio - 1, left=1, height=0.62, color=colour, alpha=0.85)
        panel.plot([low, high], [at, at], color="black", linewidth=1.4, solid_capstyle="butt")
        end = max(high, ratio, 1.0)
        panel.annotate(number(ratio), (end, at), (4, 0), textcoords="offset points", va="center", fontsize=8)
    panel.axvline(1, color="black", linewidth=0.9)
    panel.set_yticks(places, labels, fontsize=7.5, linespacing=1.05)
    for part in parts:
        if own := [at for row, at in zip(rows, places, strict=True) if row["part"] == part]:
            panel.annotate(part, (0.005, min(own) - 0.85), xycoords=("axes fraction", "data"), fontsize=10,
                           fontweight="bold", va="center")  # fmt: skip
    low = min(min(row["low"] for row in rows), 0.5)
    high = max(max(row["high"] for row in rows), 2.0)
    panel.set(xlim=(low / 1.5, high * 2.2), ylim=(place + 0.9, 0.3), xlabel="a / b (logarithmic)")
    panel.grid(axis="y", visible=False)
    machine = result["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    quick = "quick run, tiny sizes" if result["quick"] else f"commit {result['versions']['commit']}"
    panel.set_title(f"Right of 1: this project (b) needs less than the other way or the bound (a)\n{where}; {quick}")
    save_figure(figure, path)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return a table of the figures that two runs share: the ratio of their ratios, marked if it exceeds the spread.

    A figure has changed if the quartiles of the two runs do not overlap. One round has no quartiles.
    """
    old = {(row["part"], row["case"], row["way_a"], row["way_b"], row["unit"]): row for row in before["rows"]}
    rows = []
    for row in after["rows"]:
        key = (row["part"], row["case"], row["way_a"], row["way_b"], row["unit"])
        if key not in old:
            continue
        was = old[key]
        if min(row["rounds"], was["rounds"]) < 2:
            mark = "unknown: one round"
        else:
            mark = (
                "better" if row["low"] > was["high"] else "worse" if row["high"] < was["low"] else "within the spread"
            )
        shown = [f"{number(one['ratio'])} ({number(one['low'])} to {number(one['high'])})" for one in (was, row)]
        rows.append([row["part"], row["case"], f"{row['way_a']} / {row['way_b']}, {row['unit']}", *shown,
                     f"{row['ratio'] / was['ratio']:.2f}", mark])  # fmt: skip
    commits = [run["versions"]["commit"] for run in (before, after)]
    titles = ("part", "case", "a / b", f"before ({commits[0]})", f"after ({commits[1]})", "after / before", "change")
    return markdown_table(titles, rows, numbers=range(3, 6))
