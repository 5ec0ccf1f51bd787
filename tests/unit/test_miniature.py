"""The miniature study: its training and its recall by slow definitions, its table by hand, and the rule's script."""

import copy
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from gateau.miniature.runs import StudyOptions, choose, evaluate, finetune, questions
from gateau.miniature.summary import plot_summary, summarise, to_markdown
from gateau.model_files import ModelSpec
from gateau.models import Runtime, load_config, load_model
from gateau.planted import PlantedShape, planted_rows
from gateau.prompts import DEFAULT_TEMPLATE, PromptEncoder

from helpers import ROOT, run_script, write_jsonl

SHAPE = PlantedShape(8, 12)
END = 1
OPTIONS = StudyOptions(seeds=1, steps=3, rows_per_step=2, learning_rate=1e-3, evaluated_rows=6)
BASE = {
    "path": str(ROOT / "workflow/resources/tiny_pair/short"), "window": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 80000.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer):
    return PromptEncoder(tiny_tokenizer, DEFAULT_TEMPLATE)


@pytest.fixture
def model():
    spec = ModelSpec.from_config(BASE)
    return load_model(spec, load_config(spec), Runtime("cpu", "float32", "sdpa"))


@pytest.fixture(scope="module")
def rows(encoder):
    return questions(encoder, SHAPE, 6, seed=4)


def test_the_base_of_the_study_is_the_short_model_with_a_stretched_base(model):
    assert model.config.max_position_embeddings == 1024
    assert model.config.rope_parameters["rope_theta"] == 80000.0


@torch.no_grad()
def test_recall_is_what_greedy_decoding_writes(model, rows):
    """The oracle generates; rows of several lengths are padded together by the fast path."""
    asked = [*rows["short"][:2], *rows["far"][:2]]
    result = evaluate(model, asked, END)
    nll = []
    for sample, recalled in zip(asked, result.recalled, strict=True):
        prompt = sample.sequence()[: -len(sample.response)]
        ids = list(prompt)
        for _ in range(len(sample.response) + 1):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert recalled == (ids[len(prompt) :] == [*sample.response, END])
        whole = torch.tensor([[*sample.sequence(), END]])
        logits = model(whole).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        nll.append(-logits.gather(1, whole[0, len(prompt) :, None]).mean().item())
    assert result.nll == pytest.approx(np.mean(nll), abs=1e-5)
    assert sum(result.recalled) > 0


def test_training_follows_the_mean_over_sequences(model, rows):
    """One step with all rows in the batch equals AdamW on the definition, written out."""
    batch = rows["short"][:2]
    options = StudyOptions(seeds=1, steps=1, rows_per_step=2, learning_rate=1e-3, evaluated_rows=1)
    oracle = copy.deepcopy(model).train()
    finetune(model, batch, options, END, seed=0)
    losses = []
    for sample in batch:
        whole = torch.tensor([[*sample.sequence(), END]])
        logits = oracle(whole).logits[0, -len(sample.response) - 2 : -1].log_softmax(-1)
        losses.append(-logits.gather(1, whole[0, -len(sample.response) - 1 :, None]).mean())
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=1e-3 / 5, betas=(0.9, 0.95))
    torch.stack(losses).mean().backward()
    torch.nn.utils.clip_grad_norm_(oracle.parameters(), 1.0)
    optimizer.step()
    for trained, expected in zip(model.parameters(), oracle.parameters(), strict=True):
        # Adam's first step is the sign of the gradient: rounding may turn those near zero
        assert (trained - expected).abs().mean() < 1e-6


def test_more_training_on_far_rows_lowers_their_loss(model, rows):
    before = evaluate(model, rows["far"], END).nll
    finetune(model, rows["far"], StudyOptions(1, 6, 4, 1e-3, 1), END, seed=0)
    assert evaluate(model, rows["far"], END).nll < before


def test_what_is_chosen():
    ids = [f"{number}" for number in range(10)]
    assert choose(ids, ["c", "a", "b", "d"], 0.2, seed=3) == ["c", "a"]  # a share of all rows, ranked or not
    assert choose(ids, ["c", "a"], 0.01, seed=3) == ["c"]
    drawn = choose(ids, None, 0.3, seed=0)
    assert len(set(drawn)) == 3
    assert drawn == choose(ids[::-1], None, 0.3, seed=0) != choose(ids, None, 0.3, seed=1)
    assert sorted(choose(ids, None, 1.0, seed=0)) == ids


def run_of(name, share, seed, far, short=(1, 1)):
    return {
        "experiment": name, "share": share, "seed": seed, "rows": 5,
        "far": {"recalled": list(far), "nll": 1.0}, "short": {"recalled": list(short), "nll": 2.0 + seed},
    }  # fmt: skip


def test_table_by_hand(tmp_path):
    runs = [
        run_of("good", 0.1, 0, [1, 1, 1, 1] * 5), run_of("good", 0.1, 1, [1, 1, 1, 0] * 5),
        run_of("bad", 0.1, 0, [0, 0, 0, 0] * 5), run_of("bad", 0.1, 1, [0, 0, 0, 0] * 5),
        run_of("_random", 0.1, 0, [1, 0, 0, 1] * 5), run_of("_random", 0.1, 1, [0, 0, 1, 0] * 5),
        run_of("_full", 1.0, 0, [1, 1, 0, 0] * 5), run_of("_before", 0.0, 0, [0, 0, 0, 1] * 5),
    ]  # fmt: skip
    table = summarise(runs)
    cells = table.set_index(["experiment", "share"])
    good = cells.loc[("good", 0.1)]
    assert good["far_recall"] == 0.875
    assert good["far_beyond_random"] == pytest.approx(0.5)
    assert 0 < good["far_beyond_random_low"] < 0.5 < good["far_beyond_random_high"] < 1
    assert cells.loc[("bad", 0.1), "far_beyond_random_high"] < 0
    assert good["short_nll"] == 2.5
    assert good["far_beyond_full"] == pytest.approx(0.375)
    assert cells.loc[("_random", 0.1), "far_beyond_full"] == pytest.approx(-0.125)
    assert pd.isna(cells.loc[("_before", 0.0), "far_beyond_full"])
    assert pd.isna(cells.loc[("_full", 1.0), "far_beyond_random"])
    text = re.sub(r" +", " ", to_markdown(table))
    assert "| 10% | good | 5 | 0.88 [" in text
    assert "| 0% | before | 5 | 0.25 [" in text
    assert "beyond a random draw of that size, interval above zero: good; below zero: bad." in text
    assert "beyond all rows, interval above zero: good; below zero: bad." in text
    plot_summary(table, str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert summarise(runs[::-1]).equals(table)


def test_intervals_cover_seeds_and_share_the_questions():
    pattern = [1, 0, 0, 1] * 5
    runs = [run_of(name, 0.1, seed, pattern) for name in ("twin", "_random") for seed in (0, 1)]
    runs += [run_of("moody", 0.1, 0, [1] * 20), run_of("moody", 0.1, 1, [0] * 20)]
    cells = summarise(runs).set_index("experiment")
    twin, moody = cells.loc["twin"], cells.loc["moody"]
    assert twin["far_recall_low"] < 0.5 < twin["far_recall_high"]
    assert (twin["far_beyond_random_low"], twin["far_beyond_random_high"]) == (0, 0)  # whichever questions are drawn
    assert (moody["far_recall_low"], moody["far_recall_high"]) == (0, 1)  # a quarter of the draws has one seed twice


def test_the_same_seed_gives_the_same_model(model, rows):
    other = copy.deepcopy(model)
    for one in (model, other):
        finetune(one, rows["short"], OPTIONS, END, seed=1)
    assert evaluate(model, rows["far"], END) == evaluate(other, rows["far"], END)
    finetune(other, rows["short"], OPTIONS, END, seed=2)
    assert evaluate(model, rows["far"], END) != evaluate(other, rows["far"], END)


def test_the_script_trains_once_per_seed(tmp_path):
    planted = {"rows": {"far": 8}, "duplicates": 0, "seed": 0, "min_lines": 8, "max_lines": 10}
    raw = write_jsonl(tmp_path / "raw.jsonl", planted_rows({"far": 8}, 0, SHAPE))
    made = run_script(
        "samples", "--input", raw, "--samples", tmp_path / "samples.parquet", "--rejects", tmp_path / "rejects.jsonl",
        "--summary", tmp_path / "summary.json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    options = {**vars(OPTIONS), "seeds": 2}

    def run(share):
        output = tmp_path / "run.json"
        result = run_script(
            "miniature_runs", "--samples", tmp_path / "samples.parquet", "--experiment", "_random", "--share", share,
            "--model", json.dumps(BASE), "--prompt", DEFAULT_TEMPLATE, "--planted", json.dumps(planted),
            "--options", json.dumps(options), "--output", output,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return json.loads(output.read_text())

    runs = run(0.5)
    assert [(row["experiment"], row["seed"], row["rows"]) for row in runs] == [("_random", 0, 4), ("_random", 1, 4)]
    assert all(len(row[skill]["recalled"]) == 6 for row in runs for skill in ("far", "short"))
    assert runs[0]["far"] != runs[1]["far"]
