"""What follows the selection, where it was run: trainings, benchmarks, labelled comparisons, and records of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gateau.evaluation import benchmarks as all_benchmarks
from gateau.evaluation.results.measures import OWN_UNIT
from gateau.report_page.numbers import duration, rounded
from gateau.report_page.results import Results
from gateau.reports import UNKNOWN

_WINDOW = 0.1  # of the steps: the moving mean of the training loss
LOSSES = {"loss": "training", "eval_loss_long": "held-out long samples", "eval_loss_short": "held-out short chats"}
_EXAMPLES = 6
_LONG = 600  # characters of an answer
_WIDTH = 9  # columns of a table


def trainings(results: Results) -> dict[str, Any] | None:
    """Return losses by kind, speeds and a table of all trainings; None if none has begun."""
    losses: dict[str, list[dict[str, Any]]] = {}
    speeds: list[dict[str, Any]] = []
    rows = []
    for name in results.experiments("train"):
        history = results.jsonl(f"train/{name}/history.jsonl") or []
        for key in LOSSES:
            points = [(one["step"], one[key]) for one in history if key in one]
            values = pd.Series([value for _, value in points], dtype=float)
            if key == "loss":
                values = values.rolling(max(round(_WINDOW * len(values)), 1), min_periods=1).mean()
            steps = [step for step, _ in points]
            losses.setdefault(key, []).extend(
                {"name": name, "step": step, "loss": rounded(value)} for step, value in zip(steps, values, strict=True)
            )
        speeds += [
            {"name": name, "step": one["step"], "speed": rounded(one["tokens_per_second"])}
            for one in history
            if "tokens_per_second" in one
        ]
        rows.append(_training(name, results.json(f"train/{name}/summary.json"), history))
    if not rows:
        return None
    kinds = {key: found for key, found in losses.items() if found}
    return {
        "losses": kinds,
        "titles": LOSSES,
        "speeds": speeds,
        "table": without_constants(pd.DataFrame(rows), "experiment"),
    }


def _training(name: str, summary: Mapping[str, Any] | None, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not summary:
        last = max((one["step"] for one in history), default=None)  # a training writes its history at its end
        state = f"not finished, see logs/train/{name}.log" if last is None else f"at step {last}"
        return {"experiment": name, "state": state}
    speed = summary.get("speed_of_this_run") or {}
    held_out = (summary.get("losses") or {}).get("eval_loss") or [None]
    mfu, peak = speed.get("mfu"), summary.get("peak_gpu_bytes")
    return {
        "experiment": name,
        "state": "finished",
        "steps": summary.get("steps"),
        "tokens": summary.get("tokens"),
        "time": duration(summary.get("seconds_of_this_run") or 0),
        "tokens/s": rounded(round(speed.get("tokens_per_second") or 0)),
        "MFU": UNKNOWN if mfu is None else f"{100 * mfu:.1f} %",
        "peak GPU memory, GB": UNKNOWN if peak is None else round(peak / 1e9, 1),
        "held-out loss before": rounded(held_out[0]),
        "held-out loss after": rounded(held_out[-1]),
    }


def without_constants(table: pd.DataFrame, key: str) -> dict[str, Any]:
    """Return titles, rows and a sentence: columns with one value for all rows become the sentence.

    Args:
        table: of strings and numbers.
        key: the column that is kept in any case.
    """
    constant = [name for name in table if name != key and len(table) > 1 and table[name].map(_cell).nunique() == 1]
    shown = table.drop(columns=constant)
    said = "; ".join(
        f"{name}: {_cell(table[name].iloc[0])}" for name in constant if _cell(table[name].iloc[0]) != UNKNOWN
    )
    unknown = [name for name in constant if _cell(table[name].iloc[0]) == UNKNOWN]
    if unknown:
        said += ("; " if said else "") + f"not measured: {', '.join(map(str, unknown))}"
    rows = [[_cell(value) for value in row] for row in shown.itertuples(index=False)]
    numbers = [place for place, name in enumerate(shown) if pd.api.types.is_numeric_dtype(shown[name])]
    return {"titles": list(shown), "rows": rows, "numbers": numbers, "same": said}


def _cell(value: Any) -> str:
    if value is None or value == UNKNOWN or (isinstance(value, float) and np.isnan(value)):
        return UNKNOWN
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float):
        return (
            f"{value:,.0f}"
            if value.is_integer() and abs(value) >= 10
            else f"{value:.3g}"
            if abs(value) < 1
            else f"{value:.2f}"
        )
    return str(value)


def benchmarks(results: Results) -> list[dict[str, Any]]:
    """Return one section per benchmark, protocol, data and judge of the leaderboard, with intervals and differences."""
    board = results.csv("leaderboard/leaderboard.csv")
    if board is None:
        return []
    board["judge"] = board["judge"].fillna("")
    differences, titles = results.csv("leaderboard/differences.csv"), all_benchmarks.titles()
    sections = []
    for (benchmark, protocol, data, judge), rows in board.groupby(
        ["benchmark", "protocol", "data", "judge"], sort=False
    ):
        measured = rows[rows["source"] == "measured"]
        if measured.empty:
            continue
        headline = measured[measured["headline"]]
        unit = str(measured["unit"].iloc[0])
        said = [f"protocol {protocol}", f"in {unit}", str(data)] + [f"judge: {judge}"] * bool(judge)
        if "note" in measured:  # runs of earlier versions have no notes
            said += dict.fromkeys(headline["note"].dropna())
        tables = [_scores(rows, differences, str(benchmark), str(protocol))]
        folder = all_benchmarks.of_measure(benchmark).name if benchmark in titles else str(benchmark)
        models = list(dict.fromkeys(measured["model"]))
        sections.append(
            {
                "benchmark": titles.get(str(benchmark), str(benchmark)),
                "about": "; ".join(said),
                "intervals": [
                    {"name": f"{row.model}" if headline["name"].nunique() == 1 else f"{row.model}: {row.name_}",
                     "value": rounded(row.score), "low": rounded(row.low), "high": rounded(row.high)}
                    for row in headline.rename(columns={"name": "name_"}).itertuples()
                ],
                "has_intervals": bool(headline["low"].notna().any()),
                "measure": ", ".join(dict.fromkeys(headline["name"])) + f" ({unit})",
                "tables": tables,
                "heatmaps": heatmaps(results, folder, models, is_judged=bool(judge)),
                "best": 10 if judge else 1,
                "examples": examples(results, folder, models, str(benchmark), str(protocol)),
            }
        )  # fmt: skip
    return sections


def _scores(rows: pd.DataFrame, differences: pd.DataFrame | None, benchmark: str, protocol: str) -> dict[str, Any]:
    """Return the table of a section: one row per model and measure."""
    told: dict[tuple[str, str], Mapping[Any, Any]] = {}
    if differences is not None:
        own = differences[(differences["benchmark"] == benchmark) & (differences["protocol"] == protocol)]
        told = {(row["model"], row["name"]): row for row in own.to_dict("records")}
    found = []
    for row in rows.to_dict("records"):
        other = told.get((row["model"], row["name"]))
        measured, places = row["source"] == "measured", 4 if row["unit"] == OWN_UNIT else 1
        found.append(
            {
                "model": row["model"] if measured else f"{row['model']} ({row['source']})",
                "measure": row["name"],
                "score": f"{row['score']:.{places}f}",
                "95 % interval": _interval(row["low"], row["high"], places) if measured else UNKNOWN,
                "difference to the baseline": UNKNOWN if other is None else _difference(other, places),
                "items": int(row["n"]) if measured else None,
                "without a rating": int(row["nulls"]) if measured else None,
            }
        )
    return without_constants(pd.DataFrame(found, dtype=object), "model")


def _difference(row: Mapping[Any, Any], places: int) -> str:
    interval = _interval(row["low"], row["high"], places, "+")
    return f"{row['difference']:+.{places}f} {interval}".removesuffix(f" {UNKNOWN}")


def _interval(low: float, high: float, places: int, sign: str = "") -> str:
    """Return an interval for a table; a measure of a single cluster has none."""
    return UNKNOWN if pd.isna(low) else f"[{low:{sign}.{places}f}, {high:{sign}.{places}f}]"


def judging(results: Results) -> dict[str, Any] | None:
    """Return a table of what the judge was asked and what it cost; None without a judge."""
    rows = []
    for path in results.files("judge/*/*/summary.json"):
        model, benchmark = path.parts[-3:-1]
        told = results.json(path.relative_to(results.folder).as_posix())
        if told:
            usage = told.get("usage") or {}
            rows.append(
                {"model": model, "benchmark": benchmark, "judge": told.get("judge"), "calls": told.get("calls"),
                 "answers from the cache": told.get("cached"), "prompt tokens": usage.get("prompt_tokens"),
                 "completion tokens": usage.get("completion_tokens"), "cost": told.get("cost")}
            )  # fmt: skip
    return without_constants(pd.DataFrame(rows), "model") if rows else None


def heatmaps(
    results: Results, benchmark: str, models: Sequence[str], is_judged: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Return by model the answers that have a length and a depth, with their score or the judge's rating."""
    found, names = {}, ("length", "depth", "score")
    for model in models:
        report = results.json(f"score_{benchmark}/{model}/scores.json") or {}
        part = report.get("judge") if is_judged else report
        answers = (part.get("answers") if isinstance(part, Mapping) else None) or []
        cells = [
            {name: one[name] for name in names} for one in answers if all(one.get(name) is not None for name in names)
        ]
        if cells:
            found[model] = cells
    return found


def examples(
    results: Results, benchmark: str, models: Sequence[str], measured: str, protocol: str
) -> list[dict[str, Any]]:
    """Return items with all models' answers and scores: first those on which the models differ most.

    Args:
        results: the results folder.
        benchmark: name of the benchmark and of its folders.
        models: names of the models.
        measured: what measures call the benchmark: LongBench's are of ``longbench`` or ``longbench_e``.
        protocol: of the scores.
    """
    scores: dict[str, dict[str, float]] = {}
    for model in models:
        for row in results.jsonl(f"score_{benchmark}/{model}/items.jsonl") or []:
            if (row["benchmark"], row["protocol"]) == (measured, protocol):
                scores.setdefault(row["item"], {}).setdefault(model, row["score"])
    spread = {item: max(found.values()) - min(found.values()) for item, found in scores.items()}
    order = sorted(scores, key=lambda item: (-spread[item], item))
    # of the items on which all agree, the worst and the best
    chosen = [item for item in order if spread[item] > 0][:_EXAMPLES]
    same = sorted((item for item in order if spread[item] == 0), key=lambda item: max(scores[item].values()))
    chosen += list(dict.fromkeys([*same[:1], *same[-1:]]))
    answers = {model: _answers(results, benchmark, model, set(chosen)) for model in models}
    found = []
    for item in chosen:
        rows = [
            {"model": model, "answer": answers[model][item]["answer"], "score": _cell(scores[item].get(model))}
            for model in models
            if item in answers[model]
        ]
        if rows:
            first = next(answers[row["model"]][item] for row in rows)
            found.append({"item": item, "question": first["question"], "expected": first["expected"], "rows": rows})
    return found


def _answers(results: Results, benchmark: str, model: str, items: set[str]) -> dict[str, dict[str, str]]:
    """Return question, expected answer and answer of these items, shortened. A turn of several is ``<item>-<turn>``."""
    found = {}
    for path in results.files(f"generate/{model}/{benchmark}/*.jsonl"):
        for row in results.jsonl(path.relative_to(results.folder).as_posix()) or []:
            turns = row["turns"]
            names = [f"{row['item']}-{number}" for number in range(1, len(turns) + 1)] if turns[1:] else [row["item"]]
            if items.isdisjoint(names):
                continue
            record = row.get("record") or {}
            expected = next((record[name] for name in all_benchmarks.load(benchmark).expected if record.get(name)), "")
            if isinstance(expected, list):
                expected = " / ".join(map(str, expected))
            question = record.get("query") or record.get("question") or ""
            for name, turn in zip(names, turns, strict=True):
                texts = {"question": question, "expected": expected, "answer": turn["text"]}
                found[name] = {key: _short(str(text)) for key, text in texts.items()}
    return found


def _short(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]} …"


def evidence(results: Results) -> dict[str, Any]:
    """Return the tables of labelled data: methods compared, open choices, sensitivity and the miniature study."""
    found: dict[str, Any] = {}
    methods = results.csv("comparison/methods.csv")
    if methods is not None:
        found["positives"] = f"{methods['positives'].iloc[0]:,} of {methods['n'].iloc[0]:,} samples should come first"
        found["intervals"] = [
            {"name": str(row.experiment), "value": rounded(row.auroc), "low": rounded(row.auroc_low),
             "high": rounded(row.auroc_high)}
            for row in methods.itertuples()
        ]  # fmt: skip
        found["methods"] = without_constants(_joined(methods.drop(columns=["n", "positives"])), "experiment")
    for name, path, key in (
        ("choices", "choices/choices.csv", "experiment"), ("sensitivity", "sensitivity/sensitivity.csv", "change"),
        ("miniature", "miniature_summary/miniature.csv", "experiment"),
    ):  # fmt: skip
        table = results.csv(path)
        if table is not None:
            found[name] = without_constants(_joined(table.head(10) if name == "choices" else table), key)
            found[name]["rows_in_all"] = len(table)
    return found


def _joined(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each value and its two columns of interval in one cell, and no more columns than fit."""
    made: dict[str, Any] = {}
    for name in map(str, table):
        if name.endswith(("_low", "_high")):
            continue
        title = name.replace("_", " ").replace("auroc", "AUROC")
        if f"{name}_low" in table and f"{name}_high" in table:
            rows = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
            made[title] = [UNKNOWN if pd.isna(a) else f"{a:.2f} [{b:.2f}, {c:.2f}]" for a, b, c in rows]
        else:
            made[title] = table[name]
    return pd.DataFrame(made).iloc[:, :_WIDTH]


def records(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what the manifests say: folders, versions, raw data and machines; None if there is none."""
    if not manifests:
        return None
    rows = []
    for one in manifests:
        git = one["git"] or {}
        commit = f"{git['commit'][:12]}{', modified' if git['modified'] else ''}" if git else UNKNOWN
        size = sum(entry["n_bytes"] for entry in one["files"].values())
        rows.append(
            {"folder": one["folder"], "made (UTC)": one["made"][:19].replace("T", " "), "files": len(one["files"]),
             "MB": round(size / 1e6, 2), "git commit": commit, "configuration": one["config_sha256"][:12]}
        )  # fmt: skip
    return {
        "folders": without_constants(pd.DataFrame(rows), "folder"),
        "versions": sorted({pair for one in manifests for pair in one["versions"].items()}),
        "data": sorted(
            {(name, entry["n_bytes"], entry["sha256"][:12]) for one in manifests for name, entry in one["data"].items()}
        ),
        "machines": sorted({line for one in manifests for line in one["environments"]}),
    }
