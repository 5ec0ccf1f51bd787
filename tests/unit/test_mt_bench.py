"""MT-Bench: the judge's questions to the character, FastChat's files field by field, ratings to scores by hand."""

import json
from collections import defaultdict

import pandas as pd
import pytest

from gateau.errors import DataError
from gateau.evaluation.benchmarks.mt_bench.questions import (
    ModelAnswer,
    Question,
    answer_row,
    judge_requests,
    prompt_name,
    read_answers,
    read_questions,
    temperature,
)
from gateau.evaluation.judging.requests import JudgeRequest

from helpers import run_script, write_jsonl
from unit.judgments import judgment, write_judgments

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."], "reference": ["not", "this"]},
    {"question_id": 111, "category": "math", "turns": ["1 + 1?", "And {2}?"]},
    {"question_id": 121, "category": "coding", "turns": ["Code.", "More."], "reference": ["nor", "that"]},
]


def judge_prompt(name, template, **changes):
    fields = {"type": "single", "description": "d", "category": "general", "output_format": "[[rating]]"}
    return {"name": name, "system_prompt": f"You judge {name}.\n\n", "prompt_template": template, **fields, **changes}


PROMPTS = [
    judge_prompt("pair-v2", "{question} {answer_a} {answer_b}", type="pairwise", output_format="[[A]]"),
    judge_prompt("single-v1", "Q {question}\nA {answer}"),
    judge_prompt("single-math-v1", "Q {question}\nR {ref_answer_1}\nA {answer}"),
    judge_prompt("single-v1-multi-turn", "Q {question_1}\nA {answer_1}\nQ {question_2}\nA {answer_2}"),
    judge_prompt(
        "single-math-v1-multi-turn",
        "Q {question_1}\nR {ref_answer_1}\nQ {question_2}\nR {ref_answer_2}\nA {answer_1}\nA {answer_2}",
    ),
]
REFERENCES = [answer_row(111, "gpt-4", ["two", "four"]), answer_row(121, "gpt-4", ["pass", "..."])]
ANSWERS = [
    answer_row(121, "ours", ["c1", "c2"]),
    answer_row(81, "ours", [" w1\n\n", ""]),
    answer_row(111, "ours", ["m1", "m2"]),
]


@pytest.fixture
def assets(tmp_path):
    folder = tmp_path / "assets"
    folder.mkdir()
    write_jsonl(folder / "question.jsonl", QUESTIONS)
    write_jsonl(folder / "judge_prompts.jsonl", PROMPTS)
    write_jsonl(folder / "reference_answer.jsonl", REFERENCES)
    return folder


@pytest.fixture
def predictions(tmp_path):
    folder = tmp_path / "predictions/model_answer"
    folder.mkdir(parents=True)
    return write_jsonl(folder / "ours.jsonl", ANSWERS).parents[1]


def test_questions_have_references_of_their_own_file_in_three_categories(assets):
    assert read_questions(assets) == [
        Question(81, "writing", ("Write.", "Again.")),
        Question(111, "math", ("1 + 1?", "And {2}?"), ("two", "four")),
        Question(121, "coding", ("Code.", "More."), ("pass", "...")),
    ]
    write_jsonl(assets / "question.jsonl", QUESTIONS[:1])
    (assets / "reference_answer.jsonl").unlink()
    assert len(read_questions(assets)) == 1  # nothing is judged beside a reference


def test_temperatures_and_prompts_by_category():
    high, low = {"writing", "roleplay"}, {"stem", "humanities"}
    zero = {"extraction", "math", "coding", "reasoning"}
    assert {temperature(name) for name in high} == {0.7}
    assert {temperature(name) for name in low} == {0.1}
    assert {temperature(name) for name in zero} == {0.0}
    plain = ("single-v1", "single-v1-multi-turn")
    for name in high | low | zero:
        beside = name in {"math", "reasoning", "coding"}
        expected = ("single-math-v1", "single-math-v1-multi-turn") if beside else plain
        assert (prompt_name(name, 1), prompt_name(name, 2)) == expected


def test_the_judge_is_asked_to_the_character(assets, predictions):
    def request(item, name, user):
        system = {"role": "system", "content": f"You judge {name}.\n\n"}
        return JudgeRequest(item, (system, {"role": "user", "content": user}), rating="mt_bench")

    expected = [
        request("81-1", "single-v1", "Q Write.\nA  w1\n\n"),
        request("81-2", "single-v1-multi-turn", "Q Write.\nA  w1\n\n\nQ Again.\nA "),
        request("111-1", "single-math-v1", "Q 1 + 1?\nR two\nA m1"),
        request("111-2", "single-math-v1-multi-turn", "Q 1 + 1?\nR two\nQ And {2}?\nR four\nA m1\nA m2"),
        request("121-1", "single-math-v1", "Q Code.\nR pass\nA c1"),
        request("121-2", "single-math-v1-multi-turn", "Q Code.\nR pass\nQ More.\nR ...\nA c1\nA c2"),
    ]
    assert judge_requests(predictions, assets) == expected
    assert judge_requests(predictions / "model_answer", assets) == expected
    assert judge_requests(predictions / "model_answer/ours.jsonl", assets) == expected


def test_answers_are_in_fastchats_schema_and_always_the_same():
    row = answer_row(81, "ours", ["w1", "w2"])
    assert row == answer_row(81, "ours", ("w1", "w2"))
    assert {name: type(value) for name, value in row.items()} == {
        "question_id": int, "answer_id": str, "model_id": str, "choices": list, "tstamp": float,
    }  # fmt: skip
    assert row["choices"] == [{"index": 0, "turns": ["w1", "w2"]}]
    assert len(row["answer_id"]) == 22
    assert (
        len({answer_row(*a)["answer_id"] for a in [(81, "a", "bc"), (81, "b", "bc"), (82, "a", "bc"), (81, "a", "bd")]})
        == 4
    )


def test_of_several_choices_the_first_is_judged_as_fastchat_does(tmp_path):
    row = answer_row(81, "ours", ["w1", "w2"])
    row["choices"].append({"index": 1, "turns": ["other", "other"]})
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    assert read_answers(path) == [ModelAnswer(81, "ours", ("w1", "w2"))]


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("question", [*QUESTIONS, QUESTIONS[0]], "line 4: question 81 appears twice"),
        ("question", [{**QUESTIONS[0], "turns": ["one"]}], "line 1: turns must be two texts"),
        ("question", [{**QUESTIONS[0], "question_id": "81"}], "line 1: question_id must be a whole number"),
        ("question", [*QUESTIONS, {**QUESTIONS[0], "question_id": 82}], "1 questions are not answered: 82"),
        ("question", QUESTIONS[:2], "1 answers belong to no question: 121"),
        ("reference_answer", REFERENCES[:1], r"no answer to question 121 \(coding\)"),
        ("judge_prompts", PROMPTS[:4], "no prompt single-math-v1-multi-turn"),
        ("judge_prompts", [*PROMPTS, {**PROMPTS[1], "output_format": "[[A]]"}], "single-v1 does not ask for a single"),
        ("judge_prompts", [*PROMPTS, {**PROMPTS[1], "prompt_template": "{answer_9}"}], "its slots cannot be filled"),
    ],
)
def test_assets_that_cannot_be_used_are_named(assets, predictions, file, rows, message):
    write_jsonl(assets / f"{file}.jsonl", rows)
    with pytest.raises(DataError, match=message):
        judge_requests(predictions, assets)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ANSWERS[0], "line 2: question 121 is answered twice"),
        (answer_row(81, "theirs", ["a", "b"]), "answers of ours, theirs"),
        ({**ANSWERS[1], "choices": []}, "line 2: choices must be a list"),
        (answer_row(81, "ours", ["a"]), "line 2: turns must be two texts"),
        ({**ANSWERS[1], "model_id": None}, "line 2: model_id must be a text"),
    ],
)
def test_answers_that_cannot_be_used_are_named(tmp_path, row, message):
    path = write_jsonl(tmp_path / "a.jsonl", [ANSWERS[0], row])
    with pytest.raises(DataError, match=message):
        read_answers(path)


def test_a_folder_of_several_models_is_refused(predictions):
    write_jsonl(predictions / "model_answer/theirs.jsonl", ANSWERS)
    with pytest.raises(DataError, match=r"2 \*\.jsonl there"):
        read_answers(predictions)


RATINGS = {"111-1": 10, "111-2": None, "121-1": 4, "121-2": 5.5, "81-1": 8.0, "81-2": 1}


def score(tmp_path, *arguments):
    return run_script(
        "score_mt_bench", "--predictions", tmp_path / "predictions", "--judgments", tmp_path / "j.jsonl",
        "--assets", tmp_path / "assets", "--judge", "a judge", "--output", tmp_path / "scores.json",
        "--fastchat-judgments", tmp_path / "model_judgment/judge_single.jsonl", *arguments,
    )  # fmt: skip


@pytest.fixture
def scored(tmp_path, assets, predictions):
    write_judgments(tmp_path / "j.jsonl", RATINGS)
    outputs = ("--items", tmp_path / "items.jsonl", "--table", tmp_path / "t.md")
    result = score(tmp_path, "--max-null-share", 0.2, *outputs)
    assert result.returncode == 0, result.stderr
    return tmp_path


def test_ratings_become_means_over_rows_turns_and_categories(scored):
    scores = json.loads((scored / "scores.json").read_text())
    assert (scores["model"], scores["judge"], scores["protocol"]) == ("ours", "a judge", "fastchat single")
    assert scores["ratings"][1] == {"question_id": 81, "category": "writing", "turn": 2, "rating": 1}
    measures = {one["name"]: one for one in scores["measures"]}
    assert {name: (pytest.approx(one["score"]), one["n"], one["nulls"]) for name, one in measures.items()} == {
        "average": (28.5 / 5, 5, 1), "turn 1": (22 / 3, 3, 0), "turn 2": (3.25, 2, 1), "writing": (4.5, 2, 0),
        "math": (10.0, 1, 1), "coding": (4.75, 2, 0),
    }  # fmt: skip
    assert [name for name, one in measures.items() if one["headline"]] == ["average"]
    assert {one["unit"] for one in measures.values()} == {"1-10"}
    assert {one["data"] for one in measures.values()} == {"MT-Bench"}
    items = [json.loads(line) for line in (scored / "items.jsonl").read_text().splitlines()]
    by_measure = defaultdict(list)
    for item in items:
        by_measure[item["name"]].append(item["score"])
    assert {name: sum(values) / len(values) for name, values in by_measure.items()} == {
        name: pytest.approx(one["score"]) for name, one in measures.items()
    }
    assert "| turn 2  |  3.25 |  1.00 to 5.50 |   2 |        2 |              1 |" in (scored / "t.md").read_text()


def test_judgments_are_in_fastchats_single_schema(scored, assets, predictions):
    path = scored / "model_judgment/judge_single.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    requests = {one.id: one for one in judge_requests(predictions, assets)}
    assert len(rows) == 6
    for row in rows:
        assert list(row) == ["question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"]
        item = f"{row['question_id']}-{row['turn']}"
        assert row["model"] == "ours"
        assert row["user_prompt"] == requests[item].messages[1]["content"]
        assert row["judgment"] == f"Rating: [[{RATINGS[item]}]]"
        assert row["score"] == (-1 if RATINGS[item] is None else RATINGS[item])
        assert isinstance(row["score"], float) == (item == "121-2")
        assert isinstance(row["tstamp"], float)
    names = [row["judge"] for row in rows]
    assert names[:3] == [["a judge", "single-v1"], ["a judge", "single-v1-multi-turn"], ["a judge", "single-math-v1"]]


def test_fastchats_reader_finds_the_same_means(scored):
    """It reads model, score and turn, leaves -1 out, and takes means by model and turn, and by model."""
    rows = pd.read_json(scored / "model_judgment/judge_single.jsonl", lines=True)[["model", "score", "turn"]]
    rows = rows[rows.score != -1]
    by_turn = rows.groupby(["model", "turn"]).mean()["score"]
    average = rows[["model", "score"]].groupby(["model"]).mean()["score"]
    found = {one["name"]: one["score"] for one in json.loads((scored / "scores.json").read_text())["measures"]}
    assert by_turn["ours", 1] == pytest.approx(found["turn 1"])
    assert by_turn["ours", 2] == pytest.approx(found["turn 2"])
    assert average["ours"] == pytest.approx(found["average"])


def test_a_category_of_nulls_only_has_no_mean_and_says_so(tmp_path, assets, predictions):
    write_judgments(tmp_path / "j.jsonl", {**RATINGS, "111-1": None})
    result = score(tmp_path, "--max-null-share", 0.5)
    assert result.returncode == 0, result.stderr
    assert "mt_bench, math: none of 2 judgments has a rating, so no mean" in result.stderr
    measures = {one["name"]: one for one in json.loads((tmp_path / "scores.json").read_text())["measures"]}
    assert "math" not in measures
    assert measures["average"]["nulls"] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([judgment(item, rating) for item, rating in RATINGS.items()], "1 of 6 judgments have no rating on the scale"),
        ([judgment("81-1", 5), judgment("81-1", 5)], "id '81-1' appears twice"),
        ([judgment(item, 5) for item in [*RATINGS, "81-3"]], "1 judgments belong to no prediction: 81-3"),
        ([judgment(item, 5) for item in RATINGS if "111" not in item], "2 predictions have no judgment: 111-1, 111-2"),
    ],
)
def test_judgments_that_do_not_fit_are_refused_by_name(tmp_path, assets, predictions, rows, message):
    write_jsonl(tmp_path / "j.jsonl", rows)
    result = score(tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "scores.json").exists()
