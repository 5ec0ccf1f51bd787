"""The progress store: nothing finished is lost, nothing damaged is believed."""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gateau.errors import ScoreError
from gateau.schemas import LONG_RESULT, SEGMENT_RESULT
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


def test_of_a_merged_part_only_the_rows_around_a_key_are_read(tmp_path, monkeypatch):
    with open_store(tmp_path) as store:
        for number in range(60):
            store.add(f"k{number}", result(number))
            if number % 7 == 0:
                store.flush()
    read, original = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq, "read_table", None)
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *given: read.append(original(*given).num_rows) or original(*given)
    )
    again = open_store(tmp_path)
    assert len(list(again.directory.glob("part-*.parquet"))) == 1
    numbers = [59, 0, 7, 8, 1, 33, 34, 58]
    assert list(again.get([f"k{number}" for number in numbers])) == [result(number) for number in numbers]
    assert 0 < sum(read) < 60


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
    deadline = time.monotonic() + 30
    while "a" not in open_store(tmp_path):  # a thread writes it
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_write_that_fails_beside_the_work_ends_the_job(tmp_path, monkeypatch):
    """At most one part later, and with the file system's own error; what comes after is still written."""
    store = ProgressStore(tmp_path, "segment_pass", SETTINGS, SEGMENT_RESULT, flush_seconds=0)

    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", fail)
        store.add("a", result(1))
        with pytest.raises(OSError, match="No space left on device"):
            store.add("b", result(2))
    store.close()
    assert ("a" in open_store(tmp_path), "b" in open_store(tmp_path)) == (False, True)


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
        patch.setattr(pq, "ParquetFile", fail)
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


# The columns of the long pass before attention was stored in blocks, and others that a version may have had.
EARLIER = {
    "without the peaks": LONG_RESULT.remove(LONG_RESULT.get_field_index("attention_peak")),
    "with other types": LONG_RESULT.set(1, pa.field("attention", pa.list_(pa.float32()))),
    "with a further column": LONG_RESULT.append(pa.field("entropy", pa.float64())),
}


@pytest.mark.parametrize("schema", EARLIER.values(), ids=EARLIER.keys())
def test_a_part_with_columns_of_another_version_is_named_and_not_read(tmp_path, caplog, schema):
    values = {field.name: [0.5, 0.25] if pa.types.is_list(field.type) else 1 for field in [*LONG_RESULT, *schema]}
    earlier = ProgressStore(tmp_path, "long_pass", SETTINGS, schema)
    earlier.add("a", {name: values[name] for name in schema.names})
    earlier.close()
    (part,) = earlier.directory.glob("part-*")
    store = ProgressStore(tmp_path, "long_pass", SETTINGS, LONG_RESULT)
    assert "a" not in store
    assert f"{part} has other columns, of another version; its samples are computed again" in caplog.text
    store.add("a", now := {name: values[name] for name in LONG_RESULT.names})
    store.close()
    assert list(ProgressStore(tmp_path, "long_pass", SETTINGS, LONG_RESULT).get(["a"])) == [now]
    assert list(ProgressStore(tmp_path, "long_pass", SETTINGS, schema).get(["a"])), "the earlier version finds its own"


def test_a_new_store_tells_how_those_beside_it_differ(tmp_path, caplog):
    """An earlier version lacks keys, such as attention_block, and has another digest of the code."""
    caplog.set_level("INFO")
    earlier = open_store(tmp_path, {"model": "m", "length": 4, "code": "earlier"})
    store = open_store(tmp_path, {"model": "m", "length": 4, "code": "now", "attention_block": 16})
    assert f"{earlier.directory} is not used: it differs in attention_block, code" in caplog.text
    caplog.clear()
    open_store(tmp_path, {"model": "m", "length": 4, "code": "now", "attention_block": 16})
    assert caplog.text == "", store.directory


def test_a_half_written_part_is_no_part(tmp_path):
    store = open_store(tmp_path)
    (store.directory / ".part-x.parquet.99.tmp").write_bytes(b"PAR1 half")
    assert "a" not in open_store(tmp_path)
