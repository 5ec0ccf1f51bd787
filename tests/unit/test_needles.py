"""Several needles, and lengths that fit a model's window: what is asked, what is left out, and what tables say."""

import json
import re
from pathlib import Path

import pytest

from gateau.costs.generation import turns_of
from gateau.errors import DataError, SettingsError
from gateau.evaluation import benchmarks
from gateau.evaluation.benchmarks.needle.prompts import needle_prompts
from gateau.evaluation.benchmarks.needle.sentences import TEN
from gateau.evaluation.benchmarks.needle.settings import (
    NEEDLE,
    NeedleSettings,
    contains_keys,
    needle_lengths,
    needles_of,
)
from gateau.preflight.cheap import check_prompts

from helpers import ROOT, TINY_PAIR, merged, run_script
from unit.test_configured import evaluation

HAYSTACK = ROOT / "workflow/resources/small_benchmarks/needle"
NOTE = {
    "depths": [10, 50, 90], "needle": "Note falcon balor detek mosar rigas tunut.",
    "question": "What does note falcon say?", "keys": ["balor detek mosar"], "system": "", "prefix": "", "reserve": 60,
    "max_new_tokens": 12,
}  # fmt: skip


def chosen(**needle):
    found = evaluation(benchmarks=["needle"], judge={"benchmarks": []}, needle=needle)
    found.check()
    return found


def asked(tokenizer, **needle):
    return benchmarks.load("needle").ask(HAYSTACK, chosen(**needle).question_options("needle"), tokenizer)


def test_the_ten_needles_of_the_project_are_fit_for_the_test():
    sentences = [one["needle"] for one in needles_of(chosen(needles="eleven").options("needle"))]
    assert sentences[0] == NEEDLE
    assert len(set(sentences)) == 11
    assert len({word for one in TEN for word in one["keys"]}) == len([word for one in TEN for word in one["keys"]])
    for one in TEN:
        others = " ".join(sentence for sentence in sentences if sentence != one["needle"])
        assert not contains_keys(others, one["keys"])
        assert not any(contains_keys(one["question"], [key]) for key in one["keys"])
        assert one["needle"].count(".") - one["needle"].count("Mrs.") == 1


def test_every_needle_is_hidden_in_every_cell_and_the_first_keeps_its_prompts(tiny_tokenizer):
    grid = {"lengths": [1000], "depths": [10, 90]}
    one, many = asked(tiny_tokenizer, **grid), asked(tiny_tokenizer, **grid, needles="eleven")
    assert [question.digest for question in many[:2]] == [question.digest for question in one]
    assert len({question.item for question in many}) == 22
    assert [question.item for question in many[2:4]] == ["needle-1000-10-2", "needle-1000-90-2"]
    for number, question in enumerate(many):
        needle = [{"needle": NEEDLE, "question": one[0].record["question"]}, *TEN][number // 2]
        assert question.record["needle"] == needle["needle"]
        assert question.record["id"] == question.item
        assert question.users[0].count(needle["needle"]) == 1
        assert question.users[0].endswith(needle["question"])


def test_a_list_of_needles_replaces_the_one(tiny_tokenizer):
    needles = [{"needle": "The bridge of Arle is made of glass.", "question": "What is it made of?", "keys": ["glass"]}]
    found = asked(tiny_tokenizer, lengths=[1000], depths=[50], needles=needles)
    assert [(question.item, question.record["needle"]) for question in found] == [
        ("needle-1000-50", "The bridge of Arle is made of glass.")
    ]


@pytest.mark.parametrize(
    ("needles", "message"),
    [
        ([{"needle": "A b.", "question": "A?", "keys": ["c"]}], "'c' is not in the needle"),
        ([{"needle": "A b.", "question": "A b?", "keys": ["b"]}], "the question contains every key"),
        ([{"needle": "A b.", "question": "A?", "keys": ["b"]}] * 2, "'A b.' is there twice"),
    ],
)
def test_needles_that_test_nothing_are_refused(needles, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        chosen(needles=needles)


def test_lengths_above_the_window_are_left_out_and_the_others_are_asked_as_ever(tiny_tokenizer):
    needle, options = benchmarks.load("needle"), chosen(lengths="auto").question_options("needle")
    assert needle.left_out_by(options) == "length"
    assert needle.left_out_by(chosen(lengths=[1000, 2000]).options("needle")) is None
    within = needle.within(options, 16384, 64000)
    assert within["lengths"] == {"auto": [500, 1000, 7556, 14111]}
    assert needle.within(options, 200_000, 30_000)["lengths"] == {"auto": [500, *needle_lengths()[:5]]}
    with pytest.raises(
        SettingsError, match=re.escape("fits a window of 256 tokens with an answer of 64; add a shorter")
    ):
        needle.within(options, 256, 64000)
    fixed = asked(tiny_tokenizer, lengths=[500, 1000], depths=[10, 90])
    fitting = needle.ask(HAYSTACK, {**needle.within(options, 1024, 64000), "depths": [10, 90]}, tiny_tokenizer)
    assert [question.digest for question in fitting] == [question.digest for question in fixed]


def test_depths_within_one_sentence_are_asked_once_with_auto(tiny_tokenizer):
    text = ["First. " + "no full stop at all " * 60 + "End. " * 5]

    def depths(lengths):
        settings = NeedleSettings.from_options({"lengths": lengths, "depths": [10, 20, 90]})
        return [prompt.depth for prompt in needle_prompts(settings, tiny_tokenizer, text)]

    assert depths({"auto": [500]}) == [10]
    with pytest.raises(DataError, match="give the same prompt"):
        depths([500])


def test_the_default_lengths_of_auto_fit_the_tiny_pair_with_the_papers_needle(tmp_path):
    """Its tokenizer needs many tokens for other words than its own, so that 1000 do not fit."""
    options = chosen(lengths="auto", depths=[10, 90]).question_options("needle")
    assert _answered(tmp_path, options) == {500}


def _answered(tmp_path, options):
    result = run_script(
        "generate", "--benchmark", "needle", "--assets", HAYSTACK, "--model", json.dumps(str(TINY_PAIR / "long")),
        "--options", json.dumps(options), "--device", "cpu", "--progress-dir", tmp_path / "progress",
        "--output", tmp_path / "a.jsonl",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return {json.loads(line)["record"]["length"] for line in (tmp_path / "a.jsonl").open()}


def test_auto_lengths_on_the_tiny_pair_become_scores_with_a_note(tmp_path):
    """The long model of the pair has a window of 1024 tokens."""
    options = merged(NOTE, {"lengths": "auto"})
    answers, predictions, scores = tmp_path / "a.jsonl", tmp_path / "predictions", tmp_path / "scores.json"
    result = run_script(
        "generate", "--benchmark", "needle", "--assets", HAYSTACK, "--model", json.dumps(str(TINY_PAIR / "long")),
        "--options", json.dumps(chosen(**options).question_options("needle")), "--device", "cpu",
        "--progress-dir", tmp_path / "progress", "--output", answers,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    result = run_script(
        "predictions", "--benchmark", "needle", "--model-name", "m", "--answers", answers, "--output", predictions
    )
    assert result.returncode == 0, result.stderr
    arguments = benchmarks.load("needle").score_arguments(chosen(**options).options("needle"))
    result = run_script(
        "score_needle", "--predictions", predictions, *arguments, "--output", scores, "--table", tmp_path / "table.md"
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(scores.read_text())
    assert [one["length"] for one in found["answers"]] == [500] * 3 + [1000] * 3
    assert found["left_out_lengths"] == list(needle_lengths()[1:])
    left_out = ", ".join(map(str, needle_lengths()[1:]))
    assert found["measures"][0]["note"] == f"one needle: positions only; left out, above the window: {left_out}"
    table = (tmp_path / "table.md").read_text()
    assert f"Lengths that are left out, because they do not fit the window: {left_out}.\n" in table
    assert "one needle: positions only" in table


def test_a_length_of_which_one_prompt_is_cut_is_left_out_whole_and_a_list_is_an_error(tmp_path):
    """Of 1070 tokens, 1010 are text. They and the answer's 12 fit a window of 1024, but not with the chat format."""
    for lengths, code, message in (
        ({"auto": [500, 1070]}, 0, "left out, because they do not fit into the window: length {1070}"),
        ({"auto": [1070]}, 1, "no length fits into the model's window"),
        ([500, 1070], 1, "does not fit into the model's window"),
    ):
        options = chosen(**merged(NOTE, {"lengths": lengths})).question_options("needle")
        result = run_script(
            "generate", "--benchmark", "needle", "--assets", HAYSTACK, "--model", json.dumps(str(TINY_PAIR / "long")),
            "--options", json.dumps(options), "--device", "cpu", "--progress-dir", tmp_path / "progress",
            "--output", tmp_path / "a.jsonl",
        )  # fmt: skip
        assert result.returncode == code, result.stderr
        assert message in result.stderr
        if not code:
            rows = [json.loads(line) for line in (tmp_path / "a.jsonl").open()]
            assert {row["record"]["length"] for row in rows} == {500}


def test_each_needle_is_scored_by_its_own_keys(tmp_path):
    rows = [
        {"id": f"{number}-{depth}", "length": 1000, "depth": depth, "pred": pred, "needle": needle, "question": "?"}
        for number, (needle, pred) in enumerate((("A b.", "b"), ("C d.", "b"), ("E f.", "f")))
        for depth in (10, 90)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = [{"needle": needle, "keys": [needle[2]]} for needle in ("A b.", "C d.", "E f.")]
    result = run_script(
        "score_needle", "--predictions", tmp_path / "p.jsonl", "--needles", json.dumps(keys),
        "--output", tmp_path / "s.json", "--table", tmp_path / "t.md",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    measures = {one["name"]: one for one in json.loads((tmp_path / "s.json").read_text())["measures"]}
    assert [measures[f"needle {number}"]["score"] for number in (1, 2, 3)] == [100, 0, 100]
    assert (measures["all"]["n"], measures["all"]["clusters"], measures["all"]["note"]) == (6, 3, "")
    assert measures["all"]["low"] < measures["all"]["score"] < measures["all"]["high"] + 1e-9
    table = re.sub(" +", " ", (tmp_path / "t.md").read_text())
    assert "| 2 | C d. | 0.00 |" in table
    assert "n = 6, 3 needles" in table
    result = run_script(
        "score_needle", "--predictions", tmp_path / "p.jsonl", "--needles", json.dumps(keys[:2]),
        "--output", tmp_path / "s.json",
    )  # fmt: skip
    assert "--needles has no keys of the needle 'E f.'" in result.stderr


def test_the_estimate_counts_the_lengths_that_fit():
    found = evaluation(needle={"lengths": "auto", "needles": "eleven"})
    every = turns_of(found, "needle", Path("none"), None)
    some = turns_of(found, "needle", Path("none"), None, 16384)
    assert (len(every), len(some)) == (11 * 11 * 10, 11 * 4 * 10)
    assert {prompt for prompt, _ in some} == {500, 1000, 7556, 14111}
    with pytest.raises(SettingsError, match="fits a window of 256 tokens"):
        turns_of(found, "needle", Path("none"), None, 256)


def test_doctor_tells_how_many_prompts_fit_and_that_none_does():
    def findings(lengths, **more):
        needle = merged(NOTE, {"lengths": lengths}, more)
        models = {"long": str(TINY_PAIR / "long"), "short": str(TINY_PAIR / "short")}
        found = evaluation(benchmarks=["needle"], experiments=[], models=models, needle=needle)
        return {(one.level, one.text) for one in check_prompts(found.configuration)}

    some = findings({"auto": [150, 900, 5000]}, needles="eleven")
    assert some == {
        ("ok", "long: window of 1024; at most 66 of 99 prompts fit, and the others are left out"),
        ("ok", "short: window of 256; at most 33 of 99 prompts fit, and the others are left out"),
    }
    (error,) = (text for level, text in findings("auto") if level == "error")
    assert error.startswith("short: evaluate.needle.lengths: none of [500, ")
    assert {level for level, _ in findings([300, 5000])} == {"error"}
