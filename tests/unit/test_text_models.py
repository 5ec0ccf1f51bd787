"""Embeddings and rewards of samples, clusters of them, and the order in which clusters are taken from."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, LlamaForSequenceClassification

from gateau.errors import ModelError
from gateau.model_files import ModelSpec
from gateau.models import Runtime
from gateau.schemas import REWARDS, SAMPLES
from gateau.scoring.store import ProgressStore
from gateau.scoring.text_models import (
    every_sample,
    load_embedder,
    load_reward_model,
    reward_inputs,
    text_model_settings,
)
from gateau.selection.clusters import best_of_each_first, cluster_count, clusters_by_id, clusters_of
from gateau.tables import write_rows

from helpers import TINY_PAIR, make_reward_model

CPU = Runtime("cpu", "float32", "auto")
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    return make_reward_model(tmp_path_factory.mktemp("reward"))


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "samples.parquet"
    rows = [
        {"id": f"s{number}", "context": f"note {number} " * 20, "instruction": "What?", "response": f"{number}"}
        for number in range(6)
    ]
    empty = dict.fromkeys(SAMPLES.names)
    write_rows(path, SAMPLES, [{**empty, **row, "digest": f"d{row['id']}"} for row in rows])
    return path, rows


def test_a_reward_is_the_heads_output_at_the_last_token(reward_model, samples):
    _, rows = samples
    reward = load_reward_model(ModelSpec(str(reward_model)), CPU)
    model = LlamaForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    for row in rows[:2]:
        ids = tokenizer(f"{row['context']}\n\n{row['instruction']}", row["response"], return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = model.model(ids).last_hidden_state[0, -1]
            expected = float(model.score.weight[0] @ hidden)
        assert reward(row) == {"status": "ok", "reward": pytest.approx(expected, abs=1e-5)}


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_long_context_loses_its_middle_and_nothing_else(template):
    tokenizer = AutoTokenizer.from_pretrained(TINY_PAIR / "short")
    tokenizer.chat_template = template
    words = [f"w{number}" for number in range(300)]
    inputs = reward_inputs(tokenizer, " ".join(words), "Which one?", "The first.", 120)
    assert 100 < len(inputs["input_ids"]) <= 120
    text = tokenizer.decode(inputs["input_ids"])
    assert "w0 w1" in text
    assert "w299" in text
    assert "w150" not in text
    assert "Which one?" in text
    assert "The first." in text
    assert reward_inputs(tokenizer, " ".join(words), "why " * 200, "The first.", 120) is None
    whole = reward_inputs(tokenizer, "short", "Which?", "That.", 120)
    assert "short" in tokenizer.decode(whole["input_ids"])


def test_a_model_that_is_no_reward_model_is_refused(reward_model, tmp_path):
    with pytest.raises(ModelError, match="2 outputs"):
        load_reward_model(ModelSpec(str(TINY_PAIR / "short")), CPU)
    headless = shutil.copytree(TINY_PAIR / "short", tmp_path / "headless")
    config = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps({**config, "num_labels": 1}))
    with pytest.raises(ModelError, match=r"score\.weight"):  # a head of random values would judge at random
        load_reward_model(ModelSpec(str(headless)), CPU)
    with pytest.raises(ModelError, match="cannot load the embedding model"):
        load_embedder(ModelSpec(str(tmp_path / "nowhere")), CPU)


def test_finished_samples_are_not_computed_again_and_bad_ones_are(reward_model, samples, tmp_path):
    path, rows = samples
    columns = REWARDS.remove(REWARDS.get_field_index("id"))
    settings = text_model_settings(ModelSpec(str(reward_model)), CPU)
    asked = []

    def load():
        def compute(row):
            asked.append(row["id"])
            number = float(row["response"])
            bad = number == 4
            return {"status": "non_finite" if bad else "ok", "reward": float("nan") if bad else number}

        return compute

    def run():
        store = ProgressStore(tmp_path / "progress", "rewards", settings, columns)
        return list(every_sample(str(path), store, load, "rewards"))

    first = run()
    assert [row["id"] for row in first] == asked == [row["id"] for row in rows]
    assert [row["reward"] for row in first if row["status"] == "ok"] == [0, 1, 2, 3, 5]
    assert first[4]["status"] == "non_finite"
    asked.clear()
    assert [row["status"] for row in run()] == [row["status"] for row in first]
    assert asked == ["s4"]


def test_numbers_of_other_rope_parameters_are_kept_apart(reward_model):
    settings = [
        text_model_settings(ModelSpec(str(reward_model), rope_parameters=rope), CPU) for rope in ({}, {"rope_theta": 5})
    ]
    assert settings[0] != settings[1]


def test_clusters_are_those_of_direction():
    random = np.random.default_rng(0)
    centres = np.eye(5, 16)
    kind = np.arange(100) % 5
    embeddings = (centres[kind] + random.normal(0, 0.05, (100, 16))) * random.uniform(0.5, 20, (100, 1))
    found = clusters_of(embeddings.astype(np.float32), 5)
    assert len({(one, other) for one, other in zip(kind, found, strict=True)}) == 5
    np.testing.assert_array_equal(found, clusters_of(embeddings.astype(np.float32), 5))
    assert set(clusters_of(np.ones((4, 3), np.float32), 3)) == {0}
    assert cluster_count(8) == 2
    assert cluster_count(10_000) == 71


def test_clusters_depend_on_the_set_of_samples_alone():
    random = np.random.default_rng(1)
    embeddings = pd.Series(list(random.normal(size=(60, 8))), index=[f"s{number:02d}" for number in range(60)])
    found = clusters_by_id(embeddings)
    assert found.nunique() == cluster_count(60) == 6
    shuffled = clusters_by_id(embeddings.sample(frac=1, random_state=2))
    assert shuffled.to_dict() == found.to_dict()
    assert clusters_by_id(embeddings, 3).nunique() == 3


def test_the_best_of_each_cluster_come_first_and_near_duplicates_take_no_place():
    ranking = pd.DataFrame(
        {
            "id": list("abcdefg"),
            "rank": range(1, 8),
            "score": np.arange(7, 0, -1.0),
            "cluster": [0, 0, 0, 1, 1, 2, 0],
            "duplicate_of": [None, "a", None, None, None, None, None],
            "held_out": [False] * 7,
        }
    )
    ranking["duplicate_of"] = ranking["duplicate_of"].astype(object).where(ranking["id"] == "b", None)
    one = best_of_each_first(ranking, 1)
    assert "".join(one["id"]) == "adf" + "bceg"
    assert one["rank"].tolist() == list(range(1, 8))
    assert "".join(best_of_each_first(ranking, 2)["id"]) == "acdef" + "bg"


def test_an_embedding_is_of_instruction_and_context_and_knows_no_neighbours(samples):
    _, rows = samples
    embed = load_embedder(ModelSpec(str(TINY_PAIR / "short"), window=64), CPU)
    first = embed(rows[0])["embedding"]
    assert len(first) > 8
    assert embed(rows[0])["embedding"] == first
    assert embed({**rows[0], "response": "other"})["embedding"] == first
    assert embed({**rows[0], "context": "other"})["embedding"] != first
    assert embed({**rows[0], "instruction": "other"})["embedding"] != first
    beyond = {**rows[0], "context": rows[0]["context"] + "x " * 40}
    assert embed(beyond)["embedding"] == first  # the window ends before
    wide = load_embedder(ModelSpec(str(TINY_PAIR / "short"), window=128), CPU)
    assert wide(beyond)["embedding"] != wide(rows[0])["embedding"]
