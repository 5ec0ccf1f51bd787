"""Mixtures: an experiment trains on exactly what was selected, and asking for more than exists is an error."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateau.draws import MixtureOptions, wanted_rows
from gateau.errors import DataError, UserError
from gateau.schemas import MIXTURE, RANKING, SAMPLES, SCORES, TOKENS
from gateau.selection.policy import Policy, Tables, select
from gateau.selection.selected import selected_ids
from gateau.tables import read_rows, write_rows
from gateau.training.mixture import mix

from helpers import run_script


def table(ids):
    return pd.DataFrame({"id": list(ids), "n_tokens": range(10, 10 + len(ids)), "n_targets": 3})


IDS = [f"l{n}" for n in range(30)]
LONG, SHORT = table(IDS), table([f"s{n}" for n in range(50)])
BEST_FIRST = IDS[::-1]


def mixed(
    method="gateau", n_long=5, n_short=10, held_out=0, seed=0, *, ranked=BEST_FIRST[:5], samples=IDS, long=LONG,
    short=SHORT,
):  # fmt: skip
    return mix("x", MixtureOptions(method, n_long, n_short, held_out, seed), samples, long, short, ranked)


def ids(mixture, source, split="train"):
    return [row["id"] for row in rows_of(mixture) if row["source"] == source and row["split"] == split]


def rows_of(mixture):
    return mixture.rows.to_dict("records")


def test_the_best_are_taken_and_stand_in_the_order_of_the_table():
    assert ids(mixed(), "long") == ["l25", "l26", "l27", "l28", "l29"]
    rows = [row for row in rows_of(mixed()) if row["source"] == "long"]
    assert [LONG["id"][row["row"]] for row in rows] == [row["id"] for row in rows]
    assert mixed().summary["tokens"] == sum(row["n_tokens"] for row in rows_of(mixed()))


def test_draws_are_seeded_nested_and_independent_of_order():
    small, large = set(ids(mixed(n_short=10), "short")), set(ids(mixed(n_short=30), "short"))
    assert small < large
    assert small == set(ids(mixed(n_short=10, short=SHORT.iloc[::-1].reset_index(drop=True)), "short"))
    assert small != set(ids(mixed(n_short=10, seed=1), "short"))
    assert set(ids(mixed("random", 5, ranked=None), "long")) < set(ids(mixed("random", 9, ranked=None), "long"))


def test_held_out_rows_are_the_same_for_all_and_trained_by_none():
    held = ids(mixed("full", None, held_out=4, ranked=None), "long", "held_out")
    best = [row_id for row_id in BEST_FIRST if row_id not in held]
    several = [
        mixed(held_out=4, ranked=best), mixed("full", None, held_out=4, ranked=None),
        mixed("random", 7, 3, held_out=4, ranked=None), mixed(n_long=0, held_out=4, ranked=None),
    ]  # fmt: skip
    for source in ("long", "short"):
        held = [ids(mixture, source, "held_out") for mixture in several]
        assert held[0] == held[1] == held[2] == held[3]
        assert len(held[0]) == 4
        assert all(not set(held[0]) & set(ids(mixture, source)) for mixture in several)
    assert len(ids(several[1], "long")) == 26


def test_draws_of_different_purposes_have_nothing_to_do_with_each_other():
    held = ids(mixed("random", 4, held_out=4, ranked=None), "long", "held_out")
    assert held != ids(mixed("random", 4, ranked=None), "long")


def test_all_and_none():
    assert len(ids(mixed(n_long=None, ranked=BEST_FIRST), "long")) == 30
    assert ids(mixed(n_long=0, ranked=None), "long") == []
    assert ids(mixed("full", None, 0, ranked=None, short=None), "short") == []
    assert ids(mixed("full", 4, ranked=None, samples=IDS[::-1]), "long") == IDS[-4:]  # the first of the samples


@pytest.mark.parametrize("method", ["gateau", "random", "full"])
def test_samples_without_tokens_are_counted_and_not_replaced(method):
    ranked = BEST_FIRST[:5] if method == "gateau" else None
    whole = mixed(method, 5, ranked=ranked)
    selected = ids(whole, "long")
    assert (whole.summary["selected"], whole.summary["long"], whole.summary["rejected_by_tokens"]) == (5, 5, 0)
    fewer = mixed(method, 5, ranked=ranked, long=LONG[LONG["id"] != selected[2]].reset_index(drop=True))
    assert ids(fewer, "long") == [row_id for row_id in selected if row_id != selected[2]]
    summary = fewer.summary
    assert (summary["selected"], summary["long"], summary["rejected_by_tokens"]) == (5, 4, 1)
    assert summary["first_rejected"] == [selected[2]]


def test_held_out_samples_without_tokens_are_counted_and_not_replaced():
    held = ids(mixed("full", None, held_out=4, ranked=None), "long", "held_out")
    fewer = mixed("full", None, held_out=4, ranked=None, long=LONG[LONG["id"] != held[0]].reset_index(drop=True))
    assert ids(fewer, "long", "held_out") == held[1:]
    assert fewer.summary["held_out_rejected_by_tokens"] == 1
    assert fewer.summary["held_out"] == 3 + 4  # long and short


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "full", "n_long": 31, "ranked": None}, "experiment x asks for 31 long samples .* only 30 .*lower"),
        ({"method": "random", "n_long": 27, "held_out": 4, "ranked": None}, "only 26 .*30 samples, 4 of them held"),
        ({"n_short": 51}, "asks for 51 short chats .* only 50"),
        ({"n_short": 1, "short": None}, "only 0"),
        ({"n_long": 0, "n_short": 0}, "nothing to train on: 0 long samples are selected"),
        ({"n_short": 0, "long": LONG.head(2)}, "nothing to train on: 5 long samples are selected, 5 of them rejected"),
        ({"held_out": 30}, "held_out is 30, but there are only 30 long rows"),
    ],
)
def test_more_than_there_is_is_an_error_that_says_so(options, message):
    with pytest.raises(UserError, match=message):
        mixed(**options)


def scores_of(samples, seed):
    random = np.random.default_rng(seed)
    lengths = random.permutation(len(samples)) + 5
    return pd.DataFrame(
        {
            "id": samples, "status": "ok", "n_context": lengths, "n_instruction": 1, "n_response": 1,
            "nll_short": 2.0, "nll_long": 1.0, "segment_nll": [[1.0]] * len(samples),
            "segment_attention": [[1.0]] * len(samples), "segment_weight": None,
        }
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_an_experiment_trains_exactly_what_it_selected_less_what_tokens_rejects(data):
    """Whatever the order of the files; for an unranked method, its decided set of ids takes the selection's place."""
    n = data.draw(st.integers(4, 25), label="samples")
    samples = [f"s{number}" for number in range(n)]
    held_out = data.draw(st.integers(0, n - 2), label="held out")
    n_long = data.draw(st.one_of(st.none(), st.integers(1, n - held_out)), label="n_long")
    method, seed = data.draw(st.sampled_from(["length", "random", "full"])), data.draw(st.integers(0, 3), label="seed")
    accepted = [row_id for row_id in samples if data.draw(st.booleans(), label=f"{row_id} has tokens")]
    scores = scores_of(samples, seed)

    def run(order):
        """The selected ids and the mixture, with all files in this order."""
        ordered = [samples[place] for place in order]
        ranked = ids_selected = None
        if method == "length":
            tables = Tables(ordered, scores.iloc[order])
            selection = select(Policy("length", n_long, held_out, seed), tables)
            ids_selected = selection.ids
            ranked = selected_ids(selection.ranking.sample(frac=1, random_state=seed), n_long)
        long = table([row_id for row_id in ordered if row_id in accepted])
        options = MixtureOptions(method, n_long, 1, held_out, seed)
        return ids_selected, mix("x", options, ordered, long, SHORT, ranked)

    selected, mixture = run(list(range(n)))
    trained, held = set(ids(mixture, "long")), set(ids(mixture, "long", "held_out"))
    assert not trained & held
    assert mixture.summary["selected"] == (n - held_out if n_long is None else n_long)
    assert mixture.summary["long"] + mixture.summary["rejected_by_tokens"] == mixture.summary["selected"]
    assert len(held) + mixture.summary["held_out_rejected_by_tokens"] == held_out
    if selected is not None:
        assert trained == set(selected) & set(accepted)
        assert mixture.summary["first_rejected"] == [row_id for row_id in selected if row_id not in accepted][:10]
        assert not held & set(selected)
    again, other = run(data.draw(st.permutations(range(n)), label="order"))
    assert again == selected
    assert set(ids(other, "long", "held_out")) == held
    if method != "full" or n_long is None:  # the first n_long of the samples as they are depend on their order
        assert set(ids(other, "long")) == trained


def test_the_rules_train_what_they_select(tmp_path):
    """Through the scripts: gateau_long.jsonl less the rejected row is what mixture.parquet trains."""
    samples = [f"s{number}" for number in range(12)]
    message = json.dumps([{"role": "user", "content": "c"}, {"role": "assistant", "content": "r"}])
    text = dict.fromkeys(SAMPLES.names) | {"messages": message}
    write_rows(tmp_path / "samples.parquet", SAMPLES, [{**text, "id": row_id} for row_id in samples])
    scores = scores_of(samples, 0).to_dict("records")
    write_rows(tmp_path / "scores.parquet", SCORES, [{**dict.fromkeys(SCORES.names), **row} for row in scores])
    longest = max(scores, key=lambda row: row["n_context"])["id"]
    options = {
        "method": "length", "n_long": 5, "held_out": 4, "seed": 3, "near_duplicates": None, "per_cluster": None,
        "clusters": None,
    }  # fmt: skip
    files = {
        name: tmp_path / name for name in ("ranking.parquet", "parts.parquet", "gateau_long.jsonl", "summary.json")
    }
    made = run_script(
        "selection", "--scores", tmp_path / "scores.parquet", "--samples", tmp_path / "samples.parquet",
        "--experiment", "x", "--options", json.dumps({**options, "hmp_norm": "minmax", "layers": "all"}),
        "--ranking", files["ranking.parquet"], "--parts", files["parts.parquet"],
        "--selected", files["gateau_long.jsonl"], "--summary", files["summary.json"],
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    ranking = read_rows(files["ranking.parquet"], RANKING)
    selected = [json.loads(line)["id"] for line in files["gateau_long.jsonl"].read_text().splitlines()]
    assert selected == [row["id"] for row in ranking if not row["held_out"]][:5]
    assert sum(row["held_out"] for row in ranking) == 4
    assert ranking[0]["id"] == longest
    tokens = {"source": "long", "input_ids": [1, 2], "labels": [-100, 2], "pieces": [2], "n_tokens": 2, "n_targets": 1}
    rows = [{**tokens, "id": row_id} for row_id in samples if row_id != selected[1]]
    write_rows(tmp_path / "long.parquet", TOKENS, rows)
    mixture = {name: options[name] for name in ("method", "n_long", "held_out", "seed")} | {"n_short": 0}
    made = run_script(
        "mixture", "--experiment", "x", "--options", json.dumps(mixture), "--samples", tmp_path / "samples.parquet",
        "--long", tmp_path / "long.parquet", "--ranking", files["ranking.parquet"],
        "--selection", files["summary.json"],
        "--mixture", tmp_path / "mixture.parquet", "--summary", tmp_path / "mixture.json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    rows = read_rows(tmp_path / "mixture.parquet", MIXTURE)
    trained = {row["id"] for row in rows if row["split"] == "train"}
    assert trained == set(selected) - {selected[1]}
    assert {row["id"] for row in rows if row["split"] == "held_out"} == {
        row["id"] for row in ranking if row["held_out"]
    }
    summary = json.loads((tmp_path / "mixture.json").read_text())
    assert (summary["selected"], summary["long"], summary["first_rejected"]) == (5, 4, [selected[1]])


@pytest.mark.parametrize(
    ("n_long", "tokens", "count"),
    [(None, [], None), (0, [], 0), (7, [], 7), ({"share": 0.1}, [], 3), ({"share": 0.001}, [], 1),
     ({"tokens": 9}, [4, 4, 4], 2), ({"tokens": 8}, [4, 4, 4], 2), ({"tokens": 12}, [4, 4, 4], 3),
     ({"tokens": 8}, [4, 9, 1], 1)],
)  # fmt: skip
def test_a_share_and_a_number_of_tokens_stand_for_rows(n_long, tokens, count):
    assert wanted_rows(n_long, 30, tokens) == count


@pytest.mark.parametrize(
    ("tokens", "message"), [([4, 4], "all rows together have 8; lower"), ([40, 4], "first row alone has 40; raise it")]
)
def test_tokens_that_no_rows_have(tokens, message):
    with pytest.raises(DataError, match=f"n_long is 20 tokens, but .*{message}"):
        wanted_rows({"tokens": 20}, 2, tokens)


@pytest.mark.parametrize("method", ["length", "random", "full"])
def test_a_budget_of_tokens_is_filled_in_the_order_of_the_selection(method):
    samples = [f"s{number}" for number in range(20)]
    scores = scores_of(samples, 3).assign(truncated_tokens=1)
    parts = ("n_context", "n_instruction", "n_response", "truncated_tokens")
    whole = {row["id"]: sum(row[part] for part in parts) for row in scores.to_dict("records")}
    budget = {"tokens": int(sum(whole.values()) // 2)}
    if method == "length":
        chosen = select(Policy("length", budget, 2), Tables(samples, scores)).ids
        everything = select(Policy("length", None, 2), Tables(samples, scores)).ids
        share = select(Policy("length", {"share": 0.25}, 2), Tables(samples, scores)).ids
    else:
        long = pd.DataFrame({"id": samples, "n_tokens": [whole[row_id] for row_id in samples], "n_targets": 1})
        several = [
            mix("x", MixtureOptions(method, n_long, 0, 2, 0), samples, long, None, None)
            for n_long in (budget, None, {"share": 0.25})
        ]
        chosen, everything, share = (ids(one, "long") for one in several)
    assert len(share) == 5
    assert sum(whole[row_id] for row_id in chosen) <= budget["tokens"]
    if method != "random":  # a mixture has the order of the table, not of the draw
        left = everything[len(chosen)]
        assert chosen == everything[: len(chosen)]
        assert sum(whole[row_id] for row_id in [*chosen, left]) > budget["tokens"]
