"""Lengths, statuses and balanced shards."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateau.data.index import assign_shards, index_rows
from gateau.data.intake import Intake
from gateau.data.readers import read_records
from gateau.data.samples import LONG_ROWS
from gateau.prompts import DEFAULT_TEMPLATE, PromptEncoder
from gateau.schemas import SAMPLES
from gateau.tables import write_rows

from helpers import row, write_jsonl


def index(tmp_path, tokenizer, rows, max_length=200, shards=1):
    samples = Intake(LONG_ROWS).read(read_records([str(write_jsonl(tmp_path / "in.jsonl", rows))]))
    write_rows(tmp_path / "samples.parquet", SAMPLES, samples, row_group_size=2)
    encoder = PromptEncoder(tokenizer, DEFAULT_TEMPLATE)
    return {entry["id"]: entry for entry in index_rows(str(tmp_path / "samples.parquet"), encoder, max_length, shards)}


def test_statuses_and_lengths(tmp_path, tiny_tokenizer):
    rows = [
        row("Note falcon balor.\n\nWhat?", "balor", id="fits"),
        row("falcon " * 500 + "\n\nWhat?", "balor", id="cut"),
        row("What?", "balor", id="bare"),
        row("falcon\n\nWhat " + "falcon " * 300, "balor", id="question too long"),
        row("falcon\n\nWhat?", "falcon " * 300, id="response too long"),
        row("a\n\nWhat?", "balor", id="one token"),
    ]
    entries = index(tmp_path, tiny_tokenizer, rows)
    assert {key: entry["status"] for key, entry in entries.items()} == {
        "fits": "ok", "cut": "ok", "bare": "no_context", "question too long": "too_long",
        "response too long": "too_long", "one token": "ok",
    }  # fmt: skip
    assert (entries["fits"]["truncated_tokens"], entries["one token"]["n_context"]) == (0, 1)
    cut = entries["cut"]
    assert cut["n_tokens"] == 200
    assert cut["n_context"] + cut["truncated_tokens"] == len(
        tiny_tokenizer("falcon " * 500, add_special_tokens=False).input_ids
    )
    assert [entry["row"] for entry in entries.values()] == list(range(6))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e15), max_size=60), st.integers(1, 9))
def test_every_sample_has_one_shard_and_no_shard_is_overloaded(costs, shards):
    assignment = assign_shards(costs, shards)
    assert len(assignment) == len(costs)
    loads = [sum(c for c, s in zip(costs, assignment, strict=True) if s == shard) for shard in range(shards)]
    # Graham (1969), longest first: a shard of two or more samples got its last one, which is none of the first
    # ``shards``, when no other had less
    ranked = sorted(costs, reverse=True)
    last = ranked[shards] if len(ranked) > shards else 0
    bound = max(max(costs, default=0), sum(costs) / shards + (1 - 1 / shards) * last)
    assert max(loads) <= bound * (1 + 1e-9)


def test_a_response_without_any_token_has_its_status(tmp_path, tiny_tokenizer):
    from copy import deepcopy

    from tokenizers import normalizers

    picky = deepcopy(tiny_tokenizer)
    picky.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    (entry,) = index(tmp_path, picky, [row("a\n\nq", "\u200b", id="x")]).values()
    assert (entry["status"], entry["n_response"]) == ("no_response", 0)


def test_assignment_is_deterministic_under_ties():
    assert assign_shards([5.0] * 6, 3) == assign_shards([5.0] * 6, 3) == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("shards", [1, 3])
def test_index_script(tmp_path, tiny_tokenizer, shards):
    entries = index(tmp_path, tiny_tokenizer, [row(f"falcon {n}\n\nWhat?", id=str(n)) for n in range(7)], shards=shards)
    assert {entry["shard"] for entry in entries.values()} == set(range(shards))
