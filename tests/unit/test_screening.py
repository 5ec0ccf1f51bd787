"""Screening: which samples and segments the segment pass reads, and what rankings make of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gateau.config_files import with_defaults
from gateau.errors import SettingsError
from gateau.experiments import Configuration
from gateau.methods import METHODS
from gateau.schemas import INDEX, LONG_RESULT, SCREEN, SHORT_RESULT, shard_schema
from gateau.scoring.segments import Choice
from gateau.selection.awareness import contextual_awareness, far_evidence, weighted_median
from gateau.selection.clusters import best_of_each_first
from gateau.selection.fusion import SelectionOptions
from gateau.selection.method_scores import hmp_among_like_lengths
from gateau.selection.norms import NORMS, of_known
from gateau.selection.plots import plot_distributions
from gateau.selection.policy import Policy, Tables, select
from gateau.selection.quality import comparable_scores, quality_by_label
from gateau.selection.ranking import rank_samples
from gateau.selection.screening import best_share, write_screen
from gateau.tables import read_rows, write_rows

from benchmark.fast import METHODS as STUDIED
from benchmark.fast import Study
from helpers import merged, small_config

N = 60
WITH_SEGMENTS = [name for name, method in METHODS.items() if method.segments and method.contrast is None]
WITHOUT = [name for name, method in METHODS.items() if not method.segments and not method.rewards]
ROBUST_NORMS = SelectionOptions(hmp_norm="log", score_norm="rank")


def whole_scores(seed=0):
    """Scores of a run that read all segments of all samples."""
    random = np.random.default_rng(seed)
    sizes = random.integers(4, 9, N)
    segments = ("segment_nll", "segment_attention", "segment_attention_second_half")
    lists = {name: [random.uniform(0.1, 4, size) for size in sizes] for name in segments}
    tokens = {name: [random.uniform(0, 5, 6) for _ in range(N)] for name in ("token_nll_short", "token_nll_long")}
    numbers = {name: random.uniform(1, 4, N) for name in ("nll_short", "nll_long", "nll_response_only")}
    return pd.DataFrame(
        {
            "id": [f"s{number:02d}" for number in random.permutation(N)], "status": "ok", "n_context": sizes * 10,
            "n_instruction": 2, "n_response": 6, "truncated_tokens": 0, **numbers, **lists, **tokens,
            "segment_weight": None,
        }
    )  # fmt: skip


def screened_scores(scores, share):
    """The same with a screen, and the ids of the samples that it leaves out."""
    out = ~best_share(hmp_among_like_lengths(scores), share)
    empty = {name: scores[name].mask(out) for name in ("segment_nll", "nll_response_only")}
    return scores.assign(status=np.where(out, "screened_out", "ok"), **empty), set(scores["id"][out])


@pytest.mark.parametrize("method", WITH_SEGMENTS)
@pytest.mark.parametrize("options", [SelectionOptions(), ROBUST_NORMS])
def test_screened_out_samples_come_last_by_hmp_and_have_no_score(method, options):
    scores = whole_scores()
    found, out = screened_scores(scores, 0.4)
    ranking = rank_samples(found, options, method)
    assert len(out) == 36
    assert ranking["rank"].tolist() == list(range(1, N + 1))
    assert set(ranking["id"][24:]) == out
    assert ranking["score"].isna().tolist() == ranking["cas"].isna().tolist() == [False] * 24 + [True] * 36
    assert ranking["status"].tolist() == ["ok"] * 24 + ["screened_out"] * 36
    hmp = pd.Series(hmp_among_like_lengths(scores), scores["id"])
    assert ranking["id"][24:].tolist() == sorted(out, key=lambda key: (-hmp[key], key))
    exact = rank_samples(scores, options, method).set_index("id")
    assert ranking["hmp"].tolist() == exact["hmp"][ranking["id"]].tolist()
    pd.testing.assert_frame_equal(rank_samples(found.sample(frac=1, random_state=1), options, method), ranking)


@pytest.mark.parametrize("method", WITHOUT)
def test_methods_without_segments_rank_as_before(method):
    scores = whole_scores()
    found, _ = screened_scores(scores, 0.4)
    ranking, before = (rank_samples(one, SelectionOptions(), method) for one in (found, scores))
    columns = ["id", "rank", "score", "hmp"]
    pd.testing.assert_frame_equal(ranking[columns], before[columns])


@pytest.mark.parametrize("norm", ["softmax", "rank", "minmax", "zscore", "none"])
def test_a_norm_over_known_values_is_that_over_all_if_the_others_are_like_them(norm):
    values = np.random.default_rng(0).normal(size=50)
    half = of_known(NORMS[norm], np.append(values, np.full(50, np.nan)))
    np.testing.assert_allclose(half[:50], NORMS[norm](np.append(values, values))[:50])
    assert np.isnan(half[50:]).all()


def test_a_selection_beyond_the_screen_is_an_error_with_advice():
    found, _ = screened_scores(whole_scores(), 0.4)
    tables = Tables(found["id"].tolist(), found)
    assert len(select(Policy("gateau", n_long=24), tables).ids) == 24
    assert len(select(Policy("gateau", n_long=None), tables).ids) == N
    assert len(select(Policy("hmg", n_long=30), tables).ids) == 30
    with pytest.raises(SettingsError, match=r"selects 30 samples, and 6 of them have no score.*raise scoring\.screen"):
        select(Policy("gateau", n_long=30), tables)
    with pytest.raises(SettingsError, match=r"raise scoring\.screen"):
        select(Policy("cam", n_long={"share": 0.5}), tables)


def test_samples_without_a_score_are_never_the_best_of_a_cluster():
    found, out = screened_scores(whole_scores(), 0.4)
    ranking = rank_samples(found, SelectionOptions()).assign(held_out=False, duplicate_of=None)
    ranking["cluster"] = ranking["id"].isin(out).astype(int)
    assert set(best_of_each_first(ranking, 2)["id"][:24]).isdisjoint(out)


def test_comparisons_and_plots_take_samples_without_a_score(tmp_path):
    found, _ = screened_scores(whole_scores(), 0.4)
    ranking = rank_samples(found, SelectionOptions())
    assert (np.diff(comparable_scores(ranking)) < 0).all()
    labels = pd.Series(np.where(ranking["status"] == "ok", "first", "last"), ranking["id"])
    quality = quality_by_label(ranking, labels)
    assert (quality["first"]["auroc"], quality["last"]["auroc"]) == (1, 0)
    shown = ranking.assign(length=1 + ranking["rank"], dataset="d", selected=ranking["rank"] <= 10, selectable=True)
    plot_distributions(shown, "screened", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def make_passes(folder, shards):
    """An index, and files of a short and a long pass: 40 samples, one of them too long, one not finite."""
    random = np.random.default_rng(0)
    folder.mkdir()
    samples = [(f"s{number:02d}", *random.uniform(0, 3, (2, 5)), int(random.integers(9, 99))) for number in range(40)]
    entry = {"n_instruction": 1, "n_response": 5, "n_tokens": 9, "truncated_tokens": 0, "cost": 1.0}
    index = [
        {"id": key, "row": n, "shard": n % shards, "status": "ok", "n_context": size, **entry}
        for n, (key, _, _, size) in enumerate(samples)
    ]
    write_rows(folder / "index.parquet", INDEX, index)
    files = []
    for place, result in enumerate((SHORT_RESULT, LONG_RESULT)):
        bad = {} if place else {"s03": "too_long", "s08": "non_finite"}
        files.append([str(folder / f"{place}-{shard}.parquet") for shard in range(shards)])
        for shard, path in enumerate(files[-1]):
            rows = [
                {
                    "id": key, "status": bad.get(key, "ok"), **dict.fromkeys(result.names),
                    "token_nll": None if key in bad else nll[place].tolist(),
                }
                for key, *nll, _ in samples[shard::shards]
            ]  # fmt: skip
            write_rows(path, shard_schema(result), rows, row_group_size=4)
    return str(folder / "index.parquet"), *files


def test_a_screen_is_the_same_for_any_number_of_shards_and_admits_all_at_one(tmp_path):
    found = {}
    for shards in (1, 3):
        paths = make_passes(tmp_path / str(shards), shards)
        assert write_screen(*paths, 0.25, tmp_path / "screen.parquet") == (10, 38)
        found[shards] = [row | {"shard": 0} for row in read_rows(tmp_path / "screen.parquet", SCREEN)]
    assert found[1] == found[3]
    assert [row["id"] for row in found[1]] == [f"s{number:02d}" for number in range(40)]
    bad = [row for row in found[1] if row["hmp"] is None]
    assert [(row["id"], row["admitted"]) for row in bad] == [("s03", True), ("s08", True)]
    ok = sorted((row for row in found[1] if row["hmp"] is not None), key=lambda row: -row["hmp"])
    assert [row["admitted"] for row in ok] == [True] * 10 + [False] * 28
    assert write_screen(*paths, 1.0, tmp_path / "all.parquet") == (38, 38)
    assert all(row["admitted"] for row in read_rows(tmp_path / "all.parquet", SCREEN))
    assert write_screen(*paths, 0, tmp_path / "none.parquet") == (0, 38)


def test_chosen_segments_are_the_most_attended_and_evenly_drawn_ones():
    attention = np.random.default_rng(0).uniform(size=40)
    choice = Choice(0.25, 0.25, 32, 16)
    weights = choice.weights(attention, 0.5)
    assert set(np.flatnonzero(weights == 1)) == set(np.argsort(-attention)[:10])
    assert weights[weights > 1].tolist() == [3.0] * 10
    assert weights.sum() == 40
    drawn = np.array([choice.weights(attention, place) > 1 for place in np.linspace(0, 1, 300, endpoint=False)])
    np.testing.assert_allclose(drawn.mean(0)[weights != 1], 1 / 3, atol=0.01)
    assert replace(choice, drawn=0.75).weights(attention, 0.9).tolist() == [1.0] * 40
    assert Choice(0.1, 0.01, 32, 16).weights(attention[:1], 0.9).tolist() == [1.0]
    assert len({replace(choice, drawn=drawn).about for drawn in (0.1, 0.2)}) == 2


def test_measures_of_chosen_segments_estimate_those_of_all():
    random = np.random.default_rng(1)
    nll, attention = random.uniform(1, 3, 400), random.uniform(0.5, 1, 400)
    nll[10] = -1.0  # the segment that helps
    attention[10] = 5.0
    weights = Choice(0.1, 0.3, 32, 16).weights(attention, 0.3)
    partial = np.where(weights > 0, nll, np.nan)
    for importance in ("softmax_neg_ppl", "inverse_ppl"):
        whole = contextual_awareness(nll, attention, importance)
        assert contextual_awareness(partial, attention, importance, weights) == pytest.approx(whole, abs=0.02)
        assert contextual_awareness(nll, attention, importance, np.ones(400)) == whole
    assert far_evidence(partial, weights) == pytest.approx(far_evidence(nll), abs=0.1)
    assert far_evidence(nll, np.ones(400)) == far_evidence(nll)
    assert weighted_median(np.where(weights > 0, nll, np.inf), weights) == pytest.approx(np.median(nll), abs=0.1)
    for size in (1, 2, 7, 8):
        assert weighted_median(nll[:size], np.ones(size)) == np.median(nll[:size])


@pytest.mark.parametrize("method", WITH_SEGMENTS)
def test_samples_that_are_read_in_part_are_ranked_with_the_others(method):
    scores = whole_scores()
    weights = [
        None if row % 3 == 0 else Choice(0.3, 0.2, 1, 1).weights(np.asarray(one), 0.5)
        for row, one in enumerate(scores["segment_attention"])
    ]
    nll = [
        one if weight is None else np.where(weight > 0, one, np.nan)
        for one, weight in zip(scores["segment_nll"], weights, strict=True)
    ]
    ranking = rank_samples(scores.assign(segment_nll=nll, segment_weight=weights), SelectionOptions(), method)
    assert ranking["score"].notna().all()
    exact = rank_samples(scores, SelectionOptions(), method).set_index("id")
    whole = scores["id"][::3]
    assert ranking.set_index("id")["cas"][whole].tolist() == exact["cas"][whole].tolist()


def test_the_study_of_cheaper_passes_counts_what_is_read():
    scores = whole_scores().assign(nll_instruction_only=1.0)
    digests = pd.Series([f"{number:064x}" for number in range(N)], scores["id"])
    labels = pd.Series(["far", "near"] * (N // 2), scores["id"])
    study = Study(scores, digests, labels, ["far"])
    everything, cost = study.in_part(np.ones(N, dtype=bool), 0.1, 0.1)
    assert cost == 1
    assert {study.cell(name, everything) for name in STUDIED} == {"1.00 +0.000"}
    part, cost = study.in_part(np.zeros(N, dtype=bool), 0.5, 0.25)
    assert cost == sum((weight > 0).sum() for weight in part["segment_weight"]) / study.segments.sum()
    assert 0.7 < cost < 0.8
    out, cost = study.left_out(0.4)
    assert (out["status"] == "ok").sum() == 24
    assert cost == study.segments[out["status"] == "ok"].sum() / study.segments.sum()
    assert len(list(study.rows())) > 10


@pytest.mark.parametrize(
    ("scoring", "n_long", "message"),
    [
        (
            {"screen": 0.3},
            {"share": 0.4},
            r"experiment gateau: n_long selects a share of 0\.4.*scoring\.screen is 0\.3",
        ),
        ({"segments": {"attended": 0.1, "drawn": 0.1}}, "all", r"beyond scoring\.screen, which is null"),
        ({"screen": 0}, "all", "no sample is scored"),
        ({"screen": 0.1, "segments": {"attended": 0.9, "drawn": 0.2}}, "all", "more than 1 together"),
    ],
)
def test_contradictions_are_found_at_planning(scoring, n_long, message, tmp_path):
    config = small_config(tmp_path, scoring=scoring)
    config["experiments"] = {"gateau": {"method": "gateau", "n_long": n_long}}
    with pytest.raises(SettingsError, match=message):
        Configuration(with_defaults(config)).check()
    fitting = merged(config, {"scoring": {"screen": 0.4, "segments": None}})
    Configuration(with_defaults(fitting)).check()
