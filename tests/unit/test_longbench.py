"""LongBench's automatic scores: every metric by hand, against slow definitions, and through the script."""

import json
import math
import random
import re
import string
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gateau.errors import DataError, ScoreError
from gateau.evaluation.benchmarks.longbench import metrics as text_metrics
from gateau.evaluation.benchmarks.longbench.data_sets import CATEGORIES, DATA_SETS, Prediction, category_means
from gateau.evaluation.benchmarks.longbench.scores import METRICS, buckets, percent, score_file, score_prediction
from gateau.evaluation.results.intervals import (
    bootstrap_interval,
    stratified_difference,
    stratified_interval,
)

from helpers import ROOT, run_script, write_jsonl

PROTOCOLS = ("strict", "fixed")
TREC = ["Food", "Animal", "Invention, book and other creative piece"]
# data set, prediction, answers, classes, score of both protocols
CASES = [
    ("narrativeqa", "The old lighthouse keeper.", ["an old keeper", "nobody"], None, 0.8),
    ("narrativeqa", "the", ["a"], None, 0.0),
    ("qasper", "It's Unanswerable!", ["unanswerable"], None, 2 / 3),
    ("qasper", "yes\nbecause", ["Yes"], None, 2 / 3),
    ("multifieldqa_en", "red, red green", ["Red green green"], None, 2 / 3),
    ("multifieldqa_zh", "今天天气", ["今天天气。"], None, 1.0),
    ("multifieldqa_zh", "《北京》，", ["北京"], None, 2 / 3),  # only 》 is among the released punctuation
    ("multifieldqa_zh", "ABC 123", ["abc"], None, 2 / 3),
    ("hotpotqa", "Ada Lovelace", ["Charles Babbage", "ada lovelace"], None, 1.0),
    ("2wikimqa", "A man, a plan", ["man plan"], None, 1.0),
    ("musique", "theory", ["ory"], None, 0.0),
    ("dureader", "今天天气", ["今天天气"], None, 1.0),
    ("gov_report", "one two three", ["one two four"], None, 2 / 3),
    ("qmsum", "One two", ["one two"], None, 0.5),
    ("multi_news", "one one one two", ["one two"], None, 1.0),  # the package counts distinct words
    ("vcsum", "明天", ["今天天气"], None, 0.0),
    ("trec", "\n\nAnimal\nFood", ["Animal"], TREC, 1.0),
    ("trec", "Animal or Food", ["Animal"], TREC, 0.5),
    ("trec", "animal", ["Animal"], TREC, 0.0),
    ("triviaqa", "\nThe Beatles\nQuestion: who?", ["beatles", "rolling stones"], None, 1.0),
    ("triviaqa", " \nBeatles", ["Beatles"], None, 0.0),  # a line of blanks is a first line
    ("samsum", "Ann is late\nDialogue: more", ["Ann is late"], None, 1.0),
    ("lsht", "体育\n财经", ["体育"], ["体育", "财经"], 1.0),
    ("lsht", "", ["体育"], ["体育", "财经"], 0.0),
    ("passage_count", "There are 12 of 30, so 12", ["12"], None, 2 / 3),
    ("passage_count", "012", ["12"], None, 0.0),
    ("passage_count", "none", ["12"], None, 0.0),
    ("passage_retrieval_en", "Paragraph 7 or paragraph 9", ["Paragraph 7"], None, 0.5),
    ("passage_retrieval_en", "17", ["Paragraph 7"], None, 0.0),
    ("passage_retrieval_zh", "段落3，段落4，段落3，段落5", ["段落3"], None, 0.5),
    ("lcc", "\n\n# a comment\n```python\nx = f(1)\ny = 2", ["x = f(1)"], None, 1.0),
    ("lcc", "// a\n`b`\nc # d", ["x"], None, 0.0),
    ("lcc", "abcd", ["bcde"], None, 0.75),
    ("repobench-p", "ab", ["abc", "abcdefgh"], None, 0.8),
    ("repobench-p", "abc", ["abxxxxxxxx"], None, 0.31),  # 4 / 13, to a whole percent
]


def item(prediction, answers, classes=None):
    return Prediction(1, prediction, answers, classes or (), None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("name", "prediction", "answers", "classes", "score"), CASES)
def test_scores_by_hand(name, prediction, answers, classes, score, protocol):
    found = score_prediction(DATA_SETS[name], item(prediction, answers, classes), protocol)
    assert found == pytest.approx(score, abs=1e-8)  # the ROUGE package adds 1e-8 to a denominator


def test_the_cases_by_hand_are_of_all_data_sets():
    assert {name for name, *_ in CASES} == set(DATA_SETS)


GOLD = {"retrieval_en": "Paragraph 3", "retrieval_zh": "段落3", "count": "3"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", DATA_SETS)
def test_empty_predictions_score_zero(name, protocol):
    answers = [GOLD.get(DATA_SETS[name].metric, "An answer. Two sentences.")]
    assert score_prediction(DATA_SETS[name], item("", answers, ["x"]), protocol) == 0


def test_the_data_sets_are_those_of_the_benchmark():
    assert len(DATA_SETS) == 21
    assert {item.metric for item in DATA_SETS.values()} == set(METRICS)
    sizes = [sum(item.category == category for item in DATA_SETS.values()) for category in CATEGORIES]
    assert sizes == [4, 4, 4, 4, 3, 2]
    assert {item.name for item in DATA_SETS.values() if item.first_line} == {"trec", "triviaqa", "samsum", "lsht"}
    assert sum(item.language == "zh" for item in DATA_SETS.values()) == 5
    assert sum(item.extended for item in DATA_SETS.values()) == 13
    most = {n: {item.name for item in DATA_SETS.values() if item.new_tokens == n} for n in (32, 128, 512)}
    assert most[32] == {
        "hotpotqa", "2wikimqa", "musique", "triviaqa", "passage_count", "passage_retrieval_en", "passage_retrieval_zh",
    }  # fmt: skip
    assert most[128] == {"narrativeqa", "qasper", "dureader", "samsum"}
    assert most[512] == {"gov_report", "qmsum", "multi_news", "vcsum"}
    assert {item.new_tokens for item in DATA_SETS.values()} == {32, 64, 128, 512}


def test_only_the_first_line_of_few_shot_predictions_is_scored_and_all_of_others():
    for name, data_set in DATA_SETS.items():
        if data_set.metric in ("qa_f1", "rouge"):
            score = score_prediction(data_set, item("\n\nblue sky\nred house", ["red house"]), "strict")
            assert (score == 0) == (name in {"triviaqa", "samsum"})


def test_classification_passes_over_the_class_behind_a_removed_one_in_strict_mode_only():
    classes, answer = ["a", "ab", "abc"], "abc"
    # all three are named; "a" goes, "ab" moves to its place and is passed over
    assert text_metrics.classification("abc", answer, classes, strict=True) == 0.5
    assert text_metrics.classification("abc", answer, classes, strict=False) == 1.0
    # one proper part alone makes no difference
    assert text_metrics.classification("abc", answer, ["a", "abc"], strict=True) == 1.0


def counted_f1(prediction, answer):
    """F1 of two lists of words, by crossing out one word at a time."""
    left, same = list(answer), 0
    for word in prediction:
        if word in left:
            left.remove(word)
            same += 1
    if not same:
        return 0.0
    return float(Fraction(2 * same, len(prediction) + len(answer)))


def english_words(text):
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return [word for word in re.findall(r"\S+", re.sub(r"(?<!\w)(?:the|an|a)(?!\w)", " ", kept)) if word]


WORDS = st.sampled_from(["the", "a", "An", "The.", "cat", "Cat", "cats!", "it's", "its", "...", "42", "4.2", "é", "–"])
TEXTS = st.lists(WORDS, max_size=12).flatmap(
    lambda words: st.sampled_from([" ", "\n", "\t ", ", ", "-"]).map(lambda gap: gap.join(words))
)


@given(TEXTS | st.text(max_size=30), TEXTS | st.text(max_size=30))
def test_qa_f1_is_its_definition(prediction, answer):
    expected = counted_f1(english_words(prediction), english_words(answer))
    assert text_metrics.qa_f1(prediction, answer) == pytest.approx(expected, abs=1e-9)


def matching_characters(a, b):
    """Ratcliff and Obershelp: the longest common block, first in a, then in b; then the same left and right of it."""
    best = (0, 0, 0)
    for i in range(len(a)):
        for j in range(len(b)):
            k = 0
            while i + k < len(a) and j + k < len(b) and a[i + k] == b[j + k]:
                k += 1
            if k > best[2]:
                best = (i, j, k)
    i, j, k = best
    return k and k + matching_characters(a[:i], b[:j]) + matching_characters(a[i + k :], b[j + k :])


LINES = st.text(alphabet="ab(=) #`/x", max_size=24)


@given(st.lists(LINES, max_size=4).map("\n".join), LINES)
def test_code_similarity_is_its_definition(prediction, answer):
    while prediction.startswith("\n"):
        prediction = prediction[1:]
    line = ""
    for candidate in prediction.split("\n"):
        if not re.search(r"`|#|//", candidate):
            line = candidate
            break
    characters = len(line) + len(answer)
    ratio = 2 * matching_characters(line, answer) / characters if characters else 1.0
    whole = math.floor(100 * ratio)
    rest = 100 * ratio - whole
    whole += rest > 0.5 or (rest == 0.5 and whole % 2)
    assert text_metrics.code_similarity(prediction, answer) == pytest.approx(whole / 100, abs=1e-9)


def lcs_length(a, b):
    rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            rows[i + 1][j + 1] = rows[i][j] + 1 if left == right else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


DISTINCT = st.lists(st.integers(0, 20).map(lambda n: f"w{n}"), min_size=1, max_size=15, unique=True)


@given(DISTINCT, DISTINCT, st.sampled_from(PROTOCOLS))
@settings(max_examples=50)
def test_rouge_l_of_one_sentence_of_distinct_words_is_its_definition(prediction, answer, protocol):
    """F = (1 + β²)PR / (R + β²P) with β = 1; P and R: longest common subsequence over the words of each."""
    length = lcs_length(prediction, answer)
    p, r = length / len(prediction), length / len(answer)
    expected = 2 * p * r / (p + r) if length else 0.0
    found = METRICS["rouge"](" ".join(prediction), " ".join(answer), (), protocol == "strict")
    assert found == pytest.approx(expected, abs=2e-8)


def test_rouge_l_joins_sentences_as_sets_of_words():
    # the common words of either sentence count once: {a, b, c} of {a, b, c, x} against {a, b, c}
    assert text_metrics.rouge_l("a b x. a c", "a b. a c", strict=True) == pytest.approx(6 / 7, abs=1e-7)


UPSTREAM_NESTING = """
from rouge import Rouge
def metric(prediction, answer):
    try:
        return Rouge().get_scores([prediction], [answer], avg=True)["rouge-l"]["f"]
    except RecursionError:
        return 0.0
def chinese(prediction, answer):
    return metric(prediction, answer)
def scorer(name, prediction, answer):
    score = 0.0
    score = max(score, name(prediction, answer))
    return score
n = 900
while scorer(metric, " ".join(f"w{i}" for i in range(n)), "w0"):
    n += 1
m = 900
while scorer(chinese, " ".join(f"w{i}" for i in range(m)), "w0"):
    m += 1
print(n, m)
"""


def first_zero(metric, depth):
    """The least number of words with which ROUGE gives up, called from ``depth`` frames deeper."""
    if depth:
        return first_zero(metric, depth - 1)
    n = 900
    while metric(" ".join(f"w{i}" for i in range(n)), "w0"):
        n += 1
    return n


@pytest.mark.parametrize("depth", [0, 200])
def test_strict_rouge_gives_up_at_the_word_where_the_released_nesting_does(depth, monkeypatch):
    result = subprocess.run([sys.executable, "-c", UPSTREAM_NESTING], capture_output=True, text=True, check=True)
    english, chinese = map(int, result.stdout.split())
    assert first_zero(lambda p, a: text_metrics.rouge_l(p, a, strict=True), depth) == english
    words = type("Words", (), {"cut": staticmethod(str.split)})
    monkeypatch.setattr(text_metrics, "_tokenizer", lambda: words)
    assert first_zero(lambda p, a: text_metrics.rouge_l_zh(p, a, strict=True), depth) == chinese


def test_fixed_rouge_scores_long_overlaps_and_leaves_the_recursion_limit_alone():
    text = " ".join(f"w{n}" for n in range(1100))
    limit = sys.getrecursionlimit()
    assert text_metrics.rouge_l(text, text, strict=True) == 0.0
    assert text_metrics.rouge_l(text, text, strict=False) == pytest.approx(1.0, abs=1e-7)
    assert sys.getrecursionlimit() == limit


def test_blank_predictions_match_no_blank_sentence_in_fixed_mode():
    # "One. " is two sentences to the package, the second of one empty word; so is a blank
    assert score_prediction(DATA_SETS["qmsum"], item(" ", ["One. "]), "strict") == pytest.approx(2 / 3, abs=1e-7)
    assert score_prediction(DATA_SETS["qmsum"], item(" ", ["One. "]), "fixed") == 0


def test_jieba_starts_silently_and_leaves_no_cache(tmp_path):
    code = "import sys; sys.path.insert(0, 'scripts'); "
    code += "from gateau.evaluation.benchmarks.longbench.metrics import qa_f1_zh as f;"
    result = subprocess.run(
        [sys.executable, "-c", f"{code} print(f('今天天气', '今天天气'))"],
        cwd=ROOT, capture_output=True, text=True, check=True, env={"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert (result.stdout, result.stderr) == ("1.0\n", "")
    assert not list(tmp_path.iterdir())


def test_percent_and_buckets():
    assert percent([1 / 3, 1 / 3, 0.0]) == 22.22
    found = buckets([1.0, 0.0, 0.5, 0.25], [3999, 0, 4000, 7999])
    assert found == {
        "0-4k": {"score": 50.0, "n": 2},
        "4-8k": {"score": 37.5, "n": 2},
        "8k+": {"score": None, "n": 0},
    }
    assert buckets([1.0], [8000])["8k+"] == {"score": 100.0, "n": 1}


def test_category_means_say_what_is_missing():
    means = category_means({"lcc": {"score": 50.0}, "qasper": {"score": 1.0}, "hotpotqa": {"score": 2.0}}, False)
    assert means["code"] == {"score": 50.0, "n": 1, "missing": ["repobench-p"]}
    assert list(means) == ["single-doc QA", "multi-doc QA", "code"]
    extended = category_means({"qasper": {"score": 1.0}, "multifieldqa_en": {"score": 2.0}}, True)
    assert extended["single-doc QA"] == {"score": 1.5, "n": 2, "missing": []}


def test_bootstrap_interval_is_that_of_theory_and_repeatable():
    scores = np.random.default_rng(1).random(400)
    interval = bootstrap_interval(scores)
    half = 1.96 * scores.std() / 20
    assert interval.low == pytest.approx(scores.mean() - half, abs=half / 10)
    assert interval.high == pytest.approx(scores.mean() + half, abs=half / 10)
    assert interval == bootstrap_interval(scores)
    assert interval != bootstrap_interval(scores, seed=1)


def test_bootstrap_interval_covers_the_true_mean_about_19_times_in_20():
    random_state = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        interval = bootstrap_interval(random_state.random(60), resamples=400, seed=seed)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.91 <= hits / 400 <= 0.98


@pytest.mark.parametrize("scores", [[], [0.5, math.nan], [math.inf]])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(ScoreError):
        bootstrap_interval(scores)


def test_paired_differences_show_small_steady_gains():
    draw = random.Random(0)
    differences = [0.02 + 0.01 * draw.random() for _ in range(100)]
    comparison = stratified_difference([differences])
    assert comparison.n == 100
    assert comparison.difference == pytest.approx(0.025, abs=0.002)
    assert 0.02 < comparison.interval.low < comparison.difference < comparison.interval.high < 0.03
    # the smallest share of 10 000 resampled means, read on Student's distribution with 99 degrees of freedom
    smallest = scipy.stats.norm.ppf(1 / 10_001) * math.sqrt(99 / 100)
    assert comparison.p_value == pytest.approx(2 * scipy.stats.t.cdf(smallest, 99))
    mirrored = stratified_difference([[-difference for difference in differences]])
    assert mirrored.p_value == comparison.p_value
    assert mirrored.interval.low == pytest.approx(-comparison.interval.high)
    assert stratified_difference([[0.0] * 100]).p_value == 1.0


def test_strata_weigh_the_same_and_are_drawn_apart():
    draw = np.random.default_rng(3)
    large, small = draw.random(900), 2 + draw.random(100)
    interval = stratified_interval([large, small])
    centre = (large.mean() + small.mean()) / 2  # 1.5; the mean of all 1000 is 0.7
    half = 1.96 * math.hypot(large.std() / 30, small.std() / 10) / 2
    assert interval.low == pytest.approx(centre - half, abs=half / 10)
    assert interval.high == pytest.approx(centre + half, abs=half / 10)
    # the distance between two strata is no noise, and equal draws of equal strata would not cancel
    assert stratified_interval([[1.0] * 5, [3.0] * 5]).low == stratified_interval([[1.0] * 5, [3.0] * 5]).high == 2.0
    both = stratified_interval([large, large])
    assert (both.high - both.low) == pytest.approx(2 * 1.96 * large.std() / 30 / math.sqrt(2), rel=0.05)
    assert stratified_interval([large]) == bootstrap_interval(large)


def test_strata_of_differences_weigh_the_same():
    both = stratified_difference([[0.1] * 3, [0.3] * 30])
    assert (both.n, both.clusters, both.difference) == (33, 33, pytest.approx(0.2))
    assert 2 / 10_001 < both.p_value < 0.002


@pytest.mark.parametrize("strata", [[], [[1.0], []], [[1.0], [math.nan]]])
def test_strata_that_are_none_are_refused(strata):
    with pytest.raises(ScoreError):
        stratified_interval(strata)
    with pytest.raises(ScoreError):
        stratified_difference(strata)


def row(pred="x", answers=("x",), classes=None, **fields):
    return {"pred": pred, "answers": list(answers), "all_classes": classes, **fields}


BROKEN = [
    ("qasper", "{", "not JSON"),
    ("qasper", b"\xff{}", "not JSON in UTF-8"),
    ("qasper", [1], "not a JSON object"),
    ("qasper", {"pred": "x"}, "no answers and no all_classes"),
    ("qasper", {"answers": ["x"], "all_classes": None}, "no pred"),
    ("qasper", row(pred=None), "pred must be a text"),
    ("qasper", {**row(), "answers": "x"}, "answers must be a list"),
    ("qasper", row(answers=[]), "answers must be a list"),
    ("trec", row(), "all_classes is empty"),
    ("trec", row(classes="Food"), "all_classes must be null or a list"),
    ("passage_retrieval_en", row(), "'Paragraph <number>'"),
    ("passage_retrieval_zh", row(), "'段落<number>'"),
    ("qasper", row(length="4000"), "length must be a whole number"),
    ("qasper", row(length=5), "length must be in every row"),
    ("qasper", row(_id="1"), "id '1' is also in line 1"),
    ("qasper", row(_id=True), "_id must be a text or a whole number"),
]
GOOD = {
    "trec": row(classes=["x"]), "passage_retrieval_en": row(answers=["Paragraph 1"]),
    "passage_retrieval_zh": row(answers=["段落1"]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "broken", "message"), BROKEN)
def test_broken_rows_are_named_by_file_and_line(tmp_path, name, broken, message):
    path = write_jsonl(tmp_path / f"{name}.jsonl", [GOOD.get(name, row()), broken])
    with pytest.raises(DataError, match=f"{name}.jsonl, line 2: .*{re.escape(message)}"):
        score_file(path, "strict")


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("quality.jsonl", [row()], "'quality' is not a data set of LongBench"),
        ("narrativeqa_e.jsonl", [row(length=1)], "LongBench-E has no narrativeqa"),
        ("qasper_e.jsonl", [row()], "line 1: length must be in every row"),
        ("qasper.jsonl", [row(length=1), row()], "line 2: length must be in every row"),
        ("qasper.jsonl", [], "no rows"),
    ],
)
def test_files_that_cannot_be_scored_say_why(tmp_path, name, rows, message):
    with pytest.raises(DataError, match=message):
        score_file(write_jsonl(tmp_path / name, rows), "strict")


def test_script_scores_a_folder(tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    write_jsonl(folder / "qasper.jsonl", [row("a cat", ["cat"]), row("", ["cat"]), row(" ", ["cat"]), row("dog cat")])
    write_jsonl(folder / "hotpotqa_e.jsonl", [row(length=100), row("y", length=4000), row(length=9000)])
    write_jsonl(folder / "trec.jsonl", [row("abc", ["abc"], ["a", "ab", "abc"])])
    (folder / "result.json").write_text("{}")
    found = {}
    for protocol in PROTOCOLS:
        output = tmp_path / f"{protocol}.json"
        result = run_script(
            "score_longbench", "--predictions", folder, "--protocol", protocol, "--output", output, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        assert f"## LongBench, automatic metrics, protocol {protocol}" in result.stdout
        assert f"## LongBench-E, automatic metrics, protocol {protocol}" in result.stdout
        found[protocol] = json.loads(output.read_text())
        assert found[protocol]["protocol"] == protocol
    table = re.sub(" +", " ", result.stdout)
    assert "| qasper | qa_f1 | 25.00 | 0.00 to 100.00 | 4 | 2 | – | – | – |" in table
    assert "| hotpotqa | qa_f1 | 66.67 | 0.00 to 100.00 | 3 | 0 | 100.00 | 0.00 | 100.00 |" in table
    assert "| single-doc QA | 25.00 | 1 of 4 |" in table
    strict, fixed = (found[protocol]["longbench"]["data_sets"] for protocol in PROTOCOLS)
    assert strict["qasper"] == {
        "category": "single-doc QA", "language": "en", "metric": "qa_f1", "score": 25.0, "interval": [0.0, 100.0],
        "n": 4, "empty_predictions": 2,
    }  # fmt: skip
    assert (strict["trec"]["score"], fixed["trec"]["score"]) == (50.0, 100.0)
    extended = found["fixed"]["longbench_e"]
    assert extended["data_sets"]["hotpotqa"]["buckets"]["4-8k"] == {"score": 0.0, "n": 1}
    assert extended["categories"]["multi-doc QA"]["missing"] == ["2wikimqa"]


def test_measures_agree_with_the_report_and_categories_weigh_data_sets_alike(tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    write_jsonl(folder / "qasper.jsonl", [row(_id="a"), row("y", _id="b"), row("y"), row("y")])
    write_jsonl(folder / "multifieldqa_en.jsonl", [row()])
    write_jsonl(folder / "hotpotqa_e.jsonl", [row(length=100), row("y", length=4000)])
    outputs = {name: tmp_path / name for name in ("scores.json", "items.jsonl", "t.md")}
    result = run_script(
        "score_longbench", "--predictions", folder, "--output", outputs["scores.json"], "--data", "made here",
        "--items", outputs["items.jsonl"], "--table", outputs["t.md"],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    scores = json.loads(outputs["scores.json"].read_text())
    found = {(one["benchmark"], one["name"]): one for one in scores["measures"]}
    assert {name: (one["score"], one["n"], one["headline"]) for name, one in found.items()} == {
        ("longbench", "qasper"): (25.0, 4, False), ("longbench", "multifieldqa_en"): (100.0, 1, False),
        ("longbench", "single-doc QA"): (62.5, 5, True), ("longbench_e", "hotpotqa"): (50.0, 2, False),
        ("longbench_e", "multi-doc QA"): (50.0, 2, True),
    }  # fmt: skip
    data_set = scores["longbench"]["data_sets"]["qasper"]
    assert [found["longbench", "qasper"][end] for end in ("low", "high")] == data_set["interval"]
    # half of the weight lies on multifieldqa_en, of which one row says nothing about others
    assert found["longbench", "single-doc QA"]["low"] is found["longbench", "multifieldqa_en"]["high"] is None
    assert {(one["protocol"], one["unit"], one["data"], one["judge"], one["nulls"]) for one in found.values()} == {
        ("strict", "%", "made here", None, 0)
    }
    items = [json.loads(line) for line in outputs["items.jsonl"].read_text().splitlines()]
    assert [(one["benchmark"], one["name"], one["item"], one["score"]) for one in items] == [
        ("longbench", "qasper", "qasper/a", 100.0), ("longbench", "qasper", "qasper/b", 0.0),
        ("longbench", "qasper", "qasper/3", 0.0), ("longbench", "qasper", "qasper/4", 0.0),
        ("longbench", "multifieldqa_en", "multifieldqa_en/1", 100.0),
        ("longbench_e", "hotpotqa", "hotpotqa_e/1", 100.0), ("longbench_e", "hotpotqa", "hotpotqa_e/2", 0.0),
    ]  # fmt: skip
    assert outputs["t.md"].read_text() in result.stdout


def test_script_scores_one_file_and_ends_with_one_plain_message_otherwise(tmp_path):
    path = write_jsonl(tmp_path / "lcc.jsonl", [row("x = 1", ["x = 1"])])
    good = run_script("score_longbench", "--predictions", path, "--output", tmp_path / "scores.json")
    assert good.returncode == 0, good.stderr
    assert json.loads((tmp_path / "scores.json").read_text())["longbench"]["data_sets"]["lcc"]["score"] == 100.0
    write_jsonl(path, [row(), "{"])
    for target, message in (
        (path, "lcc.jsonl, line 2: not JSON"),
        (tmp_path / "nowhere", "no such file or folder"),
        (ROOT / "config", "no *.jsonl there"),
    ):
        bad = run_script("score_longbench", "--predictions", target, "--output", tmp_path / "bad.json")
        assert bad.returncode == 1
        assert message in bad.stderr
        assert "Traceback" not in bad.stderr
        assert not (tmp_path / "bad.json").exists()
