"""Items that share a document, a needle or a dialogue are resampled together; models share the parts they answered."""

import json
import math
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats

from gateau.evaluation import benchmarks
from gateau.evaluation.benchmarks.longbench.scores import longbench_measures, score_file
from gateau.evaluation.benchmarks.longbench_chat.cases import Case, ChatPrediction
from gateau.evaluation.benchmarks.longbench_chat.scores import chat_scores
from gateau.evaluation.benchmarks.mt_bench.questions import Question
from gateau.evaluation.benchmarks.mt_bench.scores import mt_bench_scores
from gateau.evaluation.results.common_parts import on_common_parts
from gateau.evaluation.results.intervals import (
    RESAMPLES,
    SEED,
    bootstrap_interval,
    stratified_difference,
    stratified_interval,
)
from gateau.evaluation.results.leaderboard import Entry, compare, plot_leaderboard, to_csv, to_html, to_markdown
from gateau.evaluation.results.measures import ScoredItem, measure_items, write_items, write_scores
from gateau.schemas import ANSWERS
from gateau.tables import read_rows

from helpers import ROOT, run_script, write_jsonl
from unit.judgments import write_judgments


def naive_means(strata, clusters, resamples, seed):
    """The cluster bootstrap item by item: draw clusters with replacement, and average all their items."""
    random_state = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for scores, shared in zip(strata, clusters, strict=True):
        names = list(dict.fromkeys(shared))
        members = {name: [score for score, own in zip(scores, shared, strict=True) if own == name] for name in names}
        draws = random_state.integers(len(names), size=(resamples, len(names)))
        for number, draw in enumerate(draws):
            items = [score for place in draw for score in members[names[place]]]
            total[number] += sum(items) / len(items)
    return total / len(strata)


def clustered(n_clusters, draw, largest=6):
    scores, shared = [], []
    for number in range(n_clusters):
        for _ in range(draw.randint(1, largest)):
            scores.append(draw.random() + number % 3)
            shared.append(f"document {number}")
    together = list(zip(scores, shared, strict=True))
    draw.shuffle(together)
    return tuple(map(list, zip(*together, strict=True)))


@pytest.mark.parametrize("sizes", [[7], [5, 12], [40]])
def test_the_bootstrap_is_that_of_a_naive_one_over_clusters(sizes):
    draw = random.Random(sum(sizes))
    strata, clusters = zip(*(clustered(size, draw) for size in sizes), strict=True)
    means = naive_means(strata, clusters, 500, 3)
    freedom = sum(sizes) - len(sizes)
    tail = scipy.stats.norm.cdf(scipy.stats.t.ppf(0.025, freedom) * math.sqrt(sum(sizes) / freedom))
    found = stratified_interval(strata, 500, 3, clusters=clusters)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, (tail, 1 - tail))))
    compared = stratified_difference(strata, 500, 3, clusters=clusters)
    assert (compared.interval.low, compared.interval.high) == pytest.approx((found.low, found.high))
    assert (compared.clusters, compared.n) == (sum(sizes), sum(map(len, strata)))
    assert compared.difference == pytest.approx(np.mean([np.mean(scores) for scores in strata]))


def test_items_that_share_nothing_have_the_interval_of_clusters_of_one():
    scores = np.random.default_rng(5).random(80)
    assert bootstrap_interval(scores) == bootstrap_interval(scores, clusters=[f"item {n}" for n in range(80)])
    assert bootstrap_interval(scores) == bootstrap_interval(scores, RESAMPLES, SEED)


@pytest.mark.parametrize(("n_clusters", "least"), [(10, 0.91), (40, 0.92)])
def test_intervals_of_correlated_items_cover_the_truth_and_those_over_items_do_not(n_clusters, least):
    """Each needle has a rate of its own, and is asked for twenty times. The truth is the mean of all rates, 0.5."""
    random_state, hits, old_hits, runs = np.random.default_rng(1), 0, 0, 300
    shared = np.repeat(np.arange(n_clusters), 20).tolist()
    for seed in range(runs):
        rates = random_state.beta(1, 1, size=n_clusters)
        scores = (random_state.random((n_clusters, 20)) < rates[:, None]).astype(float).ravel()
        found, old = bootstrap_interval(scores, 400, seed, clusters=shared), bootstrap_interval(scores, 400, seed)
        hits += found.low <= 0.5 <= found.high
        old_hits += old.low <= 0.5 <= old.high
    assert least <= hits / runs <= 0.985
    assert old_hits / runs < 0.7


def test_one_cluster_has_neither_an_interval_nor_a_p_value():
    assert bootstrap_interval([0.0, 1.0], clusters=["a", "a"]) is None
    assert bootstrap_interval([1.0]) is None
    compared = stratified_difference([[0.5, 0.7], [0.1]], clusters=[["a", "b"], ["c"]])
    assert (compared.n, compared.difference, compared.interval, compared.p_value) == (
        3,
        pytest.approx(0.35),
        None,
        None,
    )


def items_of(scores, clusters, name="all", parts=None):
    parts = parts or [""] * len(scores)
    return [
        ScoredItem("needle", name, "containment", f"cell {n}", score, cluster, part)
        for n, (score, cluster, part) in enumerate(zip(scores, clusters, parts, strict=True))
    ]


def entry(model, items, **options):
    options = {"unit": "%", "data": "Needle", "headline": True} | options
    return Entry(model, "measured", measure_items(items, **options))


def test_comparisons_resample_the_same_clusters():
    draw = random.Random(2)
    clusters = [f"needle {n % 8}" for n in range(48)]
    ours = [float(draw.random() < 0.5) * 100 for _ in clusters]
    theirs = [score + 10 * (int(cluster[-1]) % 4) for score, cluster in zip(ours, clusters, strict=True)]
    items = {"base": items_of(ours, clusters), "mine": items_of(theirs, clusters)}
    (found,) = compare([entry(model, own) for model, own in items.items()], items, "base")
    order = sorted(range(48), key=lambda n: f"cell {n}")
    differences = [theirs[n] - ours[n] for n in order]
    expected = stratified_difference([differences], clusters=[[clusters[n] for n in order]])
    assert (found.low, found.high, found.p_value) == (
        expected.interval.low, expected.interval.high, expected.p_value,
    )  # fmt: skip
    assert (found.n, found.clusters) == (48, 8)
    over_items = stratified_difference([differences])
    assert found.high - found.low > 1.8 * (over_items.interval.high - over_items.interval.low)


def test_one_needle_is_shown_without_an_interval(tmp_path):
    note = "one needle: positions only"
    items = {model: items_of(scores, ["one"] * 3) for model, scores in (("base", [0, 0, 100]), ("mine", [100, 0, 100]))}
    entries = [entry(model, own, note=note) for model, own in items.items()]
    differences = compare(entries, items, "base")
    assert (differences[0].low, differences[0].p_value) == (None, None)
    text = to_markdown(entries, differences, "base")
    assert "| mine  | 66.67 (n = 3) |" in text
    assert "base, mine: one needle: positions only." in text
    assert "| +33.33 " in text
    assert "<p>base, mine: one needle: positions only.</p>" in to_html(entries, differences, "base")
    assert "66.66666666666667,,,3" in to_csv(entries)
    plot_leaderboard(entries, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_models_of_different_windows_are_compared_on_the_lengths_in_common():
    clusters = ["a", "b", "c"] * 2
    lengths = ["length 500"] * 3 + ["length 1000"] * 3
    items = {
        "large": items_of([100, 100, 0, 0, 0, 0], clusters, parts=lengths),
        "small": items_of([100, 0, 0], clusters[:3], parts=lengths[:3]),
    }
    left_out = "left out, above the window: 1000"
    entries = [entry("large", items["large"]), entry("small", items["small"], note=left_out)]
    entries, more = on_common_parts(entries, items)
    headlines = {(one.model, one.measure.name): one.measure for one in entries if one.measure.headline}
    assert {key: (one.score, one.n) for key, one in headlines.items()} == {
        ("large", "all, in common"): (pytest.approx(200 / 3), 3),
        ("small", "all, in common"): (pytest.approx(100 / 3), 3),
    }  # fmt: skip
    assert headlines["small", "all, in common"].note == f"{left_out}; in common: length 500"
    assert {one.measure.n for one in entries if one.measure.name == "all"} == {3, 6}
    found = {one.name: (one.n, one.difference) for one in compare(entries, more, "large")}
    assert found == {"all": (3, pytest.approx(-100 / 3)), "all, in common": (3, pytest.approx(-100 / 3))}
    text = to_markdown(entries, [], "large")
    assert text.index("large, small: in common: length 500.") < text.index("## In detail")
    same = [entry("large", items["large"]), entry("other", items["large"])]
    assert on_common_parts(same, {"large": items["large"], "other": items["large"]})[0] == same


def test_rows_of_longbench_about_one_context_are_resampled_together(tmp_path):
    def predictions(**more):
        rows = [
            {"pred": "x" if n // 4 % 2 else "y", "answers": ["x"], "all_classes": None, "length": 9}
            | {name: value(n) for name, value in more.items()}
            for n in range(40)
        ]
        path = write_jsonl(tmp_path / "qasper.jsonl", rows)
        return longbench_measures([score_file(path, "strict")], "strict", data="d")

    (alone, _), _ = predictions()
    (shared, category), items = predictions(context_sha256=lambda n: f"context {n // 4}")
    assert (alone.clusters, shared.clusters, category.clusters) == (40, 10, 10)
    assert {item.cluster for item in items} == {f"context {n}" for n in range(10)}
    assert shared.score == alone.score == 50
    assert shared.high - shared.low > 1.7 * (alone.high - alone.low)
    found = bootstrap_interval([item.score for item in items], clusters=[item.cluster for item in items])
    assert (shared.low, shared.high) == (round(found.low, 2), round(found.high, 2))


def test_rows_of_one_context_are_known_by_the_questions(tiny_tokenizer):
    options = {"data_sets": ["samsum"], "extended": False}
    asked = benchmarks.load("longbench").ask(
        ROOT / "workflow/resources/small_benchmarks/longbench", options, tiny_tokenizer
    )
    assert (len(asked), len({question.record["context_sha256"] for question in asked})) == (4, 2)


def test_longbench_e_alone_can_be_asked(tiny_tokenizer, tmp_path):
    source = ROOT / "workflow/resources/small_benchmarks/longbench"
    (tmp_path / "data").mkdir()
    for file in source.glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text())
    for name in ("qasper", "qasper_e", "trec"):
        (tmp_path / f"data/{name}.jsonl").write_text((source / f"data/{name.removesuffix('_e')}.jsonl").read_text())
    for extended, expected in (
        (False, {"qasper", "trec"}),
        (True, {"qasper", "qasper_e", "trec"}),
        ("only", {"qasper_e"}),
    ):
        asked = benchmarks.load("longbench").ask(tmp_path, {"data_sets": "all", "extended": extended}, tiny_tokenizer)
        assert {question.item.partition("/")[0] for question in asked} == expected


def test_cases_of_longbench_chat_about_one_document_are_resampled_together():
    def case(idx, document, query, between="\n\n"):
        return Case(idx, query, "", f"{document}{between}{query}")

    cases = [
        case(1, "A text.\nIts end.", "Who?"),
        case(2, "A text.\nIts end.", "When did it end?"),
        case(3, "B.", "Who?"),
    ]
    same = Case(4, "WHO", "", "A text.\nIts end.\n\nWho was it?\n")  # the question is worded otherwise in the prompt
    digests = [one.document_sha256 for one in (*cases, same)]
    assert digests[0] == digests[1] == digests[3] != digests[2]
    predictions = [ChatPrediction(one.idx, one.query, "", "x", one.document_sha256) for one in (*cases, same)]
    ratings = {"1": 2.0, "2": 4.0, "3": 9.0, "4": 3.0}
    measures, _ = chat_scores(predictions, ratings, "gateau", data="d", judge="j", language="English")
    assert [(one.name, one.headline, one.n, one.clusters) for one in measures] == [("English", True, 4, 2)]
    expected = bootstrap_interval([2, 4, 9, 3], clusters=["a", "a", "b", "a"])
    assert (measures[0].low, measures[0].high) == (expected.low, expected.high)
    assert [one.name for one in chat_scores(predictions, ratings, "gateau", data="d", judge="j")[0]] == [
        "all",
        "English",
    ]


def test_cases_of_one_language_can_be_chosen(tmp_path, tiny_tokenizer):
    rows = [
        {"idx": 1, "query": "Who?", "answer": "a", "prompt": "A text.\n\nWho?"},
        {"idx": 2, "query": "谁？", "answer": "b", "prompt": "春天。\n\n谁？"},
    ]
    (tmp_path / "test_cases.json").write_text(json.dumps(rows))
    options = {"protocol": "gateau", "max_new_tokens": 8}
    for language, expected in (("all", ["1", "2"]), ("English", ["1"]), ("Chinese", ["2"])):
        asked = benchmarks.load("longbench_chat").ask(tmp_path, {**options, "language": language}, tiny_tokenizer)
        assert [question.item for question in asked] == expected
    predictions = write_jsonl(tmp_path / "p.jsonl", [{**row, "pred": "x"} for row in rows])
    write_judgments(tmp_path / "j.jsonl", {"1": 5, "2": 5})
    result = run_script(
        "score_longbench_chat", "--predictions", predictions, "--judgments", tmp_path / "j.jsonl", "--judge", "j",
        "--protocol", "gateau", "--language", "English", "--output", tmp_path / "s.json",
    )  # fmt: skip
    assert result.returncode == 1
    assert "idx 2 is not English; take --language all" in result.stderr


def test_the_turns_of_a_question_of_mt_bench_are_resampled_together():
    questions = [Question(number, "writing", ("a", "b")) for number in range(6)]
    ratings = {f"{number}-{turn}": float(1 + number + turn) for number in range(6) for turn in (1, 2)}
    measures, items = mt_bench_scores(questions, ratings, data="d", judge="j")
    found = {one.name: one for one in measures}
    assert (found["average"].n, found["average"].clusters, found["turn 1"].clusters) == (12, 6, 6)
    own = [item for item in items if item.name == "average"]
    expected = bootstrap_interval([item.score for item in own], clusters=[item.item.partition("-")[0] for item in own])
    assert (found["average"].low, found["average"].high) == (expected.low, expected.high)


def turn(text, **fields):
    return {
        "text": text, "prompt_sha256": "ab" * 32, "prompt_tokens": 9, "new_tokens": 3, "truncated_tokens": 0,
        "control_tokens": 0, "finish_reason": "stop", "reasoning": "", **fields,
    }  # fmt: skip


def test_all_answers_become_one_table_with_their_scores(tmp_path):
    def answers(name, rows):
        return str(
            write_jsonl(tmp_path / name, [{"of": 9, "benchmark": "b", "record": {"n": 1}, **row} for row in rows])
        )

    first = answers("0.jsonl", [{"number": 0, "item": "n0", "turns": [turn("zero", reasoning="<think>")]},
                                {"number": 2, "item": "n2", "turns": [turn("two")]}])  # fmt: skip
    second = answers("1.jsonl", [{"number": 1, "item": "n1", "turns": [turn("one")]}])
    talked = answers("2.jsonl", [{"number": 0, "item": "81", "turns": [turn("hello"), turn("bye", prompt_tokens=20)]}])
    empty = answers("3.jsonl", [])
    folders = []
    for name, benchmark, protocol, judge, found in (
        ("needle", "needle", "containment", None, {"n0": 100.0, "n1": 0.0}),
        ("mt_bench", "mt_bench", "fastchat single", "gpt", {"81-1": 7.0, "81-2": 2.0}),
    ):
        items = [ScoredItem(benchmark, "all", protocol, item, score) for item, score in found.items()]
        folder = tmp_path / f"score_{name}/m"
        write_scores(folder / "scores.json", {}, [measure_items(items, unit="%", data="d", judge=judge)])
        write_items(folder / "items.jsonl", items)
        folders.append(str(folder))
    asked = {"m": {"needle": [first, second, empty], "mt_bench": [talked]}, "other": {"needle": [second]}}
    output = tmp_path / "answers/answers.parquet"
    result = run_script(
        "answers",
        "--answers",
        json.dumps(asked),
        "--scores",
        json.dumps({"m": folders, "other": []}),
        "--output",
        output,
    )
    assert result.returncode == 0, result.stderr
    rows = read_rows(output, ANSWERS)
    names = ("model", "benchmark", "item", "turn", "answer", "score", "protocol", "rating", "judge")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("m", "needle", "n0", 1, "zero", 100.0, "containment", None, None),
        ("m", "needle", "n1", 1, "one", 0.0, "containment", None, None),
        ("m", "needle", "n2", 1, "two", None, None, None, None),
        ("m", "mt_bench", "81", 1, "hello", None, None, 7.0, "gpt"),
        ("m", "mt_bench", "81", 2, "bye", None, None, 2.0, "gpt"),
        ("other", "needle", "n1", 1, "one", None, None, None, None),
    ]
    assert (rows[0]["reasoning"], rows[4]["prompt_tokens"], rows[0]["record"]) == ("<think>", 20, '{"n": 1}')
    assert {row["prompt_sha256"] for row in rows} == {"ab" * 32}
    assert all(field.metadata[b"description"] for field in pq.read_schema(output))
