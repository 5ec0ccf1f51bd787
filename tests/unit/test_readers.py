"""Reading raw files: every format, and every way in which a file can be broken."""

import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gateau.data.readers import Record, Rejection, _WithoutByteOrderMark, read_records
from gateau.errors import DataError

from helpers import row, write_jsonl

ROWS = [row(f"context {n}\n\nquestion {n}", id=f"r{n}") for n in range(5)]


def values(path):
    return [record.value for record in read_records([str(path)])]


def test_jsonl(tmp_path):
    assert values(write_jsonl(tmp_path / "a.jsonl", ROWS)) == ROWS


@pytest.mark.parametrize("members", [1, 3])
def test_gzip_also_of_several_members(tmp_path, members):
    path = tmp_path / "a.jsonl.gz"
    lines = [json.dumps(r).encode() + b"\n" for r in ROWS]
    path.write_bytes(b"".join(gzip.compress(b"".join(lines[n::members])) for n in range(members)))
    assert sorted(r["id"] for r in values(path)) == [r["id"] for r in ROWS]


def test_zstd_is_recognised_by_content(tmp_path):
    path = tmp_path / "no_extension"
    with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as out:
        out.write(b"".join(json.dumps(r).encode() + b"\n" for r in ROWS))
    assert values(path) == ROWS


def test_json_array(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\n  " + json.dumps(ROWS, indent=1))
    records = list(read_records([str(path)]))
    assert [r.value for r in records] == ROWS
    assert [r.origin.line for r in records] == [1, 2, 3, 4, 5]


def test_a_long_text_of_a_json_array_is_not_scanned_again_and_again(tmp_path, monkeypatch):
    """An element is parsed from its start with every block, so that blocks must be large."""
    text, blocks = "word " * 4_000_000, []
    read = _WithoutByteOrderMark.read
    monkeypatch.setattr(_WithoutByteOrderMark, "read", lambda *given: blocks.append(given) or read(*given))
    (tmp_path / "a.json").write_text(json.dumps([text]))
    assert values(tmp_path / "a.json") == [text]
    assert len(blocks) < 12


ARRAY = [
    *({"text": text, "n": number, "nested": [[], {}, [None, True, False, -1.5e-7]]} for text, number in [
        ("a\ud800b", 1), ("\udc00\ud800", 2**80), ("\U0001f642 é \\u0041 \\ \" /", -(2**64)), ("", 1e300),
        ("x" * 99, 0),
    ]),
    12345, -0.25, "text", None, [1, [2]], float("inf"), {"é": {}},
]  # fmt: skip


@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("block", [1, 2, 7, 1 << 22])
def test_an_array_is_read_as_lines_are_however_it_is_cut_into_blocks(tmp_path, monkeypatch, block, is_ascii):
    monkeypatch.setattr("gateau.data.arrays._BLOCK", block)
    path = tmp_path / "a.json"
    lines = [json.dumps(one, ensure_ascii=is_ascii or "ud800" in json.dumps(one)) for one in ARRAY]
    path.write_text(" [ " + " ,\n".join(lines) + "\r\n ] \n", encoding="utf-8")
    assert values(path) == ARRAY == values(write_jsonl(tmp_path / "a.jsonl", lines))


def test_a_number_of_thousands_of_digits_only_loses_its_element(tmp_path, monkeypatch):
    monkeypatch.setattr("gateau.data.arrays._BLOCK", 64)
    path = tmp_path / "a.json"
    path.write_text(f'[{{"n": {"9" * 5000}}}, {json.dumps(ROWS[0])}]')
    first, second = read_records([str(path)])
    assert (first.reason, first.origin.line) == ("not_json", 1)
    assert "plain JSON object" in first.advice
    assert (second.value, second.origin.line) == (ROWS[0], 2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1, 2", "after element 2 .'the end' instead of , or ]"),
        ("[1, 2}", "after element 2 .'}' instead of , or ]"),
        ("[1, ]", "after element 1 .Expecting value"),
        ('[1, {"a": tru}, 3]', "after element 1 .Expecting value"),
        ("[1] [2]", r"after element 1 .'\[' follows the array"),
        (f"[1, {'[' * 200_000}", "after element 1 .maximum recursion"),
        ('[1, "\xff"]', "after element 1 .'utf-8' codec can't decode"),
    ],
)
def test_a_broken_array_stops_after_the_elements_before(tmp_path, text, complaint):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=complaint):
        values(path)


def test_several_files_in_order(tmp_path):
    first, second = write_jsonl(tmp_path / "1.jsonl", ROWS[:2]), write_jsonl(tmp_path / "2.jsonl", ROWS[2:])
    assert [r.value["id"] for r in read_records([str(second), str(first)])] == ["r2", "r3", "r4", "r0", "r1"]


def test_byte_order_mark_and_blank_lines_are_ignored(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\r\n\n  \n" + json.dumps(ROWS[1]).encode())
    assert values(path) == ROWS[:2]


def test_line_separators_inside_a_string_do_not_split_the_row(tmp_path):
    odd = row("a\u2028b\u0085c\x0cd\n\nq")
    assert values(write_jsonl(tmp_path / "a.jsonl", [json.dumps(odd, ensure_ascii=False)])) == [odd]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"this is not JSON", "not_json"),
        (b'{"messages": [\xff\xfe]}', "invalid_utf8"),
        (b'{"a": "\x00"}', "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not_json"),
    ],
)
def test_a_broken_line_is_rejected_at_its_place_and_the_rest_is_read(tmp_path, line, reason):
    path = write_jsonl(tmp_path / "a.jsonl", [ROWS[0], line, ROWS[1]])
    outcomes = list(read_records([str(path)]))
    assert [type(outcome) for outcome in outcomes] == [Record, Rejection, Record]
    assert (outcomes[1].reason, outcomes[1].origin.line) == (reason, 2)
    assert outcomes[1].advice


def test_truncated_last_line_is_told_from_broken_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1])[:40])
    outcomes = list(read_records([str(path)]))
    assert outcomes[1].reason == "truncated_line"
    assert "fetch the file again" in outcomes[1].advice


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]"])
def test_empty_file(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="empty"):
        values(path)


def test_an_empty_file_among_others_is_left_out_with_a_warning(tmp_path, caplog):
    full = write_jsonl(tmp_path / "b.jsonl", ROWS)
    for name, content in (("a.json", "[]"), ("c.csv", "question,answer\n"), ("d.jsonl", "")):
        (tmp_path / name).write_text(content)
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"]})[:0], tmp_path / "e")
    names = [str(tmp_path / name) for name in ("a.json", "b.jsonl", "c.csv", "d.jsonl", "e")]
    assert [record.value for record in read_records(names)] == ROWS
    assert [f"{name}: the file is empty and is left out" in caplog.text for name in names] == [
        name != str(full) for name in names
    ]
    names.remove(str(full))
    with pytest.raises(DataError, match=r"data\.long: all 4 files are empty; .*, or set data\.long to files"):
        list(read_records(names))


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file; set data\.short"):
        list(read_records([str(tmp_path / "absent.jsonl")], "data.short"))


def test_json_array_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    assert values(path) == ROWS


@pytest.mark.parametrize("damage", ["cut", "middle"])
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_damaged_archive(tmp_path, kind, damage):
    path = tmp_path / "a"
    plain = b"".join(json.dumps(row("x" * 1000 + str(n) + "\n\nq")).encode() + b"\n" for n in range(2000))
    if kind == "gzip":
        path.write_bytes(gzip.compress(plain))
    else:
        with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as out:
            out.write(plain)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-50:]
    else:
        content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match="download the file again"):
        values(path)


def test_json_array_that_breaks_off(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS)[:-30])
    with pytest.raises(DataError, match="after element 4"):
        values(path)


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(n_rows):
        path = write_jsonl(tmp_path / f"{n_rows}.jsonl", (row("word " * 40_000 + "\n\nq") for _ in range(n_rows)))
        tracemalloc.start()
        for _ in read_records([str(path)]):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(60) < 1.3 * peak(15)
