"""Norms, CAS, fusion, ranking, the policy of a selection, its figures and its plot."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateau.attention_profiles import block_means, relative, segment_means
from gateau.draws import held_out_ids
from gateau.errors import DataError, ScoreError, SettingsError
from gateau.methods import METHODS
from gateau.schemas import SCORES
from gateau.selection.awareness import (
    IMPORTANCE,
    contextual_awareness,
    contextual_awareness_rows,
    far_evidence,
)
from gateau.selection.fusion import SelectionOptions
from gateau.selection.measures import read_scores
from gateau.selection.method_scores import measures_of
from gateau.selection.near_duplicates import duplicates_of, shingles, signature
from gateau.selection.norms import NORMS
from gateau.selection.parts import parts_frame
from gateau.selection.plots import plot_distributions
from gateau.selection.policy import Policy, Tables, select, summarise
from gateau.selection.quality import auroc, quality_by_label, spearman
from gateau.selection.ranking import rank_samples, score_samples
from gateau.selection.selected import distinct_ids, selected_ids
from gateau.tables import write_table_stream

VALUES = np.array([1.0, 3.0, 3.0, 10.0])


def scores(n=6, **columns):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "id": [f"s{number}" for number in range(n)],
            "status": ["ok"] * n,
            "nll_short": rng.uniform(1, 5, n),
            "nll_long": rng.uniform(1, 4, n),
            "segment_nll": [rng.uniform(1, 5, 4).tolist() for _ in range(n)],
            "segment_attention": [rng.uniform(0, 1, 4).tolist() for _ in range(n)],
            "segment_attention_second_half": [rng.uniform(0, 1, 4).tolist() for _ in range(n)],
            "segment_weight": [None] * n,
        }
    )
    return frame.assign(**columns)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("minmax", [0, 2 / 9, 2 / 9, 1]),
        ("rank", [0.125, 0.5, 0.5, 0.875]),
        ("zscore", (VALUES - 4.25) / math.sqrt(((VALUES - 4.25) ** 2).mean())),
        ("softmax", np.exp(VALUES) / np.exp(VALUES).sum()),
        ("log", np.log(VALUES)),
        ("none", VALUES),
    ],
)
def test_norms(norm, expected):
    np.testing.assert_allclose(NORMS[norm](VALUES), expected)


@pytest.mark.parametrize("norm", ["minmax", "rank", "zscore", "softmax"])
def test_norms_of_constants_and_of_huge_values_are_finite(norm):
    assert np.isfinite(NORMS[norm](np.full(5, 3.0))).all()
    assert np.isfinite(NORMS[norm](np.array([1.0, 1e300, 1e4]))).all()


@pytest.mark.parametrize("importance", IMPORTANCE)
def test_importance_falls_with_perplexity_and_survives_extremes(importance):
    weights = IMPORTANCE[importance](np.array([0.5, 1.0, 2.0, 900.0]))
    assert np.isfinite(weights).all()
    assert (np.diff(weights) <= 0).all()
    assert weights[0] > weights[2]


def test_cas_by_hand():
    nll, attention = np.log([1.0, 2.0]), [3.0, 1.0]
    weights = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))]
    expected = (weights[0] * 3 + weights[1]) / math.hypot(*weights) / math.sqrt(10)
    assert contextual_awareness(nll.tolist(), attention, "softmax_neg_ppl") == pytest.approx(expected)
    assert contextual_awareness([1.0], [0.2], "inverse_ppl") == pytest.approx(1)
    assert contextual_awareness([1.0, 2.0], [0.0, 0.0], "inverse_ppl") == 0
    with pytest.raises(ValueError, match=r"\(2,\), but segment attentions have shape \(1,\)"):
        contextual_awareness([1.0, 2.0], [1.0], "inverse_ppl")


@pytest.mark.parametrize("importance", IMPORTANCE)
def test_cas_of_all_rows_at_once_is_that_of_each(importance):
    """Rows have different numbers of segments, and many share one."""
    random = np.random.default_rng(5)
    sizes = random.integers(1, 6, 40)
    nll, attention = ([random.uniform(0, 9, size) for size in sizes] for _ in range(2))
    attention[7] = np.zeros(sizes[7])
    weights = [IMPORTANCE[importance](row) for row in nll]
    expected = [
        sum(w * a for w, a in zip(one, row, strict=True)) / (math.hypot(*one) * math.hypot(*row) or 1)
        for one, row in zip(weights, attention, strict=True)
    ]
    found = contextual_awareness_rows(nll, attention, [None] * 40, importance)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[7] == 0
    assert len(set(sizes.tolist())) == 5
    with pytest.raises(ValueError, match="shape"):
        contextual_awareness_rows(nll, [*attention[:-1], np.ones(9)], [None] * 40, importance)


def test_two_importance_maps_are_one_under_a_cosine():
    """Why the study of the open choices tries one of them only."""
    random = np.random.default_rng(6)
    nll, attention = random.uniform(0, 9, (2, 50, 12))
    maps = (contextual_awareness(nll, attention, name) for name in ("softmax_loglik", "inverse_ppl"))
    np.testing.assert_allclose(*maps, rtol=1e-12)


def test_means_over_blocks_average_real_tokens_only():
    assert block_means([1, 2, 3, 4, 10], 2).tolist() == [1.5, 3.5, 10]
    assert block_means([], 2).tolist() == []


@pytest.mark.parametrize("n_tokens", [0, 1, 15, 16, 17, 63, 64, 65, 200, 256])
def test_segments_of_stored_blocks_are_those_of_the_tokens(n_tokens):
    """Means to half precision; profiles of real models fall off by orders of magnitude."""
    random = np.random.default_rng(n_tokens)
    profile = np.exp(random.normal(-8, 2, n_tokens))
    stored, largest = relative(block_means(profile, 16))
    expected = [profile[start : start + 64].mean() for start in range(0, n_tokens, 64)]
    found = segment_means(stored, largest, n_tokens, 16, 64)
    np.testing.assert_allclose(found, expected, rtol=2**-11, atol=largest * 2**-24)
    if n_tokens:
        nll = random.normal(2, 1, len(expected))
        assert contextual_awareness(nll, found, "inverse_ppl") == pytest.approx(
            contextual_awareness(nll, expected, "inverse_ppl"), abs=1e-4
        )


def test_fusion_by_hand():
    frame = scores(3)
    options = SelectionOptions(alpha=0.7, hmp_norm="minmax", score_norm="softmax", orientation="challenge")
    ranking = rank_samples(frame, options).set_index("id")
    ppl = np.exp(frame[["nll_short", "nll_long"]].to_numpy())
    hmp = np.subtract(*((ppl - ppl.min(0)) / (ppl.max(0) - ppl.min(0))).T)
    cas = np.array(
        [
            contextual_awareness(a, b, "softmax_neg_ppl")
            for a, b in zip(frame.segment_nll, frame.segment_attention, strict=True)
        ]
    )

    def softmax(values):
        return np.exp(values) / np.exp(values).sum()

    expected = 0.7 * softmax(hmp) + 0.3 * softmax(1 - cas)
    np.testing.assert_allclose(ranking.loc[frame.id, "score"], expected)
    np.testing.assert_allclose(ranking.loc[frame.id, "hmp"], hmp)
    np.testing.assert_allclose(ranking.loc[frame.id, "cas"], cas)
    assert ranking.loc[frame.id[int(np.argmax(expected))], "rank"] == 1


def test_orientation_turns_cam_around():
    frame = scores()
    challenge = rank_samples(frame, SelectionOptions(alpha=0, orientation="challenge"))
    aligned = rank_samples(frame, SelectionOptions(alpha=0, orientation="aligned"))
    assert challenge["id"].tolist() == aligned["id"].tolist()[::-1]
    assert challenge["cas"].is_monotonic_increasing


def test_second_half_of_the_layers_is_another_score():
    frame = scores()
    assert not np.allclose(
        rank_samples(frame, SelectionOptions(layers="all")).sort_values("id")["cas"],
        rank_samples(frame, SelectionOptions(layers="second_half")).sort_values("id")["cas"],
    )


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(6)))
def test_ranking_does_not_depend_on_the_order_of_rows_and_breaks_ties_by_id(order):
    frame = scores(nll_short=[2.0] * 6, nll_long=[1.0] * 6, segment_nll=[[1.0, 2.0]] * 6)
    frame["segment_attention"] = [[1.0, 1.0]] * 6
    ranking = rank_samples(frame.iloc[list(order)], SelectionOptions())
    assert ranking["id"].tolist() == [f"s{number}" for number in range(6)]
    assert ranking["rank"].tolist() == [1, 2, 3, 4, 5, 6]


def test_only_complete_samples_are_ranked():
    frame = scores(status=["ok", "no_context", "ok", "too_long", "non_finite", "ok"])
    assert set(rank_samples(frame, SelectionOptions())["id"]) == {"s0", "s2", "s5"}
    with pytest.raises(ScoreError, match="no_context"):
        rank_samples(scores(status=["no_context"] * 6), SelectionOptions())


def test_absurd_perplexities_do_not_spoil_the_rest():
    frame = scores(nll_short=[2.0, 900.0, 1.0, 3.0, 2.5, 1.5])
    for hmp_norm in ("minmax", "rank", "log", "softmax"):
        ranking = rank_samples(frame, SelectionOptions(hmp_norm=hmp_norm))
        assert np.isfinite(ranking["score"]).all()
        assert ranking["id"][0] == "s1"


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 1.5},
        {"alpha": -0.1},
        {"hmp_norm": "x"},
        {"score_norm": "log"},
        {"orientation": "up"},
        {"layers": "some"},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(SettingsError, match=next(iter(options))):
        SelectionOptions(**options)


def test_asking_for_more_than_there_is():
    ranking = pd.DataFrame({"id": list("abcdef"), "rank": range(1, 7), "duplicate_of": [None, "a", *[None] * 4]})
    ranking["held_out"] = ranking["id"] == "c"
    assert distinct_ids(ranking) == list("acdef")
    assert selected_ids(ranking, None) == list("adef")
    assert selected_ids(ranking.iloc[::-1], 3) == ["a", "d", "e"]
    with pytest.raises(SettingsError, match=r"n_long is 5, but only 4 of 6 .*1 are near duplicates, 1 are held out"):
        selected_ids(ranking, 5)


def test_quality_figures():
    values = np.array([0.9, 0.8, 0.3, 0.3, 0.1])
    assert auroc(values, np.array([True, True, False, False, False])) == 1
    assert auroc(values, np.array([False, False, True, False, True])) == pytest.approx(0.5 / 6)
    assert auroc(values, np.ones(5, bool)) is None
    assert spearman(values, -values) == pytest.approx(-1)
    assert spearman(values, np.ones(5)) is None
    ranking = pd.DataFrame({"id": list("abcde"), "score": values, "rank": range(1, 6)})
    quality = quality_by_label(ranking, pd.Series({"a": "x", "b": "x", "c": "y", "d": None, "e": "y"}))
    assert quality["x"] == {"samples": 2, "auroc": 1.0, "share_of_best_tenth": 1.0}
    assert quality["(none)"]["samples"] == 1


def test_far_evidence_by_hand():
    # the second of five segments helps by two nats more than the median, the last by one
    evidence, distance = np.array([0, 2, 0, 0, 1.0]), np.array([0.9, 0.7, 0.5, 0.3, 0.1])
    weights = evidence**2 / (evidence**2).sum()
    expected = (weights @ distance) * (1 - math.exp(-2))
    assert far_evidence([5, 3, 5, 5, 4]) == pytest.approx(expected)
    assert far_evidence([5, 3, 5, 6, 4]) == pytest.approx(expected)  # what harms does not count
    assert far_evidence([15, 13, 15, 15, 14]) == pytest.approx(expected)  # nor what all segments share
    assert far_evidence([3, 5, 5, 5, 5]) > far_evidence([5, 5, 5, 5, 3])
    assert far_evidence([2.0]) == far_evidence([2.0, 2.0]) == 0
    with pytest.raises(ValueError, match="no segment"):
        far_evidence([])


@pytest.fixture
def merged_scores():
    rng = np.random.default_rng(1)
    counts = {name: rng.integers(5, 900, 60) for name in ("n_context", "n_instruction", "n_response")}
    columns = {"nll_response_only": rng.uniform(4, 9, 60), "nll_instruction_only": rng.uniform(3, 6, 60)}
    tokens = {name: [rng.uniform(0, 6, 7) for _ in range(60)] for name in ("token_nll_short", "token_nll_long")}
    return scores(60, **counts, **columns, **tokens)


@pytest.mark.parametrize("method", METHODS)
def test_a_table_that_is_read_in_batches_is_ranked_as_one_in_memory(method, merged_scores, tmp_path):
    rng, bad = np.random.default_rng(2), {5: "no_context", 33: "non_finite"}
    sizes = rng.integers(1, 9, 60)
    lists = [name for name in merged_scores if name.startswith(("segment_", "token_"))]
    kinds = {name: np.float32 if name.startswith("token_") else np.float64 for name in lists}
    ragged = {name: [rng.uniform(0, 5, size).astype(kind) for size in sizes] for name, kind in kinds.items()}
    table = merged_scores.assign(**ragged, truncated_tokens=0, cas=0.5)
    table["status"] = [bad.get(row, "ok") for row in range(60)]
    for row in bad:
        table.loc[row, ["nll_short", "nll_long"]] = np.nan
        for name in lists:
            table.at[row, name] = None
    arrow = pa.Table.from_pandas(table[SCORES.names], schema=SCORES, preserve_index=False)
    # more row groups than are read together
    write_table_stream(tmp_path / "scores.parquet", SCORES, (arrow.slice(start, 3) for start in range(0, 60, 3)))
    beside = (
        pd.DataFrame({"id": table["id"], "status": "ok", "nll": merged_scores["nll_short"] * 1.5}),
        pd.DataFrame({"id": table["id"], "status": "ok", "reward": merged_scores["nll_long"] - 2}),
    )
    for options in (SelectionOptions(), SelectionOptions(importance="inverse_ppl", layers="second_half")):
        read = read_scores(tmp_path / "scores.parquet", measures_of(method, options))
        assert not {*lists} & {*read}
        found, expected = (rank_samples(one, options, method, *beside) for one in (read, table))
        found = found.astype({"status": "str"})  # is a category where it was read
        assert len(found) == 58
        pd.testing.assert_frame_equal(found, expected, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ranks_all_rows_and_reads_what_it_says(method, merged_scores):
    contrast = pd.DataFrame({"id": merged_scores["id"], "status": "ok", "nll": merged_scores["nll_short"] * 1.5})
    changes = {
        "alpha": 0.3, "hmp_norm": "log", "score_norm": "rank", "importance": "softmax_loglik", "layers": "second_half",
        "orientation": "aligned",
    }  # fmt: skip
    rewards = pd.DataFrame({"id": merged_scores["id"], "status": "ok", "reward": merged_scores["nll_long"] - 2})
    beside = (method, contrast, rewards)
    ranked = rank_samples(merged_scores, SelectionOptions(), *beside)
    assert sorted(ranked["id"]) == sorted(merged_scores["id"])
    assert set(ranked["method"]) == {method}
    scored = ranked.set_index("id")["score"]
    for option, value in changes.items():
        other = rank_samples(merged_scores, SelectionOptions(**{option: value}), *beside).set_index("id")
        same = np.allclose(other.loc[scored.index, "score"], scored, rtol=1e-12, atol=0)
        assert same == (option not in METHODS[method].reads), option


@pytest.mark.parametrize("method", ["gateau", "gateau_robust", "cam", "length"])
def test_the_parts_of_every_score_add_up_to_it(method, merged_scores):
    scored = score_samples(merged_scores, SelectionOptions(), method)
    parts = parts_frame(scored.ids, scored.parts)
    score = (parts["weight"] * parts["normed"]).groupby(parts["id"]).sum()
    ranking = rank_samples(merged_scores, SelectionOptions(), method).set_index("id")
    np.testing.assert_allclose(score.loc[ranking.index], ranking["score"], rtol=1e-12)
    if method == "gateau":
        values = parts.pivot(index="id", columns="part", values="value").loc[ranking.index]
        np.testing.assert_array_equal(values["HMP"], ranking["hmp"])
        np.testing.assert_array_equal(values["1 - CAS"], 1 - ranking["cas"])


def test_baselines_by_hand(merged_scores):
    def ranked(method):
        return rank_samples(merged_scores, SelectionOptions(), method).set_index("id").loc[merged_scores["id"], "score"]

    frame = merged_scores
    np.testing.assert_allclose(ranked("perplexity"), frame.nll_long)
    np.testing.assert_allclose(ranked("ifd"), frame.nll_long - frame.nll_response_only)
    np.testing.assert_allclose(ranked("length"), frame.n_context + frame.n_instruction + frame.n_response)
    np.testing.assert_allclose(
        ranked("hmg"), rank_samples(frame, SelectionOptions(), "hmg").set_index("id")["hmp"].loc[frame.id]
    )
    attention = np.array([[1.0, 2.0, 1.0, 4.0]])
    frame["segment_attention"] = [attention[0].tolist()] * len(frame)
    mass = attention[0] / 8
    np.testing.assert_allclose(ranked("dependency"), mass @ [0.875, 0.625, 0.375, 0.125] * mass.std())


def test_a_response_without_a_perplexity_of_its_own_comes_last_by_ifd(merged_scores):
    merged_scores.loc[7, "nll_response_only"] = None
    assert rank_samples(merged_scores, SelectionOptions(), "ifd")["id"].iloc[-1] == "s7"


def test_the_robust_method_compares_rows_of_like_length(merged_scores):
    """A loss that grows with length alone moves no row."""
    before = rank_samples(merged_scores, SelectionOptions(), "gateau_robust")
    longest = merged_scores[["n_context", "n_instruction", "n_response"]].sum(axis=1).rank() > 40
    assert longest.sum() == 20  # one of three groups
    merged_scores.loc[longest, "nll_short"] += 2.0
    after = rank_samples(merged_scores, SelectionOptions(), "gateau_robust")
    assert after["id"].tolist() == before["id"].tolist()


def test_the_robust_method_weighs_far_evidence_more(merged_scores):
    """Ranks of guidance and of far evidence run against each other: the order is that of the evidence."""
    n = len(merged_scores)
    merged_scores["nll_short"], merged_scores["nll_long"] = np.linspace(4, 2, n), 1.0
    merged_scores["segment_nll"] = [[4.0 - 3.0 * row / n, 4.0, 4.0, 4.0] for row in range(n)]
    merged_scores[["n_context", "n_instruction", "n_response"]] = 10
    ranking = rank_samples(merged_scores, SelectionOptions(), "gateau_robust")
    assert ranking["id"].tolist() == merged_scores["id"].tolist()[::-1]
    ranks = (np.arange(n) + 0.5) / n
    np.testing.assert_allclose(ranking["score"], 0.3 * ranks + 0.7 * ranks[::-1])


def test_a_contrast_takes_the_place_of_the_short_model_and_its_status_counts(merged_scores):
    contrast = pd.DataFrame({"id": merged_scores["id"], "status": "ok", "nll": np.linspace(1, 9, 60)})
    contrast.loc[3, "status"] = "too_long"
    ranked = rank_samples(merged_scores, SelectionOptions(), "one_model", contrast)
    replaced = merged_scores.assign(nll_short=contrast["nll"]).drop(index=3)
    expected = rank_samples(replaced, SelectionOptions(), "gateau")
    pd.testing.assert_frame_equal(ranked.drop(columns="method"), expected.drop(columns="method"))
    with pytest.raises(SettingsError, match="choose one of gateau"):
        rank_samples(merged_scores, SelectionOptions(), "guess")


TEXTS = [" ".join(f"w{n * 7919 % 977}" for n in range(start, start + 200)) for start in (0, 300, 600)]


def test_near_duplicates_are_found_and_the_better_one_is_kept():
    almost = TEXTS[0].replace("w0 ", "other ")
    texts = {"b": TEXTS[1], "a": TEXTS[0], "a2": almost, "a3": almost + " more", "c": TEXTS[2]}
    found = duplicates_of(list(texts), [signature(text) for text in texts.values()], 0.8)
    assert found == {"a2": "a", "a3": "a"}
    assert duplicates_of(["a2", "a"], [signature(almost), signature(TEXTS[0])], 0.8) == {"a": "a2"}
    assert duplicates_of(["a", "b"], [signature("same"), signature("SAME")], 1.0) == {"b": "a"}


def test_what_is_less_alike_than_asked_is_kept():
    """Pairs of every similarity: which are the same is for their estimate alone to say, whatever the index proposes."""
    words = TEXTS[0].split()
    pairs = [signature(" ".join([*words[:kept], *TEXTS[1].split()[kept:]])) for kept in range(100, 200, 5)]
    alike = [float(np.mean(signature(TEXTS[0]) == other)) for other in pairs]
    assert sum(0.4 < one < 0.8 for one in alike) > 3
    for one, other in zip(alike, pairs, strict=True):
        assert duplicates_of(["a", "b"], [signature(TEXTS[0]), other], 0.8) == ({"b": "a"} if one >= 0.8 else {})


def test_the_signature_estimates_the_jaccard_index_of_five_word_runs():
    first, second = TEXTS[0], " ".join([*TEXTS[0].split()[:120], *TEXTS[1].split()[:80]])
    exact = len(shingles(first) & shingles(second)) / len(shingles(first) | shingles(second))
    estimate = np.mean(signature(first) == signature(second))
    assert abs(estimate - exact) < 4 * math.sqrt(exact * (1 - exact) / 128)
    assert shingles("One, two: three FOUR five six") == {"one two three four five", "two three four five six"}
    assert shingles("一二三四五六") == {"一 二 三 四 五", "二 三 四 五 六"}
    assert shingles("") == {""}


def test_key_tokens_by_hand(merged_scores):
    # gains 3, 3 and 1; the second token stays unlikely, the third gains too little
    merged_scores["token_nll_short"], merged_scores["token_nll_long"] = [[4.0, 8.0, 1.5]] * 60, [[1.0, 5.0, 0.5]] * 60
    assert set(rank_samples(merged_scores, SelectionOptions(), "key_tokens")["score"]) == {1.0}


@pytest.fixture
def pooled(merged_scores):
    """Scores of 60 samples, of which every tenth has the text of the one before, and embeddings in four directions."""
    ids = merged_scores["id"]
    signatures = pd.Series([signature(f"{number - (number % 10 == 9)} " * 5) for number in range(60)], index=ids)
    embeddings = pd.Series([np.eye(4)[number % 4] for number in range(60)], index=ids)
    return Tables(ids.tolist(), merged_scores, signatures=signatures, embeddings=embeddings)


def test_a_policy_ranks_and_takes_the_best(pooled):
    selection = select(Policy("length", 7), pooled)
    assert selection.ids == selection.ranking["id"].tolist()[:7]
    expected = rank_samples(pooled.scores, SelectionOptions(), "length")
    pd.testing.assert_frame_equal(selection.ranking[expected.columns], expected)
    assert selection.ranking[["duplicate_of", "cluster"]].isna().all(axis=None)
    with pytest.raises(SettingsError, match="only 60 of 60 ranked samples"):
        select(Policy("length", 61), pooled)


def test_a_policy_leaves_out_near_duplicates(pooled):
    selection = select(Policy("length", near_duplicates=0.8), pooled)
    place = {row_id: rank for rank, row_id in enumerate(selection.ranking["id"])}
    repeated = {f"s{n}": f"s{n + 1}" for n in range(8, 60, 10)}
    left_out = [max(pair, key=place.__getitem__) for pair in repeated.items()]
    assert sorted(set(place) - set(selection.ids)) == sorted(left_out)
    kept = selection.ranking.set_index("id").loc[left_out, "duplicate_of"]
    assert sorted(kept) == sorted(min(pair, key=place.__getitem__) for pair in repeated.items())
    assert selection.ids == [row_id for row_id in selection.ranking["id"] if row_id not in left_out]
    with pytest.raises(ValueError, match="signatures"):
        select(Policy("length", near_duplicates=0.8), Tables(pooled.samples, pooled.scores))


def test_a_policy_takes_the_best_of_each_cluster_first(pooled):
    selection = select(Policy("length", 6, per_cluster=1, clusters=4), pooled)
    by_score = rank_samples(pooled.scores, SelectionOptions(), "length")["id"].tolist()
    first = {}
    for row_id in by_score:
        first.setdefault(int(row_id[1:]) % 4, row_id)
    assert selection.ids == [*first.values(), *(row_id for row_id in by_score if row_id not in first.values())][:6]
    with pytest.raises(ValueError, match="embeddings"):
        select(Policy("length", per_cluster=1), Tables(pooled.samples, pooled.scores))


def test_held_out_samples_are_ranked_but_neither_selected_nor_first_of_their_cluster(pooled):
    """They are drawn from all samples, whatever their order and whether they are ranked."""
    policy = Policy("length", 6, held_out=20, seed=1, per_cluster=1, clusters=4)
    selection = select(policy, pooled)
    held_out = set(selection.ranking.loc[selection.ranking["held_out"], "id"])
    assert held_out == set(held_out_ids("long", pooled.samples, 20, 1))
    assert len(held_out) == 20
    assert not held_out & set(selection.ids)
    assert {int(row_id[1:]) % 4 for row_id in selection.ids[:4]} == {0, 1, 2, 3}
    by_score = rank_samples(pooled.scores, SelectionOptions(), "length")["id"].tolist()
    first = {}
    for row_id in by_score:
        if row_id not in held_out:
            first.setdefault(int(row_id[1:]) % 4, row_id)
    assert selection.ids[:4] == list(first.values())
    reversed_tables = replace(pooled, samples=pooled.samples[::-1], scores=pooled.scores.iloc[::-1])
    assert select(policy, reversed_tables).ids == selection.ids
    fewer = {row.id for row in select(replace(policy, held_out=5), pooled).ranking.itertuples() if row.held_out}
    assert fewer < held_out
    other = select(replace(policy, seed=2), pooled).ranking
    assert set(other.loc[other["held_out"], "id"]) != held_out
    with pytest.raises(SettingsError, match=r"only 40 of 60 .*20 are held out"):
        select(replace(policy, n_long=41), pooled)
    with pytest.raises(DataError, match="held_out is 60, but there are only 60 long rows"):
        select(replace(policy, held_out=60), pooled)


def test_options_of_an_experiment_become_a_policy():
    given = {
        "method": "cam", "n_long": 3, "held_out": 1, "seed": 2, "near_duplicates": None, "per_cluster": 2,
        "clusters": None,
    }  # fmt: skip
    policy = Policy.from_options({**given, "layers": "second_half"})
    assert policy == Policy("cam", 3, 1, 2, per_cluster=2, formula=SelectionOptions(layers="second_half"))
    with pytest.raises(SettingsError, match="layers"):
        Policy.from_options({**given, "layers": "none"})


def test_the_summary_counts_what_was_ranked_and_selected(pooled):
    scores = pooled.scores.copy()
    scores.loc[0, "status"] = "too_long"
    policy = Policy("hmg", 5, 7, near_duplicates=0.8, per_cluster=1, clusters=4)
    contrast = pd.DataFrame({"status": ["ok", "ok", "no_context"]})
    tables = Tables(pooled.samples, scores, contrast, signatures=pooled.signatures, embeddings=pooled.embeddings)
    selection = select(policy, tables)
    summary = summarise("mine", policy, tables, selection, pd.Series("a", index=scores["id"]))
    assert summary["options"] == {"hmp_norm": "minmax", "near_duplicates": 0.8, "per_cluster": 1}
    assert summary["samples_by_status"] == {"ok": 59, "too_long": 1}
    assert summary["contrast_by_status"] == {"no_context": 1, "ok": 2}
    assert "rewards_by_status" not in summary
    counts = [summary[name] for name in ("ranked", "near_duplicates", "selected", "clusters", "clusters_selected_from")]
    assert counts == [59, 6, 5, 4, 4]
    assert summary["held_out"] == int(selection.ranking["held_out"].sum()) in (6, 7)  # s0 may be one of them
    assert summary["by_dataset"]["a"] == {"samples": 59, "auroc": None, "share_of_best_tenth": 1.0}


def test_the_plot_is_made_for_outliers_many_labels_and_few_samples(pooled, tmp_path):
    """And the same rows give the same bytes."""
    scores = pooled.scores.assign(nll_short=[600.0, *pooled.scores["nll_short"][1:]])
    ranking = select(Policy("gateau"), Tables(pooled.samples, scores)).ranking
    ranking = ranking.assign(
        selectable=True, selected=ranking["rank"] <= 9, length=np.geomspace(10, 9000, 60).astype(int),
        dataset=[f"set{number % 11}" for number in range(60)],
    )  # fmt: skip
    output = tmp_path / "plot.png"
    plot_distributions(ranking, "title", output)
    first = output.read_bytes()
    assert first.startswith(b"\x89PNG")
    plot_distributions(ranking, "title", output)
    assert output.read_bytes() == first
    plot_distributions(ranking.head(2).assign(selected=False), "title", tmp_path / "plot.svg")
    assert "title: 0 of 2 ranked" in (tmp_path / "plot.svg").read_text()
