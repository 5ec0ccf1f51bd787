"""The progress store: nothing finished is lost, nothing damaged is believed."""

import pyarrow.parquet as pq
import pytest

from gateau.errors import ScoreError
from gateau.schemas import SEGMENT_RESULT
from gateau.scoring.store import ProgressStore

SETTINGS = {"model": "m", "length": 3}


def open_store(path, settings=SETTINGS):
    return ProgressStore(path, "segment_pass", settings, SEGMENT_RESULT)


def result(number):
    return {
        "segment_nll": [number / 3, number / 7],
        "segment_weight": None,
        "nll_instruction_only": number / 11,
        "nll_response_only": 1.0,
    }


def test_results_come_back_to_the_last_bit_in_any_order(tmp_path):
    store = open_store(tmp_path)
    for number in range(20):
        store.add(f"k{number}", result(number))
    store.close()
    again = open_store(tmp_path)
    assert "k3" in again
    assert "k20" not in again
    assert list(again.get(["k7", "k0", "k19"])) == [result(7), result(0), result(19)]


def test_an_interrupted_job_keeps_what_was_flushed(tmp_path):
    store = open_store(tmp_path)
    store.add("a", result(1))
    store.flush()
    store.add("b", result(2))
    del store  # killed before the flush of b
    assert ("a" in open_store(tmp_path), "b" in open_store(tmp_path)) == (True, False)


def test_slow_samples_are_flushed_one_by_one(tmp_path):
    store = ProgressStore(tmp_path, "segment_pass", SETTINGS, SEGMENT_RESULT, flush_seconds=0)
    store.add("a", result(1))
    assert "a" in open_store(tmp_path)


def test_closing_merges_a_jobs_own_parts_only(tmp_path):
    first, second = open_store(tmp_path), open_store(tmp_path)
    for number in range(3):
        first.add(f"f{number}", result(number))
        first.flush()
    second.add("s", result(9))
    second.flush()
    first.close()
    assert len(list(first.directory.glob("part-*.parquet"))) == 2
    assert list(open_store(tmp_path).get(["f0", "s", "f2"])) == [result(0), result(9), result(2)]


def test_a_part_that_another_job_merged_away_is_found_again(tmp_path):
    writer = open_store(tmp_path)
    for number in range(2):
        writer.add(f"k{number}", result(number))
        writer.flush()
    reader = open_store(tmp_path)
    writer.close()
    assert list(reader.get(["k1", "k0"])) == [result(1), result(0)]


def test_an_error_saves_what_was_pending(tmp_path):
    def fail_after_one():
        with open_store(tmp_path) as store:
            store.add("a", result(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_one()
    assert "a" in open_store(tmp_path)


def test_a_failing_file_system_is_no_damage(tmp_path, monkeypatch):
    """EIO or ESTALE must stop the job, not set a healthy part aside."""
    store = open_store(tmp_path)
    store.add("a", result(1))
    store.close()

    def fail(*_args, **_options):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "read_table", fail)
        with pytest.raises(OSError, match="Stale file handle"):
            open_store(tmp_path)
    assert "a" in open_store(tmp_path)


def test_other_settings_see_nothing(tmp_path):
    store = open_store(tmp_path)
    store.add("a", result(1))
    store.close()
    assert "a" not in open_store(tmp_path, {**SETTINGS, "length": 4})


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"", lambda b: b[:40] + b"\xff" * 40 + b[80:]])
def test_a_damaged_part_is_set_aside_and_its_samples_are_missing(tmp_path, damage):
    store = open_store(tmp_path)
    for number in range(50):
        store.add(f"key number {number}", result(number))
    store.close()
    (part,) = store.directory.glob("part-*.parquet")
    part.write_bytes(damage(part.read_bytes()))
    assert "key number 1" not in open_store(tmp_path)
    assert [path.suffix for path in store.directory.glob("part-*")] == [".damaged"]


def test_a_flipped_bit_in_a_result_is_noticed(tmp_path):
    store = open_store(tmp_path)
    for number in range(50):
        store.add(f"key {number}", result(number))
    store.close()
    (part,) = store.directory.glob("part-*.parquet")
    content = bytearray(part.read_bytes())
    column = pq.ParquetFile(part).metadata.row_group(0).column(1)
    content[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 1
    part.write_bytes(content)
    reader = open_store(tmp_path)
    with pytest.raises(ScoreError, match="computes only its samples again"):
        list(reader.get(["key 7"]))
    assert "key 7" not in open_store(tmp_path)


def test_a_half_written_part_is_no_part(tmp_path):
    store = open_store(tmp_path)
    (store.directory / ".part-x.parquet.99.tmp").write_bytes(b"PAR1 half")
    assert "a" not in open_store(tmp_path)
