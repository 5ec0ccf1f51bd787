"""LongBench-Chat: prompts and the judge's questions to the character, ratings to scores by hand, what is refused."""

import json
import logging

import pytest

from gateau.errors import DataError, SettingsError
from gateau.evaluation.benchmarks.longbench_chat.cases import Case, judge_requests, prompt, read_cases, read_predictions
from gateau.evaluation.judging.requests import JudgeRequest

from helpers import run_script, write_jsonl
from unit.judgments import judgment, write_judgments

CASES = [
    {"idx": 1, "query": "Who came?", "answer": "The otter.", "prompt": "The otter came.\n\nWho came?"},
    {"idx": 2, "query": "谁来了？", "answer": "水獭。", "prompt": "水獭来了。\n\n谁来了？"},
]
EXAMPLES = [[{"answer": f"{case}{place}", "score": place * 3} for place in (1, 2, 3)] for case in "ab"]
TEMPLATE = "Rate {{this}}.\n[Q] {} [A] {}\n1 {} {}\n2 {} {}\n3 {} {}\n[P] {}\n"


@pytest.fixture
def assets(tmp_path):
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "test_cases.json").write_text(json.dumps(CASES))
    (folder / "few_shots.json").write_text(json.dumps(EXAMPLES))
    (folder / "prompt_fs.txt").write_text(TEMPLATE)
    return folder


def answer(idx, pred="x", query="Who came?", reference="The otter."):
    return {"idx": idx, "query": query, "answer": reference, "pred": pred}


@pytest.fixture
def predictions(tmp_path):
    (tmp_path / "predictions").mkdir()
    rows = [answer(2, " \nThe\notter \n came.\n", "谁来了？", "水獭。"), answer(1, "{Nobody}")]
    write_jsonl(tmp_path / "predictions/predictions.jsonl", rows)
    return tmp_path / "predictions"


def test_cases_are_read_in_their_order(assets):
    assert read_cases(assets) == [Case(**case) for case in CASES]


def test_prompts_to_the_character():
    case = Case(7, "Who came?", "x", "Who came?\nThe otter came.\nWho came?")
    assert prompt(case, "longalign") == case.prompt
    # the last line's last occurrence is cut, an earlier one stays
    expected = "Who came?\nThe otter came.\n ###Instruction: Who came?\n\n\n ###Response: "
    assert prompt(case, "gateau") == expected
    # the query and the last line need not be the same
    assert prompt(Case(7, "And why?", "x", "A.\nB. C"), "gateau") == "A.\n ###Instruction: And why?\n\n\n ###Response: "
    with pytest.raises(SettingsError, match="no protocol 'other'"):
        prompt(case, "other")


@pytest.mark.parametrize(
    ("text", "kept", "warning"),
    [
        ("A document.\nWho came?\n", "A document.\nWho came?\n", "so the prompt contains the question twice"),
        ("A document. Who came?", "", "is a single line, so nothing of it is left"),
    ],
)
def test_prompts_without_a_last_line_of_their_own_are_cut_as_released_and_warned_about(text, kept, warning, caplog):
    with caplog.at_level(logging.WARNING):
        found = prompt(Case(3, "Who came?", "x", text), "gateau")
    assert found == f"{kept} ###Instruction: Who came?\n\n\n ###Response: "
    assert "LongBench-Chat 3: the prompt" in caplog.text
    assert warning in caplog.text


def test_the_judge_is_asked_to_the_character(assets, predictions):
    system = {"role": "system", "content": "You're a good assistant at evaluating the quality of texts."}
    chinese = "Rate {this}.\n[Q] 谁来了？ [A] 水獭。\n1 b1 3\n2 b2 6\n3 b3 9\n[P] The otter   came.\n"
    english = "Rate {this}.\n[Q] Who came? [A] The otter.\n1 a1 3\n2 a2 6\n3 a3 9\n[P] {Nobody}\n"
    expected = [
        JudgeRequest("2", (system, {"role": "user", "content": chinese}), rating="longbench_chat"),
        JudgeRequest("1", (system, {"role": "user", "content": english}), rating="longbench_chat"),
    ]
    assert judge_requests(predictions, assets) == expected
    assert judge_requests(predictions / "predictions.jsonl", assets) == expected


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("prompt_fs.txt", "{} {}", "prompt_fs.txt: 9 empty slots"),
        ("prompt_fs.txt", TEMPLATE + "{", "prompt_fs.txt: its slots cannot be filled"),
        ("prompt_fs.txt", None, "prompt_fs.txt: no such file"),
        ("few_shots.json", "[[]]", "few_shots.json: entry 1 has 0 examples instead of 3"),
        ("few_shots.json", "[[1]]", "few_shots.json: not a list of lists"),
        ("few_shots.json", "{", "few_shots.json: not JSON"),
        ("few_shots.json", json.dumps(EXAMPLES[:1]), "idx 2 has no examples: few_shots.json has 1"),
    ],
)
def test_assets_that_cannot_be_used_are_named(assets, predictions, file, content, message):
    if content is None:
        (assets / file).unlink()
    else:
        (assets / file).write_text(content)
    with pytest.raises(DataError, match=message):
        judge_requests(predictions, assets)


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ({}, "not a list of objects"),
        ([], "no cases"),
        ([{**CASES[0], "idx": 0}], "case 1: idx is 0"),
        ([CASES[0], {**CASES[1], "idx": 1}], "case 2: idx 1 appears twice"),
        ([{**CASES[0], "prompt": None}], "case 1: prompt must be a text"),
        ([{**CASES[0], "idx": "1"}], "case 1: idx must be a whole number"),
    ],
)
def test_cases_that_cannot_be_used_are_named(assets, cases, message):
    (assets / "test_cases.json").write_text(json.dumps(cases))
    with pytest.raises(DataError, match=message):
        read_cases(assets)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        (answer(1), "line 2: idx 1 appears twice"),
        (answer(2, pred=None), "line 2: pred must be a text"),
        ({"idx": 2, "pred": "x"}, "line 2: query must be a text"),
        (answer(-1), "line 2: idx is -1"),
    ],
)
def test_predictions_that_cannot_be_used_are_named(tmp_path, line, message):
    path = write_jsonl(tmp_path / "p.jsonl", [answer(1), line])
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def score(tmp_path, *arguments):
    return run_script(
        "score_longbench_chat", "--predictions", tmp_path / "p.jsonl", "--judgments", tmp_path / "j.jsonl",
        "--protocol", "gateau", "--judge", "a judge", "--output", tmp_path / "scores.json", *arguments,
    )  # fmt: skip


ROWS = [answer(1), answer(2), answer(3, query="请问 who?"), answer(4, query="Ñandú über?"), answer(5, query="谁")]


def test_ratings_become_means_of_all_and_of_either_language(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", ROWS)
    write_judgments(tmp_path / "j.jsonl", {"5": 2, "4": 7.5, "3": 4, "2": None, "1": 10})
    outputs = ("--items", tmp_path / "items.jsonl", "--table", tmp_path / "t.md", "--data", "made here")
    result = score(tmp_path, *outputs, "--max-null-share", 0.2)
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["cases"] == {"English": 3, "Chinese": 2}
    assert [row["rating"] for row in scores["ratings"]] == [10, None, 4, 7.5, 2]
    measures = {one["name"]: one for one in scores["measures"]}
    assert {name: (one["score"], one["n"], one["nulls"]) for name, one in measures.items()} == {
        "all": (5.875, 4, 1), "English": (8.75, 2, 1), "Chinese": (3.0, 2, 0),
    }  # fmt: skip
    for name, one in measures.items():
        assert one["low"] <= one["score"] <= one["high"]
        assert one["headline"] == (name == "all")
        assert [one[key] for key in ("benchmark", "protocol", "unit", "data", "judge")] == [
            "longbench_chat", "gateau", "1-10", "made here", "a judge",
        ]  # fmt: skip
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert [(one["item"], one["score"]) for one in items if one["name"] == "all"] == [
        ("1", 10), ("3", 4), ("4", 7.5), ("5", 2),
    ]  # fmt: skip
    assert "| English | 8.75 | 7.50 to 10.00 |   2 |        2 |              1 |" in (tmp_path / "t.md").read_text()


GOOD = {"1": 5, "2": 5, "3": 5, "4": 5, "5": 5}


@pytest.mark.parametrize(
    ("judgments", "arguments", "message"),
    [
        ({**GOOD, "2": None}, (), r"1 of 5 judgments have no rating on the scale, more than the share 0.05"),
        ({**GOOD, "2": None}, (), "allowed: 2."),
        (dict.fromkeys(GOOD), ("--max-null-share", 1), "none of 5 judgments has a rating"),
        ({"1": 5, "3": 5, "5": 5}, (), "2 predictions have no judgment: 2, 4"),
        ({**GOOD, "6": 5, "01": 5}, (), "2 judgments belong to no prediction: 6, 01"),
        ({**GOOD, "3": 0}, (), "id '3': rating 0 is not on the scale from 1 to 10"),
        ({**GOOD, "3": 10.5}, (), "id '3': rating 10.5 is not on the scale"),
        ({**GOOD, "3": "5"}, (), "id '3': rating '5' is not on the scale"),
        (GOOD, ("--max-null-share", 2), "allowed share of judgments without a rating is 2.0"),
    ],
)
def test_judgments_that_do_not_fit_are_refused_by_name(tmp_path, judgments, arguments, message):
    write_jsonl(tmp_path / "p.jsonl", ROWS)
    write_judgments(tmp_path / "j.jsonl", judgments)
    result = score(tmp_path, *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "scores.json").exists()


def test_a_judgment_that_stands_twice_is_refused(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "j.jsonl", [judgment("1", 5), judgment("1", 6)])
    result = score(tmp_path)
    assert result.returncode == 1
    assert "id '1' appears twice" in result.stderr
