"""Mixtures: who trains on what, and what happens when there is not enough."""

import pandas as pd
import pytest

from gateau.errors import DataError
from gateau.training.mixture import MixtureOptions, mix


def table(name, count):
    return pd.DataFrame({"id": [f"{name}{n}" for n in range(count)], "n_tokens": range(10, 10 + count), "n_targets": 3})


LONG, SHORT = table("l", 30), table("s", 50)
RANKING = [f"l{n}" for n in reversed(range(30))]


def mixed(method="gateau", n_long=5, n_short=10, held_out=0, seed=0, ranking=RANKING, long=LONG, short=SHORT):
    return mix("x", MixtureOptions(method, n_long, n_short, held_out, seed), long, short, ranking)


def ids(mixture, source, split="train"):
    return [row["id"] for row in mixture.rows if row["source"] == source and row["split"] == split]


def test_the_best_are_taken_and_stand_in_the_order_of_the_table():
    assert ids(mixed(), "long") == ["l25", "l26", "l27", "l28", "l29"]
    rows = [row for row in mixed().rows if row["source"] == "long"]
    assert [LONG["id"][row["row"]] for row in rows] == [row["id"] for row in rows]
    assert mixed().summary["tokens"] == sum(row["n_tokens"] for row in mixed().rows)


def test_draws_are_seeded_nested_and_independent_of_order():
    small, large = set(ids(mixed(n_short=10), "short")), set(ids(mixed(n_short=30), "short"))
    assert small < large
    assert small == set(ids(mixed(n_short=10, short=SHORT.iloc[::-1].reset_index(drop=True)), "short"))
    assert small != set(ids(mixed(n_short=10, seed=1), "short"))
    assert set(ids(mixed("random", 5, ranking=None), "long")) < set(ids(mixed("random", 9, ranking=None), "long"))


def test_held_out_rows_are_the_same_for_all_and_trained_by_none():
    several = [mixed(held_out=4), mixed("full", None, held_out=4), mixed("random", 7, 3, held_out=4)]
    for source in ("long", "short"):
        held = [ids(mixture, source, "held_out") for mixture in several]
        assert held[0] == held[1] == held[2]
        assert len(held[0]) == 4
        assert all(not set(held[0]) & set(ids(mixture, source)) for mixture in several)
    assert len(ids(several[1], "long")) == 26


def test_draws_of_different_purposes_have_nothing_to_do_with_each_other():
    assert ids(mixed(held_out=4), "long", "held_out") != ids(mixed("random", 4, ranking=None), "long")


def test_all_and_none():
    assert len(ids(mixed(n_long=None), "long")) == 30
    assert ids(mixed(n_long=0, ranking=None), "long") == []
    assert ids(mixed("full", None, 0, ranking=None, short=None), "short") == []


def test_ranked_rows_without_tokens_are_passed_over_and_counted():
    mixture = mixed(n_long=2, ranking=["gone", *RANKING])
    assert ids(mixture, "long") == ["l28", "l29"]
    assert (mixture.summary["ranked_but_unusable"], mixture.summary["first_unusable"]) == (1, ["gone"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_long": 31}, "experiment x asks for 31 long samples .* only 30 .*lower n_long"),
        ({"n_long": 27, "held_out": 4}, "only 26 .*4 of them held out"),
        ({"n_short": 51}, "asks for 51 short chats .* only 50"),
        ({"n_short": 1, "short": None}, "only 0"),
        ({"n_long": 0, "n_short": 0}, "neither"),
        ({"held_out": 30}, "held_out is 30, but there are only 30 long rows"),
    ],
)
def test_more_than_there_is_is_an_error_that_says_so(options, message):
    with pytest.raises(DataError, match=message):
        mixed(**options)
