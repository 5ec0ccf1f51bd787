"""Planted rows are what their label says."""

import json
import random
from collections import Counter

import pytest

from gateau.planted import FACT_NAMES, KINDS, PlantedShape, known_fact, planted_chats, planted_row, planted_rows

from helpers import run_script

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


def test_every_turn_of_a_chat_is_answered_by_the_first_message_or_by_heart():
    facts = dict(known_fact(number) for number in range(len(FACT_NAMES)))
    chats = list(planted_chats(200, seed=4))
    lengths, kinds = Counter(), Counter()
    for chat in chats:
        messages = chat["conversations"]
        assert [message["from"] for message in messages] == ["human", "gpt"] * (len(messages) // 2)
        lines, _, question = messages[0]["value"].rpartition("\n\n")
        assert len(lines.split("\n")) <= 5
        questions = [question, *(message["value"] for message in messages[2::2])]
        for question, answer in zip(questions, (message["value"] for message in messages[1::2]), strict=True):
            subject = question.removeprefix("What does note ").removesuffix(" say?")
            by_heart = question in facts
            assert answer == facts.get(question) or (answer in lines.split("\n") and answer.split()[1] == subject)
            kinds[by_heart] += 1
        assert len(set(questions)) == len(questions)
        lengths[len(questions)] += 1
    assert set(lengths) == {1, 2, 3}
    assert 0 < kinds[True] < kinds[False]


def test_chats_are_seeded_and_no_two_are_alike():
    chats = list(planted_chats(300, seed=5))
    assert chats == list(planted_chats(300, seed=5))
    assert chats[:3] == list(planted_chats(3, seed=5))
    assert chats != list(planted_chats(300, seed=6))
    assert len({json.dumps(chat["conversations"]) for chat in chats}) == len({chat["id"] for chat in chats}) == 300


def test_script_writes_chats_when_asked_and_the_long_rows_do_not_depend_on_them(tmp_path):
    planted = {"rows": {"far": 2}, "duplicates": 1, "seed": 3, "min_lines": 8, "max_lines": 9}

    def run(name, options, *arguments):
        output = tmp_path / f"{name}.jsonl"
        result = run_script("planted_rows", "--planted", json.dumps(options), "--output", output, *arguments)
        assert result.returncode == 0, result.stderr
        return output.read_bytes()

    plain = run("plain", planted)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.jsonl"]
    assert run("with", {**planted, "chats": 4}, "--chats", tmp_path / "chats.jsonl") == plain
    written = [json.loads(line) for line in (tmp_path / "chats.jsonl").read_text().splitlines()]
    assert written == list(planted_chats(4, seed=3))
