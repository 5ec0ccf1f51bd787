"""Methods compared on labelled data, the open choices, and sensitivity: measures by definition, intervals by sense."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from gateau.errors import DataError
from gateau.selection.choices import choices, choices_markdown, rank_choices
from gateau.selection.comparison import (
    aurocs,
    compare,
    correlations,
    drawn_ranks,
    plot_comparison,
    precisions,
    to_frame,
    to_markdown,
)
from gateau.selection.fusion import SelectionOptions
from gateau.selection.quality import auroc, spearman
from gateau.selection.ranking import rank_samples
from gateau.selection.sensitivity import keep_segments, sensitivity

N = 80


def cells(text):
    """A Markdown table without the spaces that align it."""
    return re.sub(r" +", " ", text)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    ids = [f"s{number:02d}" for number in range(N)]
    labels = pd.Series(["far" if number % 4 == 0 else "near" for number in range(N)], index=ids)
    lengths = pd.Series(rng.integers(10, 1000, N), index=ids)
    wanted = (labels == "far").to_numpy()
    scores = {
        "oracle": wanted * 1.0, "good": wanted + rng.normal(0, 0.5, N), "length": lengths.to_numpy(float),
        "inverse": -1.0 * wanted,
    }  # fmt: skip
    rankings = {name: pd.DataFrame({"id": ids, "score": values, "method": name}) for name, values in scores.items()}
    return rankings, labels, lengths


def test_measures_of_counts_equal_their_definitions_on_the_rows_drawn(data):
    """Counts of samples stand for rows that are drawn several times or not at all."""
    rankings, labels, lengths = data
    wanted, length = (labels == "far").to_numpy(), lengths.to_numpy(float)
    random = np.random.default_rng(1)
    draws = [np.arange(N), *(np.sort(random.integers(N, size=N)) for _ in range(5))]
    counts = np.array([np.bincount(rows, minlength=N) for rows in draws], dtype=float)
    for ranking in rankings.values():
        scores = ranking["score"].to_numpy()
        ranks = drawn_ranks(scores, counts)
        found = zip(
            aurocs(ranks, counts, wanted),
            precisions(scores, counts, wanted),
            correlations(ranks, drawn_ranks(length, counts), counts),
            strict=True,
        )
        for rows, (area, precision, correlation) in zip(draws, found, strict=True):
            pairs = list(itertools.product(scores[rows][wanted[rows]], scores[rows][~wanted[rows]]))
            assert area == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
            assert area == pytest.approx(auroc(scores[rows], wanted[rows]))
            best = sorted(rows, key=lambda row: (-scores[row], row))[: N // 10]
            assert precision == pytest.approx(np.mean([wanted[row] for row in best]))
            assert correlation == pytest.approx(spearman(scores[rows], length[rows]) or 0)


def test_the_best_comes_first_and_chance_is_among_them(data):
    rankings, labels, lengths = data
    compared = compare(rankings, labels, lengths, ["far"], resamples=200)
    assert [one.name for one in compared][:2] == ["oracle", "good"]
    assert compared[-1].name == "inverse"
    by_name = {one.name: one for one in compared}
    assert by_name["oracle"].figures["auroc"].value == 1
    assert by_name["oracle"].behind.value == 0
    assert by_name["length"].figures["spearman_with_length"].value == pytest.approx(1)
    for one in compared:
        assert (one.n, one.positives) == (N, N // 4)
        for figure in one.figures.values():
            assert figure.low <= figure.value <= figure.high
    chance = by_name["(random)"].figures["auroc"]
    assert chance.low < 0.5 < chance.high
    assert by_name["good"].figures["auroc"].low > 0.7
    assert by_name["inverse"].behind.low == by_name["inverse"].behind.high == 1
    assert compare(rankings, labels, lengths, ["far"], resamples=200) == compared


def test_methods_are_compared_on_the_same_draws(data):
    """One that scores as the best does is nowhere behind it, in no draw."""
    rankings, labels, lengths = data
    rankings = {"good": rankings["good"], "twin": rankings["good"].assign(method="other"), "length": rankings["length"]}
    behind = {one.name: one.behind for one in compare(rankings, labels, lengths, ["far"], resamples=200)}
    assert behind["good"] == behind["twin"]
    assert (behind["twin"].low, behind["twin"].high) == (0, 0)
    assert behind["length"].low > 0


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Known: positives N(1, 1), negatives N(0, 1), so AUROC = Φ(1/√2) = 0.760."""
    covered = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        wanted = np.arange(120) % 3 == 0
        ids = [f"{number:03d}" for number in range(120)]
        ranking = pd.DataFrame({"id": ids, "score": wanted + rng.normal(size=120), "method": "m"})
        labels, lengths = pd.Series(np.where(wanted, "a", "b"), index=ids), pd.Series(1.0, index=ids)
        compared = compare({"m": ranking}, labels, lengths, ["a"], resamples=200)
        figure = next(one for one in compared if one.name == "m").figures["auroc"]
        covered += figure.low <= 0.7602 <= figure.high
    assert covered >= 51  # 57 expected of 60; below 51 once in 250 runs, and the draws are seeded


def test_only_samples_that_all_methods_rank_are_compared(data):
    rankings, labels, lengths = data
    rankings["good"] = rankings["good"].iloc[5:]
    assert {one.n for one in compare(rankings, labels, lengths, ["far"], resamples=5)} == {N - 5}


def test_near_duplicates_are_counted_and_compared_like_all_rows(data):
    rankings, labels, lengths = data
    good = rankings["good"]
    rankings["distinct"] = good.assign(duplicate_of=[None] * (N - 3) + ["s00"] * 3)
    compared = {one.name: one for one in compare(rankings, labels, lengths, ["far"], resamples=20)}
    assert (compared["good"].left_out, compared["distinct"].left_out) == (0, 3)
    assert compared["good"].figures == compared["distinct"].figures
    frame = to_frame(list(compared.values())).set_index("experiment")
    assert frame["near_duplicates_left_out"].to_dict() == {name: 3 * (name == "distinct") for name in compared}
    line = next(
        line for line in cells(to_markdown(list(compared.values()), ["far"])).splitlines() if "| distinct |" in line
    )
    assert line.endswith("| 3 |")


def test_labels_that_nobody_has_are_an_error_that_names_those_there_are(data):
    rankings, labels, lengths = data
    with pytest.raises(DataError, match=r"0 of 80 .*\(fra\).* far, near"):
        compare(rankings, labels, lengths, ["fra"])
    with pytest.raises(DataError, match="80 of 80"):
        compare(rankings, labels, lengths, ["far", "near"])


def test_tables_and_picture_hold_every_method(data, tmp_path):
    rankings, labels, lengths = data
    compared = compare(rankings, labels, lengths, ["far"], resamples=20)
    frame, text = to_frame(compared), cells(to_markdown(compared, ["far"]))
    assert frame["experiment"].tolist() == [one.name for one in compared]
    assert frame.loc[0, "auroc"] == 1
    assert all(f"| {name} |" in text for name in frame["experiment"])
    assert "80 samples, 20 of them far" in text
    plot_comparison(compared, str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def scores():
    rng = np.random.default_rng(3)
    segments = rng.integers(1, 30, N)
    frame = pd.DataFrame(
        {
            "id": [f"s{number:02d}" for number in range(N)],
            "status": "ok",
            **{name: rng.uniform(0.5, 4, N) for name in ("nll_short", "nll_long", "nll_response_only")},
            **{name: rng.integers(5, 500, N) for name in ("n_context", "n_instruction", "n_response")},
        }
    )
    for name in ("segment_nll", "segment_attention", "segment_attention_second_half"):
        frame[name] = [rng.uniform(0.1, 3, count) for count in segments]
    for name in ("token_nll_short", "token_nll_long"):
        frame[name] = [rng.uniform(0.1, 6, count) for count in frame["n_response"]]
    return frame.assign(segment_weight=None)


def test_every_choice_is_ranked_once_and_stands_in_the_tables(scores):
    names = list(rank_choices(scores))
    assert len(names) == len(list(choices())) == len(set(names)) == 6 + 8 + 3 * 2 * 4 * 8 + 1
    labels = pd.Series(np.where(np.arange(N) % 3, "a", "b"), index=scores["id"])
    lengths = scores.set_index("id")["n_context"]
    table = to_frame(compare(rank_choices(scores), labels, lengths, ["a"], resamples=3))
    text = cells(choices_markdown(table))
    for line in ("| alpha | 0.3 |", "| importance | inverse_ppl |", "| hmg hmp_norm=log |", "| gateau_robust |"):
        assert line in text
    fused = table[table["experiment"].str.contains("alpha=0.3 ")]
    assert f"| alpha | 0.3 | {fused['auroc'].mean():.2f} | {fused['auroc'].max():.2f} |" in text


def test_fewer_segments_keep_their_order_and_their_company(scores):
    kept = keep_segments(scores, 0.25, "attended")
    for before, after in zip(scores.to_dict("records"), kept.to_dict("records"), strict=True):
        n = len(before["segment_nll"])
        count = min(max(round(n / 4), 2), n)
        best = sorted(sorted(range(n), key=lambda place: -before["segment_attention"][place])[:count])
        for name in ("segment_nll", "segment_attention", "segment_attention_second_half"):
            np.testing.assert_array_equal(after[name], before[name][best])
    drawn = [keep_segments(scores, 0.5, "drawn", seed)["segment_nll"].map(tuple).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    pd.testing.assert_frame_equal(keep_segments(scores, 1.0, "drawn"), scores)


def test_sensitivity_by_hand(scores):
    other = scores.assign(nll_short=scores["nll_short"].iloc[::-1].to_numpy())
    table = sensitivity(scores, SelectionOptions(), {"another window": other})
    compared = set(table.loc[table["change"] == "another window", "method"])
    assert {"gateau", "gateau_robust", "hmg", "key_tokens", "length"} <= compared
    assert not compared & {"reward", "one_model"}, "they need more than these scores"
    first, second = (rank_samples(frame, SelectionOptions()) for frame in (scores, other))
    row = table[(table["method"] == "gateau") & (table["change"] == "another window")].iloc[0]
    ranks = [ranking.set_index("id").loc[scores["id"], "rank"] for ranking in (first, second)]
    assert row["spearman"] == pytest.approx(ranks[0].corr(ranks[1]))
    assert row["overlap_of_best_tenth"] == len(set(first["id"][:8]) & set(second["id"][:8])) / 8
    same = sensitivity(scores, SelectionOptions(), {"nothing": scores})
    assert set(same.loc[same["change"] == "nothing", "spearman"].round(12)) == {1.0}
    lost = {**scores.iloc[0].to_dict(), "id": "lost", "status": "non_finite", "segment_attention": None}
    with_one_lost = sensitivity(pd.DataFrame([*scores.to_dict("records"), lost]), SelectionOptions(), {})
    pd.testing.assert_frame_equal(with_one_lost, sensitivity(scores, SelectionOptions(), {}))
    robust = table[(table["method"] == "gateau_robust")]
    assert not robust["change"].str.contains("alpha|layers").any()
