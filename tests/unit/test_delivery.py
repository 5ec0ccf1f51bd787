"""What comes out for other programs: all rows with their scores, and a data set of each experiment."""

import datetime
import importlib.util
import json
import os
from unittest import mock

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard
from transformers import AutoTokenizer

from gateau import uploads
from gateau.data.whole import WholeRows
from gateau.delivery import scored as scoring
from gateau.delivery.card import Contents, data_card
from gateau.delivery.scored import SHOWN, Outcome, found_out, free_name, write_scored
from gateau.delivery.trainers import UNSET, TrainingSettings, axolotl, dataset_info, llamafactory, template_beside, trl
from gateau.draws import MixtureOptions, long_ids, short_ids
from gateau.errors import DataError, SettingsError
from gateau.files import read_json, write_json, write_jsonl
from gateau.model_files import ModelSpec
from gateau.schemas import CHATS, RANKING, SAMPLES, SCORES, SELECTED_BY_RANK, TOKENS
from gateau.tables import read_rows, write_rows
from gateau.training.mixture import mix

from helpers import TINY_PAIR, row, run_script

TRAIN = {
    "learning_rate": 1e-5, "lr_scheduler": "cosine", "warmup_share": 0.03, "weight_decay": 0.0, "adam_beta1": 0.9,
    "adam_beta2": 0.95, "max_grad_norm": 1.0, "optimizer": "adamw_torch", "lora": None, "seed": 0,
}  # fmt: skip
MOMENT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
MINE, YOURS = "Note otter balor.\n\nWhat does note {} say?", "Note {} balor."


def sample(number):
    return row(MINE.format(number), YOURS.format(number))


TABLE = pa.table(
    {
        "id": pa.array(["t1", "t2", "t3"]),
        "messages": [sample(1)["messages"], sample(2)["messages"], sample(1)["messages"]],  # t3 repeats t1
        "meta": [{"pages": 3, "of": {"year": None}}, None, {"pages": None, "of": {"year": 1999}}],
        "grid": pa.array([[[1, 2], []], None, [[3]]], pa.list_(pa.list_(pa.int16()))),
        "when": pa.array([MOMENT, None, MOMENT], pa.timestamp("us", "UTC")),
        "count": pa.array([1, None, 2**60], pa.int64()),
        "status": pa.array(["new", "old", None]),
        "Rank_Gateau": pa.array([9, 8, 7], pa.int8()),
        "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
    }
)
LINES = [
    {"id": "j1", **sample(3), "mixed": 1, "note": "plain", "odd": {"a": 1}, "share": 1, "half": "\ud800"},
    {"id": "j2", "messages": [{"role": "narrator", "content": "x"}], "mixed": "one", "odd": {"b": 1}, "share": 0.5},
    "no json",
    {**sample(4), "dataset": "books", "mixed": None, "tags": [], "empty": None},
    {"id": "j5", **sample(5), "mixed": [1], "tags": ["x"], "big": 2**70},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a Parquet table and a JSONL file of raw rows, their samples, scores and a ranking."""
    folder = tmp_path_factory.mktemp("delivery")
    pq.write_table(TABLE, folder / "a.parquet")
    with (folder / "b.jsonl").open("w") as file:
        file.writelines(line + "\n" if isinstance(line, str) else json.dumps(line) + "\n" for line in LINES)
    made = run_script(
        "samples", "--input", folder / "a.parquet", folder / "b.jsonl", "--samples", folder / "samples.parquet",
        "--rejects", folder / "rejects.jsonl", "--summary", folder / "samples.json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    ids = [one["id"] for one in read_rows(folder / "samples.parquet", SAMPLES)]
    assert [*ids[:3], ids[4]] == ["t1", "t2", "j1", "j5"]
    assert ids[3].startswith("sha256-")
    write_rows(folder / "scores.parquet", SCORES, [score(key, place) for place, key in enumerate(sorted(ids))])
    best = [ids[3], "t2", "j1", "t1"]  # j5 is not ranked
    rows = [
        {
            "id": key, "rank": place, "score": 1 / place, "hmp": 0.0, "cas": 0.5, "method": "gateau", "status": "ok",
            "duplicate_of": None, "cluster": None, "held_out": key == "t2",
        }
        for place, key in enumerate(best, start=1)
    ]  # fmt: skip
    write_rows(folder / "ranking.parquet", RANKING, rows)
    options = {"alpha": 0.8, "near_duplicates": None}
    write_json(folder / "gateau.json", {"experiment": "gateau", "selected": 2, "options": options, "ranked": 4})
    return folder


def score(key, place):
    """A row of scores. The one of j5 is too long, so that nothing was computed for it."""
    none = dict.fromkeys(SCORES.names)
    if key == "j5":
        return none | {
            "id": key,
            "status": "too_long",
            "n_context": 9,
            "n_instruction": 1,
            "n_response": 2,
            "truncated_tokens": 0,
        }
    numbers = {"n_context": 5, "n_instruction": 4, "n_response": place, "truncated_tokens": 0}
    return none | {"id": key, "status": "ok", **numbers, "nll_short": 2.0, "nll_long": float(place), "cas": 0.5}


def options(**changes):
    return {"method": "gateau", "n_long": 2, "n_short": 0, "held_out": 0, "seed": 0, **changes}


EXPERIMENTS = {
    "gateau": options(),
    "ra.n-dom": options(method="random"),
    "full": options(method="full", n_long=None),
    "none": options(n_long=0),
}
DRAWS = {
    name: {option: value for option, value in one.items() if option != "n_short"} for name, one in EXPERIMENTS.items()
}


@pytest.fixture(scope="module")
def scored(run):
    """The file that rule scored writes."""
    result = run_script(
        "scored", "--input", run / "a.parquet", run / "b.jsonl", "--samples", run / "samples.parquet",
        "--rejects", run / "rejects.jsonl", "--scores", run / "scores.parquet",
        "--experiments", json.dumps(DRAWS), "--rankings", run / "ranking.parquet",
        "--selections", run / "gateau.json", "--output", run / "scored.parquet",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return run / "scored.parquet"


def test_columns_of_a_table_come_out_as_they_came(scored):
    table = pq.read_table(scored)
    for name in set(TABLE.column_names) - {"id"}:
        assert table.schema.field(name).type == TABLE.schema.field(name).type, name
        assert table.column(name)[: len(TABLE)].to_pylist() == TABLE.column(name).to_pylist(), name
    assert table.column("meta")[len(TABLE) :].null_count == len(LINES)


def test_columns_of_json_have_one_type_or_are_json_texts(scored):
    table = pq.read_table(scored)
    rest = table[len(TABLE) :]
    objects = [line if isinstance(line, dict) else {} for line in LINES]
    for name in ("mixed", "odd", "big"):  # several types, several sets of keys, and a number beyond 64 bits
        assert [text and json.loads(text) for text in rest.column(name).to_pylist()] == [
            one.get(name) for one in objects
        ]
    for name, kind in (
        ("note", pa.string()),
        ("share", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("empty", pa.string()),
    ):
        assert rest.schema.field(name).type == kind, name
        assert rest.column(name).to_pylist() == [one.get(name) for one in objects]
    assert rest.column("half").to_pylist()[0] == r"\ud800"
    assert rest.column("messages").to_pylist() == [one.get("messages") for one in objects]


def test_every_row_has_its_status_and_what_was_found_out_about_it(run, scored):
    rows = pq.read_table(scored).to_pylist()
    assert [one["gateau_id"] for one in rows if one["gateau_id"]][:2] == ["t1", "t2"]
    assert [one["gateau_status"] for one in rows] == [
        "ok", "ok", "rejected: duplicate_content", "ok", "rejected: bad_role", "rejected: not_json", "ok", "too_long",
    ]  # fmt: skip
    assert [one["gateau_id"] for one in rows][2:6] == ["t3", "j1", "j2", None]
    scores = {one["id"]: one for one in read_rows(run / "scores.parquet", SCORES)}
    ranks = {one["id"]: one for one in read_rows(run / "ranking.parquet", RANKING)}
    for one in rows:
        known = scores.get(one["gateau_id"], dict.fromkeys(SHOWN))
        assert {name: one[name] for name in SHOWN[1:]} == {name: known[name] for name in SHOWN[1:]}
        rank = ranks.get(one["gateau_id"], {"rank": None, "score": None})
        assert (one["gateau_rank_gateau"], one["score_gateau"]) == (rank["rank"], rank["score"])


def test_each_experiment_says_which_rows_it_selects(run, scored):
    rows = pq.read_table(scored).to_pylist()
    samples = [one["id"] for one in read_rows(run / "samples.parquet", SAMPLES)]

    def chosen(name):
        return {one["gateau_id"] for one in rows if one[f"selected_{name}"]}

    assert chosen("gateau") == {samples[3], "j1"}  # t2 is held out
    assert chosen("full") == set(samples)
    assert chosen("none") == set()
    assert chosen("ra_n_dom") == set(long_ids("x", MixtureOptions(**EXPERIMENTS["ra.n-dom"]), samples, None, {}))
    assert len(chosen("ra_n_dom")) == 2
    assert "rank_ra_n_dom" not in rows[0]


def test_names_that_are_taken_get_a_prefix_whatever_their_case():
    assert free_name("cas", ["a", "CAS"]) == "gateau_cas"
    assert free_name("cas", ["cas", "gateau_cas"]) == "gateau_gateau_cas"
    found = found_out(["1"], None, [Outcome("a.b", ["1"], None), Outcome("a_b", [], None)])
    assert found.to_pylist() == [
        {"id": "1", "status": "not_scored", "selected_a_b": True, "gateau_selected_a_b": False}
    ]
    assert b"experiment a_b" in found.schema.field("gateau_selected_a_b").metadata[b"description"]


def test_rows_are_written_in_bounded_groups(run, scored, tmp_path, monkeypatch):
    """At most the rows of one batch more than the bound."""
    monkeypatch.setattr(scoring, "_GROUP_ROWS", 4)
    write_jsonl(tmp_path / "many.jsonl", [{"id": str(number), **sample(number)} for number in range(100)])
    made = run_script(
        "samples", "--input", tmp_path / "many.jsonl", "--samples", tmp_path / "samples.parquet", "--rejects",
        tmp_path / "rejects.jsonl", "--summary", tmp_path / "summary.json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    found = found_out([str(number) for number in range(100)], None, [])
    files = (tmp_path / "samples.parquet", tmp_path / "rejects.jsonl")
    counts = write_scored(WholeRows.of([str(tmp_path / "many.jsonl")]), *files, found, tmp_path / "scored.parquet")
    assert counts == {"not_scored": 100}
    written = pq.ParquetFile(tmp_path / "scored.parquet")
    sizes = [written.metadata.row_group(number).num_rows for number in range(written.num_row_groups)]
    assert sizes == [16] * 6 + [4]
    assert written.read().column("gateau_id").to_pylist() == [str(number) for number in range(100)]


def test_other_raw_rows_than_those_of_the_samples_are_an_error(run, tmp_path):
    write_jsonl(tmp_path / "b.jsonl", [sample(1)])
    found = found_out([one["id"] for one in read_rows(run / "samples.parquet", SAMPLES)], None, [])
    files = (run / "samples.parquet", run / "rejects.jsonl")
    for entries, what in (([tmp_path / "b.jsonl"], "line 1 is neither"), ([run / "a.parquet"], "missing at the end")):
        rows = WholeRows.of([str(one) for one in entries])
        with pytest.raises(DataError, match=f"was not made from these raw files.*{what}.*--forcerun samples"):
            write_scored(rows, *files, found, tmp_path / "scored.parquet")


def test_rows_of_the_hub_are_found_under_the_names_of_their_files(run, tmp_path):
    """Samples name a fetched file as OWNER/NAME/path."""
    folder = tmp_path / "hub_data/me--rows@main"
    folder.mkdir(parents=True)
    pq.write_table(TABLE, folder / "a.parquet")
    write_jsonl(folder / "b.jsonl", [{"id": "h1", **sample(8)}])
    files = [{"path": name, "n_bytes": (folder / name).stat().st_size} for name in ("a.parquet", "b.jsonl")]
    listing = tmp_path / "hub_data/me--rows@main.hub.json"
    write_json(listing, {"hub": "me/rows", "files": files})
    made = run_script(
        "samples", "--input", listing, "--samples", tmp_path / "samples.parquet", "--rejects",
        tmp_path / "rejects.jsonl", "--summary", tmp_path / "summary.json",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    samples = read_rows(tmp_path / "samples.parquet", SAMPLES)
    assert {one["file"] for one in samples} == {"me/rows/a.parquet", "me/rows/b.jsonl"}
    found = found_out([one["id"] for one in samples], None, [])
    places = (tmp_path / "samples.parquet", tmp_path / "rejects.jsonl")
    write_scored(WholeRows.of([str(listing)]), *places, found, tmp_path / "scored.parquet")
    rows = pq.read_table(tmp_path / "scored.parquet").to_pylist()
    assert [one["id"] for one in rows] == ["t1", "t2", "t3", "h1"] == [one["gateau_id"] for one in rows]


def test_cells_of_csv_stay_texts_and_types_of_tables_are_united(tmp_path):
    (tmp_path / "a.csv").write_text("instruction,response,length\ni,r,007\n")
    pq.write_table(
        pa.table({"length": pa.array([1], pa.int32()), "n": pa.array([1], pa.int16())}), tmp_path / "b.parquet"
    )
    pq.write_table(pa.table({"n": pa.array([0.5], pa.float32()), "m": pa.nulls(1)}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"m": pa.array([2**63], pa.uint64())}), tmp_path / "d.parquet")
    (tmp_path / "e.csv").write_text("instruction,response\n")  # empty files are left out
    (tmp_path / "f.json").write_text("[]")
    pq.write_table(pa.table({"n": pa.array([], pa.int16())}), tmp_path / "g.parquet")
    rows = WholeRows.of([str(tmp_path)])
    found = [one for _, table in rows.batches() for one in table.to_pylist()]
    assert rows.texts == {"length"}
    assert [one["length"] for one in found] == ['"007"', "1", None, None]
    assert [one["n"] for one in found] == [None, 1.0, 0.5, None]
    assert [one["m"] for one in found] == [None, None, None, 2**63]


# --- data sets ---


@pytest.fixture(scope="module")
def chats(run):
    """Chats and their tokens: the table of the tokens lacks one, which rule tokens has rejected."""
    texts = {f"c{number}": json.dumps(sample(number)["messages"]) for number in range(6)}
    rest = {"file": "f", "line": 1, "dataset": None, "digest": ""}
    rows = [{"id": key, "messages": text, **rest} for key, text in texts.items()]
    write_rows(run / "chats.parquet", CHATS, rows)
    tokens = {"source": "short", "input_ids": [1], "labels": [1], "pieces": [], "n_tokens": 1, "n_targets": 1}
    write_rows(run / "short.parquet", TOKENS, [{"id": f"c{number}", **tokens} for number in range(5)])
    return run


def make(run, name, output, *further, own=None, base=TINY_PAIR / "long"):
    plots = {"gateau": ["--ranking", run / "ranking.parquet", "--selection", run / "gateau.json"]}
    training = {"max_length": 256, "chat_template": None, "plan": {"epochs": 2}, "train": TRAIN}
    return run_script(
        "dataset", "--experiment", name, "--options", json.dumps(own or EXPERIMENTS[name]), "--samples",
        run / "samples.parquet", "--intake", run / "samples.json", *plots.get(name, []), "--models",
        json.dumps({"short": {"path": str(TINY_PAIR / "short")}, "long": {"path": "me/long", "revision": "v1"}}),
        "--base", json.dumps({"path": str(base)}), "--training", json.dumps(training), "--output", output, *further,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ranked(run, chats):
    """The data set of a ranked experiment that mixes three chats."""
    mixing = ["--chats", run / "chats.parquet", "--short", run / "short.parquet"]
    result = make(run, "gateau", run / "data", *mixing, own=options(n_short=3))
    assert result.returncode == 0, result.stderr
    return run / "data"


def test_the_selected_rows_are_those_of_the_selection_best_first(run, ranked):
    rows = read_rows(ranked / "selected.parquet", SELECTED_BY_RANK)
    samples = {one["id"]: one for one in read_rows(run / "samples.parquet", SAMPLES)}
    assert [(one["id"], one["rank"], one["score"]) for one in rows] == [(list(samples)[3], 1, 1.0), ("j1", 3, 1 / 3)]
    assert [one["messages"] for one in rows] == [json.loads(samples[one["id"]]["messages"]) for one in rows]
    assert [one["dataset"] for one in rows] == ["books", None]


def test_a_sample_without_a_score_has_null(run, tmp_path):
    """Such as one that scoring.screen left out."""
    rows = read_rows(run / "ranking.parquet", RANKING)
    rows[2]["score"] = None
    write_rows(tmp_path / "ranking.parquet", RANKING, rows)
    further = ["--ranking", tmp_path / "ranking.parquet"]
    assert make(run, "gateau", tmp_path / "data", *further).returncode == 0
    assert pq.read_table(tmp_path / "data/selected.parquet")["score"].to_pylist() == [1.0, None]


def test_a_data_set_has_the_chats_of_the_mixture(run, ranked):
    tokens = pd.DataFrame({"id": [f"c{number}" for number in range(5)], "n_tokens": 1, "n_targets": 1})
    long = pd.DataFrame({"id": ["j1"], "n_tokens": [1], "n_targets": [1]})
    mixture = mix("x", MixtureOptions(**options(n_short=3)), ["j1", "t1"], long, tokens, ["j1"])
    trained = set(mixture.rows[mixture.rows["source"] == "short"]["id"])
    assert set(pq.read_table(ranked / "chats.parquet").column("id").to_pylist()) == trained
    with pytest.raises(DataError, match="asks for 9 short chats"):
        short_ids("x", MixtureOptions(**options(n_short=9)), ["c1"])


def test_an_experiment_without_a_ranking_has_a_data_set_too(run, tmp_path):
    for name in ("ra.n-dom", "full"):
        result = make(run, name, tmp_path / name, base="unset")
        assert result.returncode == 0, result.stderr
        table = pq.read_table(tmp_path / name / "selected.parquet")
        assert len(table) == {"ra.n-dom": 2, "full": 5}[name]
        assert table.column_names == ["id", "dataset", "length", "messages"]
        assert UNSET in (tmp_path / name / "trl.py").read_text()
    result = make(run, "none", tmp_path / "none")
    assert (result.returncode, "selects no row; raise n_long or n_short" in result.stderr) == (1, True)


def test_the_card_can_be_read_and_names_no_local_path(run, ranked):
    card = DatasetCard.load(ranked / "README.md")
    assert (card.data.license, card.data.size_categories) == ("unknown", ["n<1K"])
    assert [one["data_files"] for one in card.data.to_dict()["configs"]] == [
        [{"split": "train", "path": file}] for file in ("selected.parquet", "chats.parquet")
    ]
    for needle in (
        "2 long samples, best first, and 3 short chats",
        "models.long",
        "me/long at v1",
        "| alpha",
        "| books",
    ):
        assert needle in card.text
    assert str(TINY_PAIR) not in card.content
    assert str(run) not in card.content
    assert "distributions.png" not in card.content


@pytest.mark.parametrize(("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**5, "100K<n<1M"), (10**7, "n>10M")])
def test_the_card_tells_the_size(rows, size):
    contents = Contents("x", "full", {}, {}, {"rows": 9, "rejected": 1}, None, {}, {"selected.parquet": rows}, True)
    card = DatasetCard(data_card(contents))
    assert card.data.size_categories == [size]
    assert "![How the scores spread](distributions.png)" in card.text


def test_pandas_duckdb_and_datasets_open_everything_as_documented(run, scored, ranked, tmp_path, monkeypatch):
    from datasets import load_dataset

    given = {"split": "train", "cache_dir": str(tmp_path)}
    expected = read_rows(ranked / "selected.parquet", SELECTED_BY_RANK)
    assert load_dataset(str(ranked), **given).to_list() == expected
    assert len(load_dataset(str(ranked), "chats", **given)) == 3
    assert load_dataset("parquet", data_files=str(scored), **given).column_names == pq.read_schema(scored).names
    write_jsonl(tmp_path / "gateau_long.jsonl", [{"id": one["id"], "messages": one["messages"]} for one in expected])
    lines = load_dataset("json", data_files=str(tmp_path / "gateau_long.jsonl"), **given)
    assert [one["messages"] for one in lines] == [one["messages"] for one in expected]
    assert pd.read_parquet(ranked / "selected.parquet")["id"].tolist() == [one["id"] for one in expected]
    assert len(pd.read_parquet(scored)) == len(TABLE) + len(LINES)
    monkeypatch.chdir(ranked)
    query = (ranked / "README.md").read_text().split("```sql\n")[1].split("```")[0]
    assert [line[0] for line in duckdb.sql(query).fetchall()] == [one["id"] for one in expected]
    query = f"SELECT gateau_id FROM '{scored}' WHERE selected_gateau ORDER BY gateau_rank_gateau"
    assert [line[0] for line in duckdb.sql(query).fetchall()] == [one["id"] for one in expected]


def test_trl_trains_on_the_data_set_with_the_written_script(ranked, tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(ranked)
    spec = importlib.util.spec_from_file_location("written_trl", ranked / "trl.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    changes = {
        "bf16": False, "max_steps": 2, "gradient_accumulation_steps": 1, "save_strategy": "no", "use_cpu": True,
        "output_dir": str(tmp_path), "gradient_checkpointing": False, "packing": False,
    }  # fmt: skip
    module.LOADING = {"revision": "v1", "trust_remote_code": True}  # no matter for a local model
    load = AutoTokenizer.from_pretrained
    with mock.patch.object(AutoTokenizer, "from_pretrained", side_effect=load) as loaded:
        trainer = module.main(attention="sdpa", dtype=torch.float32, **changes)
    assert [one.kwargs for one in loaded.call_args_list] == [module.LOADING]
    assert trainer.state.global_step == 2
    batch = next(iter(trainer.get_train_dataloader()))
    kept = batch["labels"][batch["labels"] != -100]
    text = trainer.processing_class.decode(kept)
    assert "balor" in text
    assert "What does" not in text


def settings(path="me/model", **changes):
    section = {"base": ModelSpec.from_config({"path": path, **changes.pop("model", {})}), "max_length": 65536}
    return TrainingSettings(**{**section, "plan": {"epochs": 2}, "train": TRAIN, "has_template_file": False, **changes})


def test_the_configurations_have_the_run_s_settings():
    names, files = ["gateau_selected"], ["selected.parquet"]
    rope = {"rope_type": "yarn", "factor": 2.0}
    adapted = {"lora": {"r": 4, "alpha": 8, "target_modules": "all-linear"}}
    plain = settings()
    adapting = settings(
        model={"rope_parameters": rope, "window": 99, "revision": "v1"}, train=TRAIN | adapted, has_template_file=True
    )
    factory = yaml.safe_load(llamafactory(plain, names))
    assert (factory["model_name_or_path"], factory["dataset"], factory["cutoff_len"]) == ("me/model", *names, 65536)
    assert (factory["packing"], factory["neat_packing"], factory["finetuning_type"]) == (True, True, "full")
    assert (factory["learning_rate"], factory["num_train_epochs"]) == (1e-5, 2.0)
    text = llamafactory(adapting, names)  # which has no key for these settings
    assert '{"max_position_embeddings": 99, "rope_parameters": {"rope_type": "yarn", "factor": 2.0}}' in text
    assert (yaml.safe_load(text)["model_revision"], yaml.safe_load(text)["lora_target"]) == ("v1", "all")
    other = yaml.safe_load(axolotl(plain, files))
    assert (other["sequence_len"], other["sample_packing"], other["chat_template"]) == (
        65536,
        True,
        "tokenizer_default",
    )
    assert (other["learning_rate"], [one["path"] for one in other["datasets"]]) == (1e-5, files)
    other = yaml.safe_load(axolotl(adapting, files))
    assert other["overrides_of_model_config"] == {"max_position_embeddings": 99, "rope_parameters": rope}
    assert (other["chat_template"], other["lora_target_linear"], other["revision_of_model"]) == ("jinja", True, "v1")
    for one in (plain, adapting):
        compile(trl(one, files), "trl.py", "exec")
    assert "target_modules='all-linear'" in trl(adapting, files)
    assert "chat_template_path" in trl(adapting, files)


def test_dataset_info_describes_the_files_to_llamafactory(ranked):
    info = read_json(ranked / "dataset_info.json")
    assert info == dataset_info({"selected.parquet": "gateau_selected", "chats.parquet": "gateau_chats"})
    assert {one["file_name"] for one in info.values()} == {"selected.parquet", "chats.parquet"}
    assert info["gateau_chats"]["tags"]["role_tag"] == "role"


def test_a_tokenizer_without_a_template_gets_the_format_of_training(tmp_path):
    assert template_beside(ModelSpec(str(TINY_PAIR / "long")), None) is None
    assert template_beside(ModelSpec("unset"), "given") == "given"
    for file in (TINY_PAIR / "long").iterdir():
        if file.name not in ("chat_template.jinja", "model.safetensors"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert "[INST]" in template_beside(ModelSpec(str(tmp_path)), None)


# --- the Hub ---


class Hub:
    """Stands in for the Hub's client, and remembers what it is asked for."""

    def __init__(self, token):
        self.calls = [token]
        Hub.last = self

    def create_repo(self, name, **given):
        self.calls.append((name, given))

    def upload_folder(self, **given):
        self.calls.append(given)
        return "address"


def test_a_data_set_is_pushed_privately_and_only_where_asked(ranked, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "secret")
    uploads.push_if_asked(ranked, "dataset", {"data_hub_repository": None, "hub_repository": "me/model"}, "x", False)
    assert not hasattr(Hub, "last")
    uploads.push_if_asked(ranked, "dataset", {"data_hub_repository": "me/{experiment}"}, "x", False, ["trl.py"])
    token, created, uploaded = Hub.last.calls
    assert (token, created) == ("secret", ("me/x", {"private": True, "exist_ok": True, "repo_type": "dataset"}))
    assert (uploaded["folder_path"], uploaded["repo_type"], uploaded["ignore_patterns"]) == (
        ranked,
        "dataset",
        ["trl.py"],
    )
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SettingsError, match=r"export.data_hub_repository is set, but HF_TOKEN is not"):
        uploads.push_to_hub(ranked, "me/x", True, "dataset")


def test_a_dry_run_lists_what_a_push_would_upload_without_paths_of_this_machine(run, tmp_path):
    hub = json.dumps({"data_hub_repository": "me/{experiment}"})
    result = make(run, "full", tmp_path / "data", "--hub", hub, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "a push would upload these files (bytes) to me/full" in result.stderr
    assert '"selected.parquet"' in result.stderr
    assert "trl.py" not in result.stderr  # it names the folder of the local model
    assert os.path.exists(tmp_path / "data/trl.py")
