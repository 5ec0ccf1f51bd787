"""Planted rows are what their label says."""

import random
from collections import Counter

import pytest

from gateau.data.planted import KINDS, PlantedShape, planted_row, planted_rows

SHAPE = PlantedShape(24, 72)


def split(row):
    context, _, question = row["messages"][0]["content"].rpartition("\n\n")
    return context.split("\n"), question, row["messages"][1]["content"]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind):
    for row in planted_rows({kind: 40}, seed=3, shape=SHAPE):
        lines, question, response = split(row)
        places = [number for number, line in enumerate(lines) if line == response]
        if kind == "far":
            assert len(places) == 1
            assert places[0] < len(lines) / 2
        elif kind in ("near", "distractor"):
            assert len(places) == 1
            assert places[0] >= len(lines) - SHAPE.near_lines
        else:
            assert places == []
        if kind == "wrong":
            assert sum(line.split()[:2] == response.split()[:2] for line in lines) == 1
        if kind != "parametric":
            assert response.split()[1] in question


def test_distractors_carry_the_same_codes_far_away():
    for row in planted_rows({"distractor": 20}, seed=1, shape=SHAPE):
        lines, _, response = split(row)
        codes = sorted(response.rstrip(".").split()[2:])
        alike = [n for n, line in enumerate(lines) if sorted(line.rstrip(".").split()[2:]) == codes]
        assert len(alike) == 4


def test_seeded_and_complete():
    counts = {"far": 3, "near": 2, "wrong": 1}
    rows = list(planted_rows(counts, seed=5, duplicates=2))
    assert rows == list(planted_rows(counts, seed=5, duplicates=2))
    assert rows != list(planted_rows(counts, seed=6, duplicates=2))
    assert Counter(row["dataset"] for row in rows[:6]) == {f"planted/{k}": n for k, n in counts.items()}
    assert len({row["id"] for row in rows}) == 8
    assert all(any(copy["messages"] == row["messages"] for row in rows[:6]) for copy in rows[6:])


def test_kinds_do_not_differ_in_length():
    rng = random.Random(0)
    lengths = {kind: [len(planted_row(kind, rng, SHAPE)[0].split("\n")) for _ in range(300)] for kind in KINDS}
    means = [sum(values) / len(values) for values in lengths.values()]
    assert max(means) - min(means) < 4


def test_unknown_kind():
    with pytest.raises(ValueError, match="unknown planted kind"):
        planted_row("odd", random.Random(0), SHAPE)
