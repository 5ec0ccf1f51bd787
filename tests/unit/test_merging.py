"""Merging shards: by id, complete, or an error that lists what is missing."""

import random

import pyarrow.parquet as pq
import pytest

from gateau.errors import ScoreError
from gateau.schemas import CONTRAST, INDEX, LONG_RESULT, SCORES, SEGMENT_RESULT, SHORT_RESULT, shard_schema
from gateau.selection.merging import Lengths, write_scores
from gateau.tables import read_rows, write_rows

from helpers import run_script

NOTHING = {"status": "too_long", "token_nll": None}


class Run:
    """Hand-made files of one run; lists of ids per shard may be edited before :meth:`merge`."""

    def __init__(self, path, ids=("b", "a", "c"), shards=1):
        self.path, self.statuses = path, dict.fromkeys(ids, "ok")
        self.shards = {name: [list(ids)[k::shards] for k in range(shards)] for name in ("short", "long", "segments")}
        self.ids = list(ids)

    def merge(self, segment_length=2, largest_bad_share=1.0, run_bytes=2**20):
        """Rows of the merged table."""
        entry = {"shard": 0, "n_context": 3, "n_instruction": 1, "n_response": 2, "n_tokens": 9, "truncated_tokens": 0}
        index = [{"id": key, "row": n, "status": "ok", "cost": 1.0, **entry} for n, key in enumerate(self.ids)]
        write_rows(self.path / "index.parquet", INDEX, index)
        results = {"short": SHORT_RESULT, "long": LONG_RESULT, "segments": SEGMENT_RESULT}
        files = {
            name: [self._write(name, k, ids, results[name]) for k, ids in enumerate(shards)]
            for name, shards in self.shards.items()
        }
        index, output = str(self.path / "index.parquet"), self.path / "scores.parquet"
        write_scores(index, *files.values(), Lengths(segment_length, 1), largest_bad_share, output, run_bytes)
        return read_rows(output, SCORES)

    def _write(self, name, number, ids, result):
        path = self.path / f"{name}{number}.parquet"
        write_rows(path, shard_schema(result), [self._row(name, key) for key in ids], row_group_size=32)
        return str(path)

    def _row(self, name, key):
        status, value = self.statuses[key], float(ord(key))
        values = {
            "short": {"token_nll": [value, value + 1]},
            "long": {
                "token_nll": [1.0, 2.0], "attention": [0.25, 0.5, 1.0], "attention_peak": 0.4,
                "attention_second_half": [1.0, 1.0, 1.0], "attention_second_half_peak": 0.2,
                "layer_attention": [1.0], "layer_attention_peak": 0.1, "n_layers": 1,
            },
            "segments": {
                "segment_nll": [1.0, 2.0], "segment_weight": None, "nll_instruction_only": 3.0,
                "nll_response_only": None,
            },
        }[name]  # fmt: skip
        if status in ("too_long", "non_finite"):
            values = dict.fromkeys(values)
        return {"id": key, "status": status, **values}


def test_rows_are_sorted_by_id_and_hold_segment_means(tmp_path):
    rows = Run(tmp_path).merge()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["nll_short"] == ord("a") + 0.5
    assert rows[0]["segment_attention"] == pytest.approx([0.15, 0.4])
    assert rows[0]["nll_response_only"] is None
    assert 0 < rows[0]["cas"] < 1


def test_any_split_into_shards_gives_the_same_rows(tmp_path):
    whole = Run(tmp_path).merge()
    for shards in (2, 3):
        assert Run(tmp_path, shards=shards).merge() == whole


def test_rows_that_exceed_the_memory_are_sorted_on_disk(tmp_path):
    ids = [chr(code) for code in range(0x4E00, 0x4E00 + 2500)]
    random.Random(0).shuffle(ids)
    whole = Run(tmp_path, ids, shards=3).merge()
    assert Run(tmp_path, ids, shards=3).merge(run_bytes=20_000) == whole
    assert [row["id"] for row in whole] == sorted(ids)
    file = pq.ParquetFile(tmp_path / "scores.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(3)] == [1024, 1024, 452]
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("name", ["short", "segments"])
def test_rows_of_a_shard_in_another_order_are_an_error(tmp_path, name):
    run = Run(tmp_path)
    run.shards[name][0].reverse()
    with pytest.raises(ScoreError, match="in another order than"):
        run.merge()


@pytest.mark.parametrize("name", ["short", "long", "segments"])
def test_a_missing_sample_is_named(tmp_path, name):
    run = Run(tmp_path)
    run.shards[name][0].remove("c")
    with pytest.raises(ScoreError, match=r"\bc\b"):
        run.merge()


@pytest.mark.parametrize("name", ["short", "long", "segments"])
def test_a_doubled_sample_is_an_error(tmp_path, name):
    run = Run(tmp_path)
    run.shards[name][0].append("c")
    with pytest.raises(ScoreError, match="twice"):
        run.merge()


@pytest.mark.parametrize("name", ["short", "long", "segments"])
def test_a_sample_that_the_index_does_not_know_is_an_error(tmp_path, name):
    run = Run(tmp_path, ids=("a", "b", "z"))
    run.ids.remove("z")
    if name != "long":
        for other in {"short", "long", "segments"} - {name}:
            run.shards[other][0].remove("z")
    with pytest.raises(ScoreError, match=r"\bz\b"):
        run.merge()


def test_statuses_travel(tmp_path):
    run = Run(tmp_path)
    run.statuses |= {"a": "too_long", "b": "non_finite"}
    rows = run.merge()
    assert [row["status"] for row in rows] == ["too_long", "non_finite", "ok"]
    assert rows[0]["cas"] is None
    assert rows[0]["nll_long"] is None
    run.merge(largest_bad_share=0.34)
    (tmp_path / "scores.parquet").unlink()
    with pytest.raises(ScoreError, match=r"1 of 3 samples have NaN or infinite scores \(b\)"):
        run.merge(largest_bad_share=0.33)
    assert not (tmp_path / "scores.parquet").exists()


def test_a_contrast_with_too_many_bad_samples_ends_with_their_names(tmp_path):
    """As for the three passes: a model that breaks down must not be ranked by what is left."""
    run = Run(tmp_path)
    run.statuses["b"] = "non_finite"
    run.merge()
    folder = tmp_path / "pass"
    folder.mkdir()
    (tmp_path / "short0.parquet").rename(folder / "0000-of-0001.parquet")
    files = ["--index", tmp_path / "index.parquet", "--folder", folder, "--shards", 1]
    output = ["--output", tmp_path / "contrast.parquet"]
    result = run_script("contrast", *files, *output)
    assert result.returncode == 1
    assert "1 of 3 samples have NaN or infinite scores (b)" in result.stderr
    assert not (tmp_path / "contrast.parquet").exists()
    result = run_script("contrast", *files, *output, "--max-non-finite-share", 0.5)
    assert result.returncode == 0, result.stderr
    nll = {row["id"]: row["nll"] for row in read_rows(tmp_path / "contrast.parquet", CONTRAST)}
    assert nll == {"a": ord("a") + 0.5, "b": None, "c": ord("c") + 0.5}
