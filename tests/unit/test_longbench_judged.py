"""LongBench's judge: what it is asked to the character, ratings to scores by hand, what is refused."""

import json

import pytest

from gateau.errors import DataError
from gateau.evaluation.benchmarks.longbench.data_sets import DATA_SETS
from gateau.evaluation.benchmarks.longbench.judge import judge_requests, judged_items
from gateau.evaluation.judging.requests import JudgeRequest

from helpers import run_script, write_jsonl
from unit.judgments import write_judgments

QA = "Rate 1-3 {{x}}.\nQ: {}\nA: {}\nP: {}\n"
SUMMARY = "Rate 1-5.\nA: {}\nP: {}"
SYSTEM = {"role": "system", "content": "You're a good assistant at evaluating the quality of texts."}


def row(pred="x", answers=("x",), **fields):
    return {"pred": pred, "answers": list(answers), "all_classes": None, "length": 10, "query": "Who?", **fields}


@pytest.fixture
def assets(tmp_path):
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "prompt_for_qa.txt").write_text(QA)
    (folder / "prompt_for_sum.txt").write_text(SUMMARY)
    return folder


@pytest.fixture
def predictions(tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    write_jsonl(folder / "qasper.jsonl", [row(" a\ncat\n", ["it's", 'a "cat"'], _id="f0"), row("{}", query="{Why}?")])
    write_jsonl(folder / "dureader.jsonl", [row("猫", ["猫", "狗"], _id=7)])
    write_jsonl(folder / "vcsum.jsonl", [row("总结\n", ["总结"]), row("b"), row("c")])
    write_jsonl(folder / "qasper_e.jsonl", [row()])
    write_jsonl(folder / "samsum.jsonl", [row()])
    return folder


def test_the_judge_is_asked_to_the_character(assets, predictions):
    def request(item, user):
        rating = "longbench_summary" if item.startswith("vcsum") else "longbench_qa"
        return JudgeRequest(item, (SYSTEM, {"role": "user", "content": user}), rating=rating)

    expected = [
        request("dureader/7", "Rate 1-3 {x}.\nQ: Who?\nA: ['猫', '狗']\nP: 猫\n"),
        request("qasper/f0", 'Rate 1-3 {x}.\nQ: Who?\nA: ["it\'s", \'a "cat"\']\nP: a cat\n'),
        request("qasper/2", "Rate 1-3 {x}.\nQ: {Why}?\nA: ['x']\nP: {}\n"),
        request("vcsum/1", "Rate 1-5.\nA: ['总结']\nP: 总结"),
        request("vcsum/2", "Rate 1-5.\nA: ['x']\nP: b"),
        request("vcsum/3", "Rate 1-5.\nA: ['x']\nP: c"),
    ]
    assert judge_requests(predictions, assets) == expected
    assert judged_items(predictions) == {one.id: one.rating for one in expected}


def test_the_twelve_sets_of_questions_and_summaries_are_judged_and_no_other(tmp_path, assets):
    folder = tmp_path / "p"
    folder.mkdir()
    for name, data_set in DATA_SETS.items():
        write_jsonl(folder / f"{name}.jsonl", [row()])
        if data_set.extended:
            write_jsonl(folder / f"{name}_e.jsonl", [row()])
    judged = judge_requests(folder, assets)
    assert {one.id.partition("/")[0] for one in judged} == {
        "narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh", "hotpotqa", "2wikimqa", "musique", "dureader",
        "gov_report", "qmsum", "multi_news", "vcsum",
    }  # fmt: skip
    assert len(judged) == 12
    summaries = {one.id for one in judged if one.rating == "longbench_summary"}
    assert summaries == {"gov_report/1", "qmsum/1", "multi_news/1", "vcsum/1"}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("assets/prompt_for_qa.txt", "{} {}", "prompt_for_qa.txt: 3 empty slots"),
        ("assets/prompt_for_sum.txt", QA, "prompt_for_sum.txt: 2 empty slots"),
        ("assets/prompt_for_sum.txt", "{0} {1}", "prompt_for_sum.txt: 2 empty slots"),
        ("predictions/qasper.jsonl", json.dumps(row(query=None)), "qasper.jsonl, line 1: no query"),
        (
            "predictions/qasper.jsonl",
            json.dumps(row(query=5)),
            "line 1: query and context_sha256 must be texts",
        ),
        ("predictions/qasper.jsonl", json.dumps(row(_id=[])), "qasper.jsonl, line 1: _id must be a text"),
        ("predictions/qasper.jsonl", "\n".join([json.dumps(row(_id="2")), json.dumps(row())]), "'2' is also in line 1"),
        ("predictions/other.jsonl", json.dumps(row()), "'other' is not a data set"),
    ],
)
def test_files_that_cannot_be_judged_are_named(tmp_path, assets, predictions, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        judge_requests(predictions, assets)


def test_predictions_of_other_data_sets_alone_are_not_judged(tmp_path, assets):
    path = write_jsonl(tmp_path / "lcc.jsonl", [row()])
    with pytest.raises(DataError, match=r"no file of a data set that is judged \(narrativeqa, "):
        judge_requests(path, assets)


RATINGS = {"qasper/f0": 3, "qasper/2": 2, "dureader/7": 1, "vcsum/1": 5, "vcsum/2": None, "vcsum/3": 2}


def score(tmp_path, *arguments):
    return run_script(
        "score_longbench", "--predictions", tmp_path / "predictions", "--output", tmp_path / "scores.json",
        "--judgments", tmp_path / "j.jsonl", "--judge", "a judge", "--items", tmp_path / "items.jsonl",
        "--table", tmp_path / "t.md", *arguments,
    )  # fmt: skip


def test_ratings_become_shares_of_the_largest_and_stand_beside_the_automatic_scores(tmp_path, predictions):
    write_judgments(tmp_path / "j.jsonl", RATINGS)
    result = score(tmp_path, "--max-null-share", 0.2, "--data", "made here")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    judged = scores["judge"]
    assert judged["judge"] == "a judge"
    assert {name: (one["score"], one["n"], one["nulls"]) for name, one in judged["data_sets"].items()} == {
        "qasper": (83.33, 2, 0), "dureader": (33.33, 1, 0), "vcsum": (70.0, 2, 1),
    }  # fmt: skip
    assert judged["categories"]["summarisation"] == {
        "score": 70.0, "n": 1, "missing": ["gov_report", "qmsum", "multi_news"],
    }  # fmt: skip
    found = {(one["benchmark"], one["protocol"], one["name"]): one for one in scores["measures"]}
    by_judge = {name: one for (_, protocol, name), one in found.items() if protocol == "judge"}
    assert {name: (one["score"], one["n"], one["nulls"], one["headline"]) for name, one in by_judge.items()} == {
        "qasper": (83.33, 2, 0, False), "dureader": (33.33, 1, 0, False), "vcsum": (70.0, 2, 1, False),
        "single-doc QA": (83.33, 2, 0, True), "multi-doc QA": (33.33, 1, 0, True),
        "summarisation": (70.0, 2, 1, True),
    }  # fmt: skip
    assert {(one["unit"], one["judge"], one["data"], one["benchmark"]) for one in by_judge.values()} == {
        ("%", "a judge", "made here", "longbench")
    }
    assert (by_judge["vcsum"]["low"], by_judge["vcsum"]["high"]) == (40.0, 100.0)
    automatic = {key: one for key, one in found.items() if key[1] == "strict"}
    assert {one["judge"] for one in automatic.values()} == {None}
    assert found["longbench", "strict", "dureader"]["score"] == 100.0
    assert found["longbench_e", "strict", "qasper"]["headline"] is False
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert {one["item"]: one["score"] for one in items if one["protocol"] == "judge"} == {
        item: pytest.approx(100 * rating / (5 if "vcsum" in item else 3))
        for item, rating in RATINGS.items()
        if rating is not None
    }
    table = (tmp_path / "t.md").read_text()
    assert "## LongBench, in % of the scale, judge a judge" in table
    assert "| vcsum         | 70.00 | 40.00 to 100.00 |   2 |        2 |              1 |" in table
    assert table in result.stdout


def test_a_data_set_of_nulls_only_has_no_mean_and_its_nulls_count_in_its_category(tmp_path, predictions):
    write_jsonl(predictions / "qmsum.jsonl", [row()])
    write_judgments(tmp_path / "j.jsonl", {**RATINGS, "qmsum/1": None})
    result = score(tmp_path, "--max-null-share", 0.5)
    assert result.returncode == 0, result.stderr
    assert "longbench, qmsum: none of 1 judgments has a rating, so no mean" in result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert "qmsum" in scores["judge"]["categories"]["summarisation"]["missing"]
    measures = {one["name"]: one for one in scores["measures"] if one["protocol"] == "judge"}
    assert "qmsum" not in measures
    assert (measures["summarisation"]["n"], measures["summarisation"]["nulls"]) == (2, 2)


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (RATINGS, "1 of 6 judgments have no rating on the scale"),
        ({**RATINGS, "vcsum/2": 5, "vcsum/4": 5}, "1 judgments belong to no prediction: vcsum/4"),
        ({name: 2 for name in RATINGS if name != "qasper/2"}, "1 predictions have no judgment: qasper/2"),
        ({**RATINGS, "qasper/2": 4, "vcsum/2": 4}, "id 'qasper/2': rating 4 is not on the scale from 1 to 3"),
    ],
)
def test_judgments_that_do_not_fit_are_refused_by_name(tmp_path, predictions, ratings, message):
    write_judgments(tmp_path / "j.jsonl", ratings)
    result = score(tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "scores.json").exists()
