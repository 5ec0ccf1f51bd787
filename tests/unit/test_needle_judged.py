"""The needle's judge: what it is asked, what its ratings become beside containment, what is refused."""

import json
import re

import pytest
from matplotlib.image import imread

from gateau.errors import DataError
from gateau.evaluation import benchmarks
from gateau.evaluation.benchmarks.needle.judge import RUBRIC, judge_requests
from gateau.evaluation.benchmarks.needle.predictions import read_predictions
from gateau.evaluation.benchmarks.needle.scores import needle_mean, needle_measures

from helpers import run_script, write_jsonl
from unit.judgments import write_judgments

RIGHT = "Eat a sandwich and sit in Dolores Park."


def answer(length, depth, pred, **fields):
    return {
        "id": f"c-{length}-{depth}", "length": length, "depth": depth, "actual_depth": depth - 0.5,
        "needle": "The {needle}.", "question": "Which one?", "pred": pred, **fields,
    }  # fmt: skip


ROWS = [answer(1000, 10, RIGHT), answer(1000, 50, "{No} idea.\n"), answer(2000, 10, RIGHT), answer(2000, 50, RIGHT)]


def test_the_judge_sees_question_needle_and_prediction_and_every_step_of_the_scale(tmp_path):
    write_jsonl(tmp_path / "predictions.jsonl", ROWS)
    requests = judge_requests(tmp_path, tmp_path / "no assets")
    assert [one.id for one in requests] == ["c-1000-10", "c-1000-50", "c-2000-10", "c-2000-50"]
    assert requests == judge_requests(tmp_path / "predictions.jsonl", tmp_path)
    assert {one.rating for one in requests} == {"needle"}
    system, user = requests[1].messages
    assert system == {"role": "system", "content": "You are a helpful assistant."}
    expected = RUBRIC.replace("{question}", "Which one?").replace("{prediction}", "{No} idea.\n")
    assert user == {"role": "user", "content": expected.replace("{needle}", "The {needle}.", 1)}
    for step in (1, 3, 5, 7, 10):
        assert f"\n{step}: " in user["content"]
    # an answer in the form that is asked for can be read
    assert benchmarks.ratings()["needle"].read("It names both.\n[[10]]") == 10


@pytest.mark.parametrize("name", ["needle", "question"])
def test_rows_without_needle_or_question_cannot_be_judged(tmp_path, name):
    row = answer(1000, 10, "x")
    del row[name]
    write_jsonl(tmp_path / "predictions.jsonl", [row])
    with pytest.raises(DataError, match="id 'c-1000-10' has no needle or no question"):
        judge_requests(tmp_path, tmp_path)
    write_jsonl(tmp_path / "predictions.jsonl", [{**row, name: 5}])
    with pytest.raises(DataError, match=f"line 1: {name} must be a text"):
        judge_requests(tmp_path, tmp_path)


def score(tmp_path, *arguments):
    return run_script(
        "score_needle", "--predictions", tmp_path, "--output", tmp_path / "scores.json",
        "--judgments", tmp_path / "j.jsonl", "--judge", "a judge", *arguments,
    )  # fmt: skip


def test_ratings_stand_beside_containment_with_a_grid_of_their_own(tmp_path):
    write_jsonl(tmp_path / "predictions.jsonl", ROWS)
    write_judgments(tmp_path / "j.jsonl", {"c-2000-50": 7, "c-2000-10": None, "c-1000-50": 1, "c-1000-10": 10})
    names = ("--heatmap", "--judge-heatmap", "--table", "--items")
    files = {name: tmp_path / f"out{number}" for number, name in enumerate(names)}
    arguments = [part for pair in files.items() for part in pair]
    result = score(tmp_path, "--max-null-share", 0.25, *arguments)
    assert result.returncode == 0, result.stderr
    assert "no rating for 1 of 4 cells: 2000 at 10 %" in result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["overall"]["mean"] == 0.75
    assert scores["judge"]["overall"]["mean"] == 6.0
    assert [one["score"] for one in scores["judge"]["answers"]] == [10, 1, None, 7]
    found = {(one["protocol"], one["name"]): one for one in scores["measures"]}
    assert {name: (one["score"], one["n"], one["nulls"]) for name, one in found.items()} == {
        ("containment", "all"): (75.0, 4, 0), ("containment", "length 1000"): (50.0, 2, 0),
        ("containment", "length 2000"): (100.0, 2, 0), ("containment", "depth 10 %"): (100.0, 2, 0),
        ("containment", "depth 50 %"): (50.0, 2, 0), ("judge", "all"): (6.0, 3, 1),
        ("judge", "length 1000"): (5.5, 2, 0), ("judge", "length 2000"): (7.0, 1, 1),
        ("judge", "depth 10 %"): (10.0, 1, 1), ("judge", "depth 50 %"): (4.0, 2, 0),
    }  # fmt: skip
    assert {name for name, one in found.items() if one["headline"]} == {("containment", "all"), ("judge", "all")}
    assert {(one["protocol"], one["unit"], one["judge"]) for one in found.values()} == {
        ("containment", "%", None), ("judge", "1-10", "a judge"),
    }  # fmt: skip
    assert {(one["low"], one["high"], one["note"]) for one in found.values()} == {
        (None, None, "one needle: positions only")
    }
    items = [json.loads(line) for line in files["--items"].read_text().splitlines()]
    overall = {(one["protocol"], one["item"]): one["score"] for one in items if one["name"] == "all"}
    assert overall == {
        ("containment", "c-1000-10"): 100, ("containment", "c-1000-50"): 0, ("containment", "c-2000-10"): 100,
        ("containment", "c-2000-50"): 100, ("judge", "c-1000-10"): 10, ("judge", "c-1000-50"): 1,
        ("judge", "c-2000-50"): 7,
    }  # fmt: skip
    table = re.sub(" +", " ", files["--table"].read_text())
    assert "| 10 | 1.00 (1) | 1.00 (1) |" in table
    assert "| 10 | 10.00 (1) | – |" in table
    assert "ratings from 1 to 10 by a judge; 1 answers without a rating" in table
    assert imread(files["--judge-heatmap"], format="png").shape == imread(files["--heatmap"], format="png").shape
    assert files["--judge-heatmap"].read_bytes() != files["--heatmap"].read_bytes()


def test_the_interval_of_the_measure_of_all_resamples_needles(tmp_path):
    rows = [{**one, "needle": f"The {number % 2}."} for number, one in enumerate(ROWS)]
    predictions = read_predictions(write_jsonl(tmp_path / "p.jsonl", rows))
    contained = dict(zip([one.id for one in predictions], (1.0, 0.0, 1.0, 1.0), strict=True))
    measures, items = needle_measures(predictions, contained, "containment", data="d", left_out=[4000])
    overall = needle_mean(predictions, contained)
    assert (overall.mean, overall.n, overall.needles) == (0.75, 4, 2)
    assert (measures[0].score, measures[0].low, measures[0].high) == (
        pytest.approx(75), pytest.approx(100 * overall.low), pytest.approx(100 * overall.high),
    )  # fmt: skip
    assert (overall.low, overall.high) == (0.5, 1.0)  # the needles' means
    found = {one.name: one for one in measures}
    assert (found["needle 1"].score, found["needle 2"].score) == (100, 50)
    assert found["needle 1"].note == "one needle: positions only; left out, above the window: 4000"
    assert (found["all"].note, found["length 1000"].note) == ("left out, above the window: 4000", "")
    assert {item.part for item in items} == {"length 1000", "length 2000"}
    assert {item.cluster for item in items if item.name == "all"} == {"The 0.", "The 1."}


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ({"c-1000-10": 5, "c-1000-50": 5, "c-2000-10": None, "c-2000-50": 5}, "allowed: c-2000-10."),
        ({"c-1000-10": 5, "c-1000-50": 5, "c-2000-10": 5}, "1 predictions have no judgment: c-2000-50"),
        ({"c-1000-10": 5, "c-1000-50": 5, "c-2000-10": 5, "c-2000-50": 5, "d": 5}, "belong to no prediction: d"),
        ({"c-1000-10": 5, "c-1000-50": 5, "c-2000-10": 5, "c-2000-50": 11}, "rating 11 is not on the scale"),
    ],
)
def test_judgments_that_do_not_fit_are_refused_by_name(tmp_path, ratings, message):
    write_jsonl(tmp_path / "predictions.jsonl", ROWS)
    write_judgments(tmp_path / "j.jsonl", ratings)
    result = score(tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert not (tmp_path / "scores.json").exists()


def test_judgments_need_a_judges_name_and_a_heatmap_of_ratings_needs_ratings(tmp_path):
    common = ("--predictions", tmp_path, "--output", tmp_path / "s.json")
    assert "given together" in run_script("score_needle", *common, "--judgments", "j.jsonl").stderr
    assert "requires --judgments" in run_script("score_needle", *common, "--judge-heatmap", "h.png").stderr
