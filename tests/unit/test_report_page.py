"""The page of a run without a browser: exact counts, what is embedded, missing stages, hostile texts, sizes."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st

from gateau.errors import DataError
from gateau.files import write_json
from gateau.report_page import charts, later, overview, samples
from gateau.report_page.compare import correlations, overlaps, read_selections
from gateau.report_page.page import as_script, make_page
from gateau.report_page.pool import read_pool, read_rankings
from gateau.report_page.results import Results
from gateau.report_page.samples import far_contributions, interesting_ids, point_ids
from gateau.schemas import MIXTURE
from gateau.selection.awareness import far_evidence
from gateau.tables import write_rows
from page_results import NASTY, make_results, write_manifest

from helpers import run_script, write_jsonl


@pytest.fixture(scope="module", autouse=True)
def no_library():
    """The library takes seconds to pack, and only a browser reads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vl_convert, "javascript_bundle", lambda: "")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 120 samples, two of which have no scores. Returns (folder, page, data)."""
    folder = make_results(tmp_path_factory.mktemp("run") / "results", bad=("no_context", "non_finite"))
    page = make_page(folder, folder / "report_page/index.html")
    return folder, page, data_of(page)


def data_of(page):
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_funnel_counts_every_row_once(run):
    folder, _, _ = run
    results = Results(folder)
    pool, rankings = read_pool(results), read_rankings(results)
    steps = {
        one["label"]: one["count"] for one in overview.funnel(results.json("samples/summary.json"), pool, rankings)
    }
    assert steps["rows read"] == 127 == steps["samples"] + sum(n for name, n in steps.items() if "rejected" in name)
    assert steps["samples"] == 120 == steps["scored"] + steps["status no_context"] + steps["status non_finite"]
    assert steps["gateau: ranked"] == steps["gateau_robust: ranked"] == 118
    assert (
        steps["gateau: selected"]
        == 24
        == json.loads((folder / "selection/gateau/summary.json").read_text())["selected"]
    )


def test_the_page_holds_what_the_tables_hold(run):
    folder, _, data = run
    explorer = data["explorer"]
    ids = explorer["points"]["id"]
    assert sorted(ids) == sorted(pd.read_parquet(folder / "samples/samples.parquet")["id"])
    scores = pd.read_parquet(folder / "scores/scores.parquet").set_index("id")
    for experiment in explorer["experiments"]:
        ranking = pd.read_parquet(folder / "selection" / experiment["name"] / "ranking.parquet").set_index("id")
        found = pd.DataFrame({name: experiment[name] for name in ("rank", "score", "hmp", "cas")}, index=ids).loc[
            ranking.index
        ]
        np.testing.assert_array_equal(found["rank"], ranking["rank"])
        for name in ("score", "hmp", "cas"):
            np.testing.assert_allclose(found[name].astype(float), ranking[name], rtol=1e-5, atol=1e-12)
        total = sum(part["weight"] * pd.Series(part["normed"], ids).loc[ranking.index] for part in experiment["parts"])
        np.testing.assert_allclose(total.astype(float), ranking["score"], rtol=1e-5)
        selected = [row for row, state in zip(ids, experiment["state"], strict=True) if state == 0]
        lines = (ranking.loc[~ranking["held_out"]].sort_values("rank").index[:24]).tolist()
        assert sorted(selected) == sorted(lines)
    for row_id, detail in explorer["details"].items():
        if "nll" not in detail:
            assert row_id in ("s000000", "s000001")
            continue
        for name, column in (("nll", "segment_nll"), ("attention", "segment_attention"), ("long", "token_nll_long")):
            np.testing.assert_allclose(detail[name], scores.loc[row_id, column], rtol=1e-5)


def test_a_screen_is_told_and_segments_that_were_not_read_have_no_numbers(tmp_path):
    folder = make_results(tmp_path / "results", n=60, in_part=20, screened_out=30)
    data = data_of(make_page(folder, folder / "report_page/index.html"))
    explorer, pool, rankings = data["explorer"], read_pool(Results(folder)), read_rankings(Results(folder))
    for experiment in explorer["experiments"]:
        states = [explorer["states"][state] for state in experiment["state"]]
        without = [state for state, score in zip(states, experiment["score"], strict=True) if score is None]
        assert without.count("screened out") + without.count("held out") == len(without) == 30
        assert states.count("screened out") >= 28
        assert sum(part["normed"].count(None) for part in experiment["parts"]) == 30
    steps = {one["label"]: one for one in overview.funnel(None, pool, rankings)}
    assert steps["scored"]["count"] == steps["gateau: ranked"]["count"] == 60
    assert steps["scored"]["remark"] == "30 screened out: without the segment pass"
    assert "without a score, ranked last" in steps["gateau: ranked"]["remark"]
    detail = explorer["details"]["s000000"]
    read = [number % 2 == 0 for number in range(len(detail["nll"]))]
    for name in ("nll", "importance", "far"):
        assert [value is not None for value in detail[name]] == read
    assert None not in detail["attention"]
    whole = make_results(tmp_path / "whole", n=60, screened_out=55, experiments=("hmg",)) / "selection"
    ranking = pd.read_parquet(whole / "hmg/ranking.parquet")
    assert ranking["score"].notna().all()
    taken = rankings[0].table.assign(state="selected")
    said = overview.warnings(pool, [replace(rankings[0], table=taken)], None)
    assert any("selects 30 samples without a score" in one["what"] for one in said)


def test_segments_and_tokens_are_cut_where_the_passes_cut_them(run):
    folder, _, data = run
    texts = pd.read_parquet(folder / "samples/samples.parquet").set_index("id")
    for row_id, detail in data["explorer"]["details"].items():
        if "segments" in detail:
            assert detail["exact"]
            assert "".join(detail["segments"]) == texts.loc[row_id, "context"]
            assert "".join(detail["tokens"]) == texts.loc[row_id, "response"]
            assert len(detail["tokens"]) == len(detail["long"])


def test_texts_cannot_end_the_script(run):
    _, page, data = run
    assert page.count("</script>") == 3
    assert "window.attacked" not in page.split('id="data"')[0]
    held = "".join(piece for one in data["explorer"]["details"].values() for piece in one.get("segments", []))
    assert all(nasty in held for nasty in NASTY[2:])
    assert json.loads(as_script(NASTY)) == list(NASTY)
    assert not set("<>&\u2028") & set(as_script(NASTY))


def test_the_same_results_give_the_same_page_which_asks_for_nothing(run):
    folder, page, _ = run
    assert make_page(folder, folder / "report_page/index.html") == page
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)


def test_the_best_the_worst_and_the_cut_of_every_experiment_are_embedded(tmp_path):
    folder = make_results(tmp_path / "results", 700)
    results = Results(folder)
    pool, rankings = read_pool(results), read_rankings(results)
    ids = interesting_ids(rankings, pool, ["s000699"])
    assert ids[0] == "s000699"
    assert len(ids) == len(set(ids)) < 700
    for ranked in rankings:
        order = ranked.table.index.tolist()
        cut = ranked.table.index[ranked.table["state"] == "selected"].map(order.index).max() + 1
        assert {*order[:50], *order[-50:], *order[cut - 25 : cut + 25]} <= set(ids)
    drawn = point_ids(pool, ids, most=500)
    assert drawn[: len(ids)] == ids
    assert len(drawn) == len(set(drawn)) == 500


@pytest.mark.parametrize("kept", ["nothing", "samples", "index", "scores", "one experiment"])
def test_a_run_in_progress_has_a_page_that_says_what_is_missing(run, tmp_path, kept):
    order = ["samples", "index", "scores", "one experiment"]
    folder = tmp_path / "results"
    folder.mkdir()
    for name in order[: order.index(kept) + 1] if kept in order else []:
        source = "selection/gateau" if name == "one experiment" else name
        shutil.copytree(run[0] / source, folder / source)
    page = make_page(folder, folder / "index.html")
    said = {
        "nothing": ["No samples yet"], "samples": ["No experiment has a ranking yet"],
        "index": ["Nothing to compare yet"], "scores": ["no experiment has selected samples"],
        "one experiment": ["There is one experiment"],
    }  # fmt: skip
    for sentence in [*said[kept], "No training was run", "There is no leaderboard", "There is no labelled comparison"]:
        assert sentence in page, sentence
    if kept in ("nothing", "samples", "index"):
        assert "There is no manifest yet" in page
        return
    assert data_of(page)["explorer"]["n"] == 120


def test_one_sample_has_a_page(tmp_path):
    data = data_of(make_page(make_results(tmp_path / "results", 1), tmp_path / "index.html"))
    assert [one["selected"] for one in data["explorer"]["experiments"]] == [1, 1]


def test_without_the_tokenizer_the_page_says_so(run, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(run[0], folder)
    write_manifest(folder, models={"long": str(tmp_path / "moved")})
    page = make_page(folder, folder / "index.html")
    assert "cut at even distances, because" in page
    detail = next(one for one in data_of(page)["explorer"]["details"].values() if "segments" in one)
    assert not detail["exact"]
    assert "tokens" not in detail


def test_a_broken_file_is_named(run, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(run[0], folder)
    (folder / "selection/gateau/ranking.parquet").write_bytes(b"PAR1")
    (folder / "leaderboard").mkdir()
    (folder / "leaderboard/leaderboard.csv").write_text("")
    page = make_page(folder, folder / "index.html")
    assert "selection/gateau/ranking.parquet cannot be read" in page
    assert "leaderboard/leaderboard.csv cannot be read" in page
    assert [one["name"] for one in data_of(page)["explorer"]["experiments"]] == ["gateau_robust"]


def test_folders_of_experiments_that_are_gone_are_left_out(run, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(run[0], folder)
    for name in ("selection/renamed", "selection/added"):
        shutil.copytree(run[0] / "selection/gateau", folder / name)
    for stage in ("mixture", "train"):
        (folder / stage / "removed").mkdir(parents=True)
    write_rows(
        folder / "mixture/removed/mixture.parquet", MIXTURE,
        [{"source": "long", "row": 0, "id": "s000001", "n_tokens": 9, "n_targets": 1, "split": "train"}],
    )  # fmt: skip
    write_manifest(folder, experiments={"gateau": {}, "gateau_robust": {}})
    later_than_the_manifest = (folder / "scores/manifest.json").stat().st_mtime + 10
    os.utime(folder / "selection/added", (later_than_the_manifest,) * 2)
    page = make_page(folder, folder / "index.html")
    assert [one["name"] for one in data_of(page)["explorer"]["experiments"]] == ["gateau", "gateau_robust", "added"]
    assert "removed</" not in page
    for name in ("selection/renamed", "mixture/removed", "train/removed"):
        assert f"{name} is left out: the configuration has no such experiment; delete the folder" in page


@pytest.mark.parametrize("stage", ["selection", "mixture"])
def test_a_selection_of_samples_that_are_gone_is_left_out(run, tmp_path, stage):
    folder = make_results(tmp_path / "results", 60)
    shutil.rmtree(folder / "selection/gateau_robust")
    if stage == "selection":
        shutil.copytree(run[0] / "selection/gateau_robust", folder / "selection/gateau_robust")
    else:
        (folder / "mixture/gateau_robust").mkdir(parents=True)
        row = {"source": "long", "row": 0, "id": "s000100", "n_tokens": 9, "n_targets": 1, "split": "train"}
        write_rows(folder / "mixture/gateau_robust/mixture.parquet", MIXTURE, [row])
    page = make_page(folder, folder / "index.html")
    assert [one["name"] for one in data_of(page)["explorer"]["experiments"]] == ["gateau"]
    assert f"{stage}/gateau_robust is left out: samples/samples.parquet has no sample &#39;s000" in page
    assert "There is one experiment" in page


@pytest.mark.parametrize("fault", ["a column of today is missing", "no table", "texts are missing"])
def test_a_table_that_cannot_be_read_fails_a_part_of_the_page_only(run, tmp_path, monkeypatch, fault):
    folder = tmp_path / "results"
    shutil.copytree(run[0], folder)
    scores = folder / "scores/scores.parquet"
    if fault == "no table":
        scores.write_bytes(b"PAR1")
    elif fault == "texts are missing":
        read = Results.rows
        monkeypatch.setattr(Results, "rows", lambda *given: [one for one in read(*given) if one["id"] != "s000007"])
    else:
        pq.write_table(pq.read_table(scores).drop_columns(["segment_weight"]), scores)
    page = make_page(folder, folder / "index.html")
    details = data_of(page)["explorer"]["details"]
    assert page.count("scores/scores.parquet cannot be read") == (fault != "texts are missing")
    assert len(details) == len(run[2]["explorer"]["details"]) - (fault == "texts are missing")
    assert any("segments" in one for one in details.values()) == (fault == "texts are missing")


def test_long_contexts_stay_below_the_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_MOST_BYTES", 300_000)
    folder = make_results(tmp_path / "results", 60, words=6000)
    page = make_page(folder, folder / "index.html")
    assert len(page.encode()) < 450_000
    details = data_of(page)["explorer"]["details"]
    assert 0 < len(details) < 60
    for detail in details.values():
        assert len(detail["segments"]) == len(detail["nll"]) > 64
        assert None in detail["segments"]
        assert detail["segments"][int(np.argmax(detail["attention"]))] is not None


@given(st.lists(st.floats(0.01, 9), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_the_contributions_of_segments_add_up_to_the_far_evidence(nll):
    assert far_contributions(nll).sum() == pytest.approx(far_evidence(nll), rel=1e-9, abs=1e-12)


def test_warnings_say_what_is_the_case_and_what_to_do(run):
    results = Results(run[0])
    pool, (ranked, _) = read_pool(results), read_rankings(results)
    pool["truncated_tokens"] = [5] * 60 + [0] * 60
    ranked.summary.update(spearman_with_length=0.72, near_duplicates=40)
    (what,) = (one["what"] for one in overview.warnings(None, [ranked] * 13, None) if "near duplicates" in one["what"])
    assert what.count("near duplicates") == 3
    assert what.endswith(" 10 more experiments do so, too.")
    intake = {"rows": 10, "rejected": 4, "rejected_by_reason": {"not_json": 4}}
    found = [one["what"] for one in overview.warnings(pool, [ranked], intake)]
    for words in (
        "1 samples have scores that are NaN", "1 of 120 samples have no context", "60 samples (50 %) was cut",
        "follows length (Spearman +0.72): it prefers long", "leaves out 40 near duplicates, 34 %", "40 % of the rows",
    ):  # fmt: skip
        assert any(words in what for what in found), words
    asked = {"rows": 10, "rejected": 8, "rejected_by_reason": {"not_drawn": 5, "duplicate_content": 2, "not_json": 1}}
    assert not any("of the rows" in one["what"] for one in overview.warnings(pool, [ranked], asked))
    asked["rejected_by_reason"] |= {"not_drawn": 4, "not_json": 2}
    assert any("20 % of the rows were rejected (2 of 10)" in one["what"] for one in overview.warnings(pool, [], asked))
    ranked.summary.update(spearman_with_length=0.1, near_duplicates=0)
    assert overview.warnings(read_pool(results).iloc[2:], [ranked], {"rows": 10, "rejected_by_reason": {}}) == []


def test_overlaps_and_correlations_by_hand(run):
    results = Results(run[0])
    rankings = read_rankings(results)
    selections = read_selections(results, rankings)
    first, second = selections.values()
    shared = {(one["first"], one["second"]): one for one in overlaps(selections)}
    assert shared["gateau", "gateau_robust"]["shown"] == str(len(first & second))
    assert shared["gateau", "gateau_robust"]["jaccard"] == pytest.approx(
        len(first & second) / len(first | second), abs=1e-3
    )
    a, b = (ranked.table["rank"].sort_index().to_numpy() for ranked in rankings)
    n = len(a)
    expected = 1 - 6 * ((a - b) ** 2).sum() / (n * (n**2 - 1))
    assert correlations(rankings)[1]["spearman"] == pytest.approx(expected, abs=1e-3)


def test_constant_columns_become_a_sentence():
    table = pd.DataFrame({"model": ["a", "b"], "unit": ["%", "%"], "n": [None, None], "score": [1.5, 2.5]})
    found = later.without_constants(table, "model")
    assert found["titles"] == ["model", "score"]
    assert found["rows"] == [["a", "1.50"], ["b", "2.50"]]
    assert found["same"] == "unit: %; not measured: n"


def test_trainings_benchmarks_and_labelled_data_are_shown(run, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(run[0], folder)
    for name, loss in (("gateau", 2.0), ("random", 3.0)):
        (folder / "train" / name).mkdir(parents=True)
        history = [{"step": step, "loss": loss - step / 10} for step in range(1, 11)]
        (folder / "train" / name / "history.jsonl").write_text("\n".join(map(json.dumps, history)))
    note = "one needle: positions only"
    board = "model,source,benchmark,name,protocol,unit,score,low,high,n,data,judge,nulls,headline,clusters,note\n"
    board += "".join(
        f"{m},measured,needle,all,containment,%,{s},,,4,own,,0,True,1,{note}\n"
        f"{m},measured,mt_bench,average,single,1-10,{s / 10},1,9,4,own,j,0,True,2,\n"
        for m, s in (("a", 25), ("b", 75))
    )
    differences = "model,benchmark,protocol,name,unit,difference,low,high,p_value,n,clusters\n"
    differences += "b,needle,containment,all,%,50,,,,4,1\nb,mt_bench,single,average,1-10,5,1,6,0.1,4,2\n"
    (folder / "leaderboard").mkdir()
    (folder / "leaderboard/leaderboard.csv").write_text(board)
    (folder / "leaderboard/differences.csv").write_text(differences)
    for model in "ab":
        (folder / f"score_needle/{model}").mkdir(parents=True)
        (folder / f"generate/{model}/needle").mkdir(parents=True)
        answers = [{"depth": 10, "length": 100, "score": 1.0, "id": "n0"}]
        write_json(folder / f"score_needle/{model}/scores.json", {"answers": answers, "measures": []})
        item = {"benchmark": "needle", "name": "all", "protocol": "containment", "item": "n0"}
        (folder / f"score_needle/{model}/items.jsonl").write_text(json.dumps({**item, "score": 100.0 * (model == "a")}))
        answer = {
            "item": "n0",
            "record": {"question": "Where?", "needle": "<b>There</b>"},
            "turns": [{"text": f"said {model}"}],
        }
        (folder / f"generate/{model}/needle/0.jsonl").write_text(json.dumps(answer))
    page = make_page(folder, folder / "index.html")
    made = data_of(page)["charts"]
    last = [one["loss"] for one in made["loss-loss"]["data"]["values"] if one["step"] == 10]
    assert last == [1.0, 2.0]
    assert {"scores-0", "scores-1", "heatmap-0-0", "heatmap-0-1"} <= set(made)
    assert [(one["low"], one["value"]) for one in made["scores-0"]["data"]["values"]] == [(None, 25), (None, 75)]
    assert "all (%)<" in page
    assert "average (1-10), with 95 % intervals" in page
    for text in (note, ">+50.0</td>", "+5.0 [+1.0, +6.0]"):
        assert text in page, text
    for text in ("at step 10", "said a", "said b", "Expected: &lt;b&gt;There&lt;/b&gt;"):
        assert text in page, text
    for name, spec in made.items():
        assert vl_convert.vegalite_to_vega(spec)["marks"], name


def test_a_training_that_is_not_finished_names_its_log(tmp_path):
    """Its history is written at the end only."""
    (tmp_path / "train/gateau").mkdir(parents=True)
    found = later.trainings(Results(tmp_path))
    assert found["table"]["rows"] == [["gateau", "not finished, see logs/train/gateau.log"]]


def test_every_section_shows_answers_with_the_scores_of_its_own_protocol(tmp_path):
    """The judge's section, both turns of MT-Bench, and LongBench-E, whose answers are in the folder of LongBench."""
    board = "model,source,benchmark,name,protocol,unit,score,low,high,n,data,judge,nulls,headline\n" + "".join(
        f"m,measured,{benchmark},all,{protocol},u,1,1,1,4,d,{judge},0,True\n"
        for benchmark, protocol, judge in (
            ("needle", "containment", ""), ("needle", "judge", "j"), ("mt_bench", "fastchat single", "j"),
            ("longbench", "strict", ""), ("longbench_e", "strict", ""), ("lm-evaluation-harness", "v1", ""),
        )
    )  # fmt: skip
    items = {
        "needle": [("n0", "needle", "containment", 100.0), ("n0", "needle", "judge", 7.0)],
        "mt_bench": [("81-1", "mt_bench", "fastchat single", 9.0), ("81-2", "mt_bench", "fastchat single", 2.0)],
        "longbench": [("qasper/1", "longbench", "strict", 30.0), ("qasper_e/1", "longbench_e", "strict", 40.0)],
    }
    said = {
        "needle": [("n0", "a")],
        "mt_bench": [("81", "b", "c")],
        "longbench": [("qasper/1", "d"), ("qasper_e/1", "e")],
    }
    for benchmark, rows in items.items():
        scored, answered = tmp_path / f"score_{benchmark}/m", tmp_path / f"generate/m/{benchmark}"
        scored.mkdir(parents=True)
        answered.mkdir(parents=True)
        names = ("item", "benchmark", "protocol", "score")
        write_jsonl(scored / "items.jsonl", [dict(zip(names, row, strict=True), name="all") for row in rows])
        turns = {item: [{"text": one} for one in texts] for item, *texts in said[benchmark]}
        write_jsonl(
            answered / "0.jsonl", [{"item": item, "record": {}, "turns": texts} for item, texts in turns.items()]
        )
    cell = {"depth": 10, "length": 100, "id": "n0"}
    rated = {"answers": [{**cell, "score": 7}, {**cell, "score": None}]}
    write_json(tmp_path / "score_needle/m/scores.json", {"answers": [{**cell, "score": 1.0}], "judge": rated})
    write_json(tmp_path / "score_mt_bench/m/scores.json", {"judge": "j"})
    (tmp_path / "leaderboard").mkdir()
    (tmp_path / "leaderboard/leaderboard.csv").write_text(board)
    sections = later.benchmarks(Results(tmp_path))
    shown = [
        [(one["item"], row["answer"], row["score"]) for one in section["examples"] for row in one["rows"]]
        for section in sections
    ]
    assert shown == [
        [("n0", "a", "100")], [("n0", "a", "7.00")], [("81-2", "c", "2.00"), ("81-1", "b", "9.00")],
        [("qasper/1", "d", "30")], [("qasper_e/1", "e", "40")], [],
    ]  # fmt: skip
    heatmaps = [([cell["score"] for cell in one["heatmaps"].get("m", [])], one["best"]) for one in sections]
    assert heatmaps[:3] == [([1.0], 1), ([7], 10), ([], 10)]


def test_shares_of_the_harness_have_four_decimals(tmp_path):
    (tmp_path / "leaderboard").mkdir()
    columns = "model,source,benchmark,name,protocol,unit,score,low,high,n,data,judge,nulls,headline\n"
    numbers = "m,measured,lm-evaluation-harness,acc,v1,the task's own unit,0.71239,0.7,0.73,4,d,,0,True\n"
    (tmp_path / "leaderboard/leaderboard.csv").write_text(columns + numbers)
    difference = "m,lm-evaluation-harness,v1,acc,the task's own unit,0.0123,0.001,0.02,0.1,4,4\n"
    titles = "model,benchmark,protocol,name,unit,difference,low,high,p_value,n,clusters\n"
    (tmp_path / "leaderboard/differences.csv").write_text(titles + difference)
    (section,) = later.benchmarks(Results(tmp_path))
    ((row,),) = [one["rows"] for one in section["tables"]]
    assert row[2:5] == ["0.7124", "[0.7000, 0.7300]", "+0.0123 [+0.0010, +0.0200]"]


def test_intervals_mark_chance():
    rows = [{"name": "a", "value": 0.6, "low": 0.5, "high": 0.7}]
    assert len(charts.intervals(rows, "AUROC", "", chance=0.5)["layer"]) == 3
    assert len(charts.intervals(rows, "AUROC", "")["layer"]) == 2


def test_a_sample_that_does_not_exist_cannot_be_asked_for(run):
    with pytest.raises(DataError, match="no sample has the id 'no such id'"):
        make_page(run[0], run[0] / "index.html", ["s000003", "no such id"])


def test_the_command_names_a_folder_that_is_not_there(tmp_path):
    made = run_script("report_page", "--results", tmp_path / "none")
    assert made.returncode == 1
    assert "no such folder; give the results_dir" in made.stderr
