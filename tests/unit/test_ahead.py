"""Passes read, encode and write beside the model's work: the same numbers, errors at their sample, nothing lost."""

import itertools
import threading
import time

import pytest
import torch

from gateau.errors import ScoreError
from gateau.prompts import DEFAULT_TEMPLATE, PromptEncoder
from gateau.schemas import INDEX, LONG_RESULT, SAMPLES, shard_schema
from gateau.scoring.ahead import made_ahead
from gateau.scoring.passes import LongPass
from gateau.scoring.shards import SampleReader, index_of_shard, score_shard
from gateau.scoring.store import ProgressStore
from gateau.tables import read_rows, write_rows

from helpers import row
from unit.models import tiny_model
from unit.test_index import index


def test_items_keep_their_order_and_few_are_made_ahead():
    made = []
    with made_ahead((made.append(number) or number for number in range(50)), 3) as items:
        for number, item in enumerate(items):
            assert item == number
            deadline = time.monotonic() + 30
            while len(made) < min(number + 4, 50):  # the next three, without being asked for
                assert time.monotonic() < deadline
            time.sleep(0.001)
            assert len(made) <= number + 4
    assert made == list(range(50))


def test_an_error_comes_at_its_item():
    def items():
        yield from "ab"
        raise ScoreError("c is broken")

    with made_ahead(items(), 4) as made:
        assert [next(made), next(made)] == ["a", "b"]
        with pytest.raises(ScoreError, match="c is broken"):
            next(made)


def test_whoever_leaves_early_waits_for_one_item_at_most():
    made = []
    before = threading.active_count()
    with made_ahead((made.append(number) or number for number in itertools.count()), 2) as items:
        next(items)
    assert len(made) <= 4
    assert threading.active_count() == before


class Shards:
    """Samples, their index and a model, in a folder."""

    def __init__(self, folder, tokenizer):
        self.folder, self.encoder = folder, PromptEncoder(tokenizer, DEFAULT_TEMPLATE)
        self.model = tiny_model("llama", "sdpa", vocab_size=len(tokenizer))
        self.rows = [
            row(f"Note falcon {n} balor. " * (n + 1) + "\n\nWhat?", f"balor {n}", id=f"s{n}") for n in range(9)
        ]
        self.tokenizer = tokenizer

    def score(self, shard, shards=1, scoring_pass=None, progress="progress"):
        entries = index(self.folder, self.tokenizer, self.rows, shards=shards).values()
        write_rows(self.folder / "index.parquet", INDEX, entries, row_group_size=2)
        path, output = str(self.folder / "index.parquet"), self.folder / f"{shard}-of-{shards}.parquet"
        store = ProgressStore(self.folder / progress, "long_pass", {}, LONG_RESULT, flush_seconds=0)
        score_shard(
            scoring_pass or LongPass(16, 128),
            index_of_shard(path, shard),
            SampleReader(str(self.folder / "samples.parquet"), SAMPLES),
            self.encoder,
            200,
            store,
            lambda: self.model,
            str(output),
            lambda items, total: items,
        )
        return read_rows(output, shard_schema(LONG_RESULT))


@pytest.fixture
def shards(tmp_path, tiny_tokenizer):
    return Shards(tmp_path, tiny_tokenizer)


def test_any_number_of_shards_gives_the_same_numbers_to_the_last_bit(shards, caplog):
    caplog.set_level("INFO")
    whole = {one["id"]: one for one in shards.score(0)}
    assert "the model computed" in caplog.text
    for number in (2, 4):
        parts = [shards.score(shard, number, progress=f"progress {number}") for shard in range(number)]
        assert {one["id"]: one for part in parts for one in part} == whole
        assert len(whole) == sum(map(len, parts)) == 9
    for one in shards.rows:  # and the same as sample by sample without any thread
        context, instruction = one["messages"][0]["content"].split("\n\n")
        (sample,) = shards.encoder.encode([context], [instruction], [one["messages"][1]["content"]])
        alone = LongPass(16, 128).compute(shards.model, sample.truncated(200))
        assert whole[one["id"]] | alone == whole[one["id"]]


class FailsAt(LongPass):
    """A long pass that raises an error instead of computing its third sample."""

    def compute(self, model, sample):
        self.computed.append(sample)
        if len(self.computed) == 3:
            raise self.error
        return super().compute(model, sample)


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (torch.OutOfMemoryError("full"), ScoreError, r"long_pass: sample s2 \(\d+ tokens\) exceeds the device memory"),
    ],
)
def test_what_is_finished_is_stored_when_a_pass_is_stopped(shards, error, raised, message):
    stopped = FailsAt(16, 128)
    vars(stopped).update(computed=[], error=error)
    with pytest.raises(raised, match=message):
        shards.score(0, scoring_pass=stopped)
    counted = FailsAt(16, 128)
    vars(counted).update(computed=[None] * 3, error=error)
    assert len(shards.score(0, scoring_pass=counted)) == 9
    assert len(counted.computed) == 3 + 7


def test_an_error_of_the_tokenizer_reaches_the_job_after_the_samples_before_it(shards, monkeypatch):
    encode = shards.encoder.encode

    def broken(contexts, instructions, responses):
        if responses == ["balor 4"]:
            raise ScoreError("cannot encode balor 4")
        return encode(contexts, instructions, responses)

    monkeypatch.setattr(shards.encoder, "encode", broken)
    counted = FailsAt(16, 128)
    vars(counted).update(computed=[None] * 3, error=None)
    with pytest.raises(ScoreError, match="cannot encode balor 4"):
        shards.score(0, scoring_pass=counted)
    assert len(counted.computed) == 3 + 4
