"""One test for each mistake of the paper's released code; the numbers follow the list in docs/differences.md."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from gateau.data.intake import Intake
from gateau.data.readers import Rejection, read_records
from gateau.data.samples import LONG_ROWS
from gateau.errors import ScoreError
from gateau.prompts import DEFAULT_TEMPLATE, EncodedSample, PromptEncoder
from gateau.schemas import SAMPLES
from gateau.scoring.attention import mean_attention
from gateau.scoring.passes import LongPass, SegmentPass
from gateau.selection.fusion import SelectionOptions
from gateau.selection.labelled import read_labels
from gateau.selection.ranking import rank_samples
from gateau.selection.selected import write_selected
from gateau.tables import write_rows

import oracle
from helpers import row, write_jsonl
from unit.models import profile_of, random_sample, tiny_model
from unit.test_merging import Run


def samples_of(path, *rows):
    outcomes = list(Intake(LONG_ROWS).read(read_records([str(write_jsonl(path / "in.jsonl", rows))])))
    return [o for o in outcomes if isinstance(o, dict)], [o for o in outcomes if isinstance(o, Rejection)]


def test_1_rank_runs_and_its_cas_is_computed():
    """The released rank stops with a NameError and reads a CAS that nothing computes."""
    twins = pd.DataFrame(
        {
            "id": ["aware", "unaware"],
            "status": "ok",
            "nll_short": 2.0,
            "nll_long": 1.0,
            "segment_nll": [[0.1, 3.0]] * 2,
            "segment_attention": [[0.9, 0.1], [0.1, 0.9]],
            "segment_attention_second_half": [[0.9, 0.1], [0.1, 0.9]],
            "segment_weight": None,
        }
    )
    ranking = rank_samples(twins, SelectionOptions())
    assert ranking["id"].tolist() == ["unaware", "aware"]
    assert ranking["cas"].between(0, 1, inclusive="neither").all()


def test_2_segment_perplexity_is_a_mean_over_response_tokens_only():
    """Released: summed over the response, divided by segment + instruction + response."""
    sample = random_sample(n_context=64, n_question=40, n_response=5)
    result = SegmentPass(64, 1000, ()).compute(tiny_model("llama", "sdpa"), sample)
    expected = oracle.nll(tiny_model("llama"), sample.sequence(), 5)
    diluted = expected * 5 / (64 + 40 + 5)
    assert result["segment_nll"] == [pytest.approx(expected, abs=1e-4)]
    assert abs(result["segment_nll"][0] - diluted) > 1


def test_3_no_token_is_masked_by_its_id_and_nothing_is_padded():
    """Released: masks from token ids (id 0 vanishes), padding attended to and scored as segments."""
    sample = random_sample(n_context=130)
    zeros = EncodedSample(sample.head, [0] * 130, sample.question, sample.response)
    model = tiny_model("llama", "sdpa")
    for case in (sample, zeros):
        ids, first = case.sequence(), len(case.head)
        profile = profile_of(LongPass(1, 128).compute(model, case), "attention")
        layers = oracle.attention_profiles(tiny_model("llama"), ids, 23, 0, len(ids))
        np.testing.assert_allclose(profile, layers.mean(0)[first : first + 130], rtol=1e-3)
        assert layers.mean(0).sum().item() == pytest.approx(1)  # all of the attention is on real tokens
        assert len(SegmentPass(64, 1000, ()).compute(model, case)["segment_nll"]) == 3


def test_4_instruction_and_response_are_kept_whole(tiny_tokenizer):
    """Released: their first tokens dropped, the response cut at 500 tokens, the marker cut off long instructions."""
    encoder = PromptEncoder(tiny_tokenizer, DEFAULT_TEMPLATE)
    instruction, response = "falcon " * 900, "amber " * 700
    sample = encoder.encode(["context " * 500], [instruction], [response])[0].truncated(5000)
    assert tiny_tokenizer.decode(sample.question) == f"\n\n ### Instruction: {instruction}\n\n ### Response: "
    assert tiny_tokenizer.decode(sample.response) == response


def test_5_the_response_starts_where_it_starts(tmp_path, tiny_tokenizer):
    """Released: the start is searched in the untruncated text, and blank endings or a quoted marker move it."""
    tricky = row("a page with ### Response: inside\n\n\n\n" + "x " * 300 + "\n\nWhat?", "### Response: no", id="t")
    (sample,), _ = samples_of(tmp_path, tricky)
    assert sample["context"].startswith("a page with ### Response: inside\n\n\n\nx")
    encoder = PromptEncoder(tiny_tokenizer, DEFAULT_TEMPLATE)
    encoded = encoder.encode([sample["context"]], [sample["instruction"]], [sample["response"]])[0].truncated(80)
    assert encoded.n_tokens == 80
    assert tiny_tokenizer.decode(encoded.sequence()[-len(encoded.response) :]) == "### Response: no"
    (blank,), _ = samples_of(tmp_path, row("a document that ends blank\n\n\n\nWhat?"))
    assert blank["context"] == "a document that ends blank\n\n"


def test_6_a_bad_row_costs_that_row_only_and_never_borrows_from_another(tmp_path):
    """Released: missing fields repeat the row before, a missing id its score, a corrupt line drops the rest."""
    kept, rejected = samples_of(
        tmp_path, row("c1\n\nq1", "r1", id="1"), {"id": "2"}, "{corrupt", row("c4\n\nq4", "r4"), row("c5\n\nq5", "r5")
    )
    assert [(s["context"], s["response"]) for s in kept] == [("c1", "r1"), ("c4", "r4"), ("c5", "r5")]
    assert len({s["id"] for s in kept}) == 3
    assert [(r.origin.line, r.reason) for r in rejected] == [(2, "missing_fields"), (3, "not_json")]


def test_7_attention_is_summed_in_float32():
    """Released: means of fp16 weights; at 64k keys a weight is about 1e-5, below fp16's normal range."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 8, 16).half(), torch.randn(2, 60_000, 16).half()
    got = mean_attention(
        query, key, 0, 60_000, scaling=1.0, visible=lambda rows: torch.ones(rows.stop - rows.start, 60_000).bool()
    )
    weights = (query.double() @ key.double().transpose(1, 2) * 1.0).softmax(-1)
    expected = weights.mean((0, 1))
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.double(), expected, rtol=1e-3)
    in_half = weights.half().mean((0, 1)).double()
    assert ((in_half - expected).abs() / expected).max() > 0.5


def test_8_the_number_of_shards_does_not_matter(tmp_path):
    """Released: exactly eight shards, exit codes ignored, reruns append. (Kills and reruns: tests/workflow.)"""
    whole = Run(tmp_path, ids="abcdefghij").merge()
    for shards in (2, 7, 10):
        run = Run(tmp_path, ids="abcdefghij", shards=shards)
        assert run.merge() == whole
    run.shards["long"][3].append("a")
    with pytest.raises(ScoreError, match="twice"):
        run.merge()


def test_9_passes_are_joined_by_id(tmp_path):
    """Released: joined by position, or by a search through all rows for each row."""
    run = Run(tmp_path, ids="hcagfbed", shards=3)
    run.ids.sort()  # the order of the index is another one
    rows = run.merge()
    assert [r["nll_short"] - 0.5 for r in rows] == [ord(c) for c in "abcdefgh"]
    run.shards["short"][0].reverse()
    with pytest.raises(ScoreError, match="in another order"):
        run.merge()


def test_10_the_data_set_label_survives(tmp_path):
    """Released: ``dataset`` is overwritten with ``length``."""
    original = row("c\n\nq", "r", id="1", dataset="books", length=1234)
    (sample,), _ = samples_of(tmp_path, original)
    write_rows(tmp_path / "samples.parquet", SAMPLES, [sample])
    write_selected(tmp_path / "samples.parquet", ["1"], tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == original
    assert read_labels(tmp_path / "samples.parquet")["1"] == "books"
