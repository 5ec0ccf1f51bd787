"""Files and folders that are whole or absent, and JSONL with errors that say where."""

import pytest

from gateau.errors import DataError
from gateau.files import new_folder, read_json, read_jsonl, write_jsonl


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path):
    for content in ("first", "second"):
        with new_folder(tmp_path / "out") as folder:
            (folder / f"{content}.txt").write_text(content)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second.txt"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as folder:
        (folder / "b").write_text(str(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/a").read_text() == "old"


def test_rows_end_at_line_feeds_only(tmp_path):
    rows = [{"text": "one\u2028two\x85three\r\n"}, {"text": "段落"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert [row for _, row in read_jsonl(tmp_path / "rows.jsonl")] == rows
    write_jsonl(tmp_path / "ascii.jsonl", rows, ascii_only=True)
    assert (tmp_path / "ascii.jsonl").read_bytes().isascii()
    assert [row for _, row in read_jsonl(tmp_path / "ascii.jsonl")] == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n\n{"b"', "line 3: not JSON"),
        (b'{"a": 1}\n[1]\n', "line 2: not a JSON object"),
        (b'{"a": "\xff"}\n', "line 1: not JSON in UTF-8"),
        (b"\n \n", "no rows"),
    ],
)
def test_a_broken_row_is_named(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_jsonl(path))


def test_a_missing_file_is_named(tmp_path):
    for read in (read_json, lambda path: list(read_jsonl(path))):
        with pytest.raises(DataError, match=r"absent\.json: no such file"):
            read(tmp_path / "absent.json")
