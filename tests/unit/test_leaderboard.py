"""The leaderboard: one kind of numbers per table, published ones beside their own kind, and comparisons by item."""

import csv
import io
import json

import pytest

from gateau.errors import DataError
from gateau.evaluation.benchmarks import titles
from gateau.evaluation.results.leaderboard import (
    Entry,
    compare,
    published_entries,
    read_entries,
    to_csv,
    to_html,
    to_markdown,
)
from gateau.evaluation.results.measures import Measure, ScoredItem, measure_items, write_items, write_scores

from helpers import ROOT, run_script

PUBLISHED = ROOT / "workflow/resources/published_scores.json"


def needle_items(*scores, protocol="containment", name="all"):
    return [ScoredItem("needle", name, protocol, f"cell {n}", score) for n, score in enumerate(scores)]


def measured(model, items, **options):
    options = {"unit": "%", "data": "Needle", "headline": True} | options
    return Entry(model, "measured", measure_items(items, **options))


@pytest.fixture
def two():
    items = {"base": needle_items(0, 0, 100, 0), "better": needle_items(100, 0, 100, 100)}
    return [measured(model, its) for model, its in items.items()], items


def test_models_are_compared_on_the_same_items(two):
    entries, items = two
    (difference,) = compare(entries, items, "base")
    assert (difference.model, difference.n, difference.difference) == ("better", 4, 50)
    assert difference.low <= 50 <= difference.high
    with pytest.raises(DataError, match="none is not evaluated; evaluated are base, better"):
        compare(entries, items, "none")


def test_an_item_without_a_rating_of_one_model_is_left_out_of_the_comparison(two):
    entries, items = two
    items = {**items, "better": items["better"][:3]}
    assert compare(entries, items, "base")[0].n == 3


def test_a_category_gives_each_data_set_the_same_weight():
    def items(*scores):
        sets = ["hotpotqa"] * (len(scores) - 1) + ["musique"]
        return [
            ScoredItem("longbench", name, "strict", f"{name}/{n}", score)
            for n, (name, score) in enumerate(zip(sets, scores, strict=True))
        ]

    theirs, own = items(10, 10, 10, 60), items(0, 0, 0, 0)
    measure = Measure("longbench", "multi-doc QA", "strict", "%", 35, 0, 60, 4, "LongBench", headline=True)
    (found,) = compare([Entry("m", "measured", measure)], {"base": own, "m": theirs}, "base")
    assert found.difference == pytest.approx((10 + 60) / 2)


def test_different_protocols_data_and_judges_stand_in_different_tables(two):
    entries, _ = two
    ratings = needle_items(1, 10, protocol="judge")
    entries = [
        *entries,
        measured("base", ratings, unit="1-10", judge="gpt-4"),
        measured("base", ratings, unit="1-10", judge="another"),
        measured("base", needle_items(50), data="own small set"),
    ]
    headings = [line for line in to_markdown(entries, [], "base").splitlines() if line.startswith("## ")]
    assert len(headings) == 4
    assert sum("judge: gpt-4" in heading for heading in headings) == 1
    assert sum("items: own small set" in heading for heading in headings) == 1


def test_published_numbers_stand_beside_their_own_kind_only():
    published = published_entries(PUBLISHED, ["longbench", "longbench_chat"])
    names = [("single-doc QA", 0), ("multi-doc QA", 0), ("summarisation", 0)]
    own = [
        Entry("mine", "measured", Measure("longbench", name, "strict", "%", 1, 0, 2, 9, data, headline=True))
        for name, _ in names
        for data in ("LongBench", "own small set")
    ]
    text = to_markdown([*own, *published], [], "mine")
    beside, apart = text.split("items: own small set")
    assert "| mine  " in beside
    assert "GATEAU-5k-100k (published)" in beside
    own_table = apart.split("\n## ")[0]
    assert "mine" in own_table
    assert "published" not in own_table
    # (23.54 + 34.24 + 49.58 + 54.53) / 4, to two places
    means = {(e.model, e.measure.name): e.measure.score for e in published if e.measure.headline}
    assert means["GATEAU-1k-100k", "single-doc QA"] == 40.47
    assert means["GATEAU-5k-10k", "all"] == 5.9
    assert published_entries(PUBLISHED, ["needle"]) == []


def test_csv_holds_every_measure_and_html_no_address(two):
    entries, items = two
    entries = [*entries, *published_entries(PUBLISHED, ["longbench_chat"])]
    rows = list(csv.DictReader(io.StringIO(to_csv(entries))))
    assert [row["model"] for row in rows[:2]] == ["base", "better"]
    assert rows[0]["n"] == "4"
    assert rows[-1]["low"] == ""
    page = to_html([measured("<b>", needle_items(1, 2)), *entries], compare(entries, items, "base"), "base")
    assert "&lt;b&gt;" in page
    assert "http" not in page
    assert "<script" not in page


def test_the_script_writes_all_files(tmp_path, two):
    entries, items = two
    folders = {}
    for entry in entries:
        folder = tmp_path / entry.model
        write_scores(folder / "scores.json", {"anything": 1}, [entry.measure])
        write_items(folder / "items.jsonl", items[entry.model])
        folders[entry.model] = [str(folder)]
    assert read_entries(folders) == (entries, items)
    outputs = {"csv": "csv", "differences": "differences", "markdown": "md", "html": "html", "plot": "png"}
    arguments = [part for name, ending in outputs.items() for part in (f"--{name}", tmp_path / f"out.{ending}")]
    result = run_script(
        "leaderboard", "--scores", json.dumps(folders), "--baseline", "base", "--published", PUBLISHED,
        "--benchmarks", "needle", "longbench_chat", *arguments,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Against base" in (tmp_path / "out.md").read_text()
    assert (tmp_path / "out.png").stat().st_size > 5000
    assert "better,needle,containment,all" in (tmp_path / "out.differences").read_text()


def test_every_benchmark_has_a_title():
    assert set(titles()) == {"longbench", "longbench_e", "longbench_chat", "needle", "mt_bench", "recall"}
