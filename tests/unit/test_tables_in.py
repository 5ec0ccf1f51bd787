"""Raw rows in every file format: the same samples from each, and what is wrong with a table."""

import csv
import datetime
import decimal
import gzip
import json
import random

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from gateau.data.columns import Columns
from gateau.data.intake import Intake
from gateau.data.readers import Rejection, read_records
from gateau.data.samples import LONG_ROWS, long_intake
from gateau.errors import DataError
from gateau.planted import planted_rows
from gateau.raw_files import expanded

from helpers import row, write_jsonl

OWN = {"context": "document", "instruction": "ask", "response": "reply", "id": "key", "dataset": "kind", "length": "n"}


@pytest.fixture(scope="module")
def rows():
    counts = {"far": 20, "near": 20}
    found = list(planted_rows(counts, seed=1))
    found[3]["messages"][0]["content"] = 'with "quotes", commas\r\nand\n\na blank line\n\n\nan é 世界 \u2028 question'
    for one in found[1::2]:
        one["id"] = None  # it is derived from the content, whatever the columns
    return found


def explicit(one):
    """A row's parts in columns of other names, split by a plain rule of this test."""
    context, _, instruction = one["messages"][0]["content"].rpartition("\n\n")
    response = one["messages"][1]["content"]
    return dict(
        zip(OWN.values(), (context, instruction, response, one["id"], one["dataset"], one["length"]), strict=True)
    )


def as_text(one):
    return {**one, "messages": json.dumps(one["messages"])}


def as_lists(one):
    """Messages as the library datasets stores a sequence of objects."""
    return {**one, "messages": {name: [entry[name] for entry in one["messages"]] for name in ("role", "content")}}


def write_csv(path, rows, opened=open):
    with opened(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_stream(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)


FORMATS = {
    "array.json": lambda path, rows: path.write_text(json.dumps(rows)),
    "a.jsonl.gz": lambda path, rows: path.write_bytes(
        gzip.compress(b"".join(json.dumps(r).encode() + b"\n" for r in rows))
    ),
    "structs.parquet": write_parquet,
    "lists.parquet": lambda path, rows: write_parquet(path, [as_lists(r) for r in rows]),
    "text.parquet": lambda path, rows: write_parquet(path, [as_text(r) for r in rows]),
    "a.feather": lambda path, rows: pa.feather.write_feather(pa.Table.from_pylist(rows), path, chunksize=7),
    "stream.arrow": write_stream,
    "text.csv": lambda path, rows: write_csv(path, [as_text(r) for r in rows]),
    "text.csv.gz": lambda path, rows: write_csv(path, [as_text(r) for r in rows], gzip.open),
}
OWN_FORMATS = {"own.jsonl": write_jsonl, "own.parquet": write_parquet, "own.csv": write_csv}


def samples(path, columns=None):
    intake = Intake(LONG_ROWS, columns=Columns(columns or {}))
    outcomes = list(intake.read_files([str(path)]))
    return [{**one, "file": None} if isinstance(one, dict) else one for one in outcomes]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_samples(rows, name, tmp_path):
    expected = samples(write_jsonl(tmp_path / "plain.jsonl", rows))
    FORMATS[name](tmp_path / name, rows)
    found = samples(tmp_path / name)
    assert [one.pop("line") for one in expected] == list(range(1, 41))
    lines = [one.pop("line") for one in found]
    assert lines == list(range(1, 41)) or (".csv" in name and lines == sorted(set(lines)) and lines[0] == 2)
    assert found == expected


@pytest.mark.parametrize("name", OWN_FORMATS)
def test_system_and_history_are_read_from_every_format(name, tmp_path):
    value = {"instruction": "q", "output": "a", "system": "s", "history": [["q1", "a1"]]}
    cells = {**value, "history": json.dumps(value["history"])} if name == "own.csv" else value
    OWN_FORMATS[name](tmp_path / name, [cells])
    (sample,) = samples(tmp_path / name)
    assert (sample["context"], sample["instruction"]) == ("s\n\nq1\n\na1", "q")


@pytest.mark.parametrize("name", OWN_FORMATS)
def test_columns_of_other_names_give_the_same_samples(rows, name, tmp_path):
    expected = samples(write_jsonl(tmp_path / "plain.jsonl", rows))
    OWN_FORMATS[name](tmp_path / name, [{**explicit(one), "response": "not this", "extra": 1.5} for one in rows])
    found = samples(tmp_path / name, OWN)
    for one in expected + found:
        one.pop("line")
    assert found == expected


@pytest.mark.parametrize("name", ["array.json", "text.csv"])
def test_a_row_of_100_megabytes(name, tmp_path):
    big = row("falcon " * 15_000_000 + "\n\nq", id="big")
    FORMATS[name](tmp_path / name, [big, row("a\n\nq", id="small")])
    found, small = samples(tmp_path / name)
    assert (found["id"], len(found["context"]), small["context"]) == ("big", 7 * 15_000_000, "a")


def test_null_values_inside_messages_are_absent(tmp_path):
    one, other = row("a\n\nq"), row("b\n\nq")
    one["messages"][0]["weight"] = 0.5
    write_parquet(tmp_path / "a.parquet", [one, other])
    assert [json.loads(sample["messages"]) for sample in samples(tmp_path / "a.parquet")] == [
        one["messages"], other["messages"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.datetime(2023, 4, 9, 0, 2, 53, tzinfo=datetime.UTC), "2023-04-09 00:02:53+00:00"),
        (datetime.date(2023, 4, 9), "2023-04-09"),
        (decimal.Decimal("0.50"), "0.50"),
        (b"x", "b'x'"),
    ],
)
def test_further_values_of_messages_that_json_does_not_know_become_texts(tmp_path, value, text):
    one = row("a\n\nq")
    one["messages"][0]["further"] = value
    write_parquet(tmp_path / "a.parquet", [one])
    (sample,) = samples(tmp_path / "a.parquet")
    one["messages"][0]["further"] = text
    write_jsonl(tmp_path / "a.jsonl", [one])
    assert samples(tmp_path / "a.jsonl") == [sample]
    assert json.loads(sample["messages"]) == one["messages"]


def test_numbers_and_duplicates_as_ids(tmp_path):
    table = pa.table({"id": [1.0, None, 1.0, 2.5], "context": list("abcd"), "question": ["q"] * 4, "answer": ["r"] * 4})
    pq.write_table(table, tmp_path / "a.parquet")
    first, second, third, fourth = samples(tmp_path / "a.parquet")
    assert first["id"] == "1"
    assert second["id"].startswith("sha256-")
    assert third.reason == "duplicate_id"
    assert fourth["id"].startswith("sha256-")


def test_whole_numbers_of_pandas_are_lengths(tmp_path):
    table = pa.table({"question": list("abc"), "answer": list("rst"), "length": [7.0, None, 7.5]})
    pq.write_table(table, tmp_path / "a.parquet")
    pa.csv.write_csv(table, tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("question,answer,length\na,r,7.0\nb,s,\nc,t,7.5\n")
    for name in ("a.parquet", "a.csv", "b.csv"):
        assert [one["length"] for one in samples(tmp_path / name)] == [7, None, None]


def reasons(path, **options):
    intake = long_intake(options)
    return [one.reason if isinstance(one, Rejection) else "kept" for one in intake.read_files([str(path)])]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"messages": [5, 6]}, ["empty_messages"] * 2),
        ({"messages": ["not JSON", None]}, ["empty_messages", "missing_fields"]),
        ({"instruction": ["a\n\nb", "q"], "response": [1, 2]}, ["content_not_text"] * 2),
        ({"instruction": ["a\n\nb", None], "response": ["r", None]}, ["kept", "missing_fields"]),
        ({"messages": [None, None], "question": ["q", None], "answer": ["r", None]}, ["kept", "missing_fields"]),
    ],
)
def test_rows_of_the_wrong_type_and_null_rows_are_rejected(tmp_path, table, expected):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert reasons(tmp_path / "a.parquet") == expected


def test_a_table_without_known_columns_says_which_mapping_to_write(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"doc": ["d"], "ask": ["q"], "said": ["r"], "n": [1]}), path)
    with pytest.raises(DataError) as error:
        samples(path)
    assert "its columns make no row: doc: string, ask: string, said: string, n: int64" in str(error.value)
    assert "data.columns: {context: doc, instruction: ask, response: said}" in str(error.value)
    assert samples(path, {"context": "doc", "instruction": "ask", "response": "said"})[0]["context"] == "d"
    with pytest.raises(DataError, match=r"has no column say, which is the response by data\.columns; it has doc"):
        samples(path, {"context": "doc", "instruction": "ask", "response": "say"})
    pq.write_table(pa.table({"chat": [[{"role": "user", "content": "q"}]]}), path)
    with pytest.raises(DataError, match=r"data\.columns: \{messages: chat\}"):
        samples(path)


@pytest.mark.parametrize(
    ("name", "damage"),  # a stream is neither compressed nor summed, so damaged bytes in its middle are other texts
    [("structs.parquet", "cut"), ("structs.parquet", "middle"), ("a.feather", "cut"), ("a.feather", "middle"),
     ("stream.arrow", "cut")],
)  # fmt: skip
def test_a_damaged_table(rows, name, damage, tmp_path):
    path = tmp_path / name
    FORMATS[name](path, rows)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 3 : len(content) // 3 + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read after row \d+ .*fetch or write the file again"):
        samples(path)


def test_a_table_that_is_compressed_as_a_whole(rows, tmp_path):
    write_parquet(tmp_path / "a.parquet", rows)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(DataError, match=r"a table \(parquet\) that is compressed as a whole is not read; decompress"):
        samples(tmp_path / "a.parquet.gz")


@pytest.mark.parametrize("name", ["structs.parquet", "a.feather", "stream.arrow", "text.csv"])
def test_an_empty_table(rows, name, tmp_path):
    if name == "text.csv":
        (tmp_path / name).write_text("messages,id\n\n")
    else:
        table = pa.Table.from_pylist(rows[:1])[:0]
        write = {"structs.parquet": pq.write_table, "a.feather": pa.feather.write_feather}
        if name in write:
            write[name](table, tmp_path / name)
        else:
            with pa.OSFile(str(tmp_path / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema):
                pass
    with pytest.raises(DataError, match="the file is empty; write the rows again"):
        samples(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('question,answer\nq1,r1\n"q2" more,r2\nq3,r3\n', 3),
        ('question,answer\nq1,r1\n"q2,r2\nq3,r3\nq4,r4\n', 3),
    ],
)
def test_csv_with_broken_quotes_stops(tmp_path, text, line):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=f"the quotes are broken in the row that begins at line {line}"):
        samples(tmp_path / "a.csv")


def test_csv_rows_with_too_few_cells_or_broken_characters_are_rejected(tmp_path):
    text = b'\xef\xbb\xbfquestion,answer\r\n"a\r\nb",r\r\nonly one\r\n\r\nq\xff,r\r\nq,r\x00\r\nq,r\r\n'
    (tmp_path / "a.csv").write_bytes(text)
    intake = long_intake({})
    outcomes = list(intake.read_files([str(tmp_path / "a.csv")]))
    assert [getattr(one, "reason", "kept") for one in outcomes] == [
        "kept", "wrong_cells", "invalid_unicode", "nul_byte", "kept",
    ]  # fmt: skip
    assert outcomes[0]["instruction"] == "a\r\nb"
    assert [outcomes[0]["line"], outcomes[1].origin.line, outcomes[2].origin.line, outcomes[4]["line"]] == [2, 4, 6, 8]


def test_a_folder_of_mixed_formats_and_one_file_that_does_not_fit(rows, tmp_path):
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    write_parquet(folder / "a.parquet", rows[:10])
    write_csv(folder / "inner/b.csv", [as_text(one) for one in rows[10:20]])
    write_jsonl(folder / "c.jsonl", rows[20:])
    for name in ("README.md", "dataset_info.json", ".hidden.jsonl", "cache-0123456789abcdef.arrow"):
        (folder / name).write_text("no rows")
    assert [json.loads(one["messages"]) for one in samples(folder)] == [
        one["messages"] for one in [*rows[:10], *rows[20:], *rows[10:20]]
    ]  # a.parquet, c.jsonl, inner/b.csv
    pq.write_table(pa.table({"text": ["other"]}), folder / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet: its columns make no row: text: string"):
        samples(folder)


def test_a_folder_with_links_to_folders(rows, tmp_path):
    """Links are followed, a loop ends, and the files keep the order of their names."""
    folder, disk = tmp_path / "data", tmp_path / "disk"
    for place in (folder, folder / "z", disk / "inner"):
        place.mkdir(parents=True)
    for path in (folder / "m.jsonl", folder / "z/a.jsonl", disk / "inner/b.jsonl"):
        write_jsonl(path, rows[:1])
    (folder / "a").symlink_to(disk)
    (folder / "z/up").symlink_to(folder)
    (folder / "z/itself").symlink_to("itself")
    (disk / "inner/again").symlink_to(disk)
    expected = [f"{folder}/{name}" for name in ("a/inner/b.jsonl", "m.jsonl", "z/a.jsonl")]
    assert expanded([str(folder)], "data.long") == expected


def test_globs(rows, tmp_path):
    for name in ("b", "a"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows[:1])
    (tmp_path / "c.jsonl").mkdir()
    assert expanded([f"{tmp_path}/[ab].jsonl"], "data.long") == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    for glob, complaint in (("*.jsonl", "matches the folder"), ("*.parquet", "matches no file")):
        with pytest.raises(DataError, match=complaint):
            expanded([f"{tmp_path}/{glob}"], "data.long")
    with pytest.raises(DataError, match="the folder has no data files"):
        expanded([f"{tmp_path}/c.jsonl"], "data.long")


def test_one_row_group_is_in_memory(tmp_path):
    """Four times as many row groups take no more of Arrow's memory."""

    def peak(n_groups):
        path = tmp_path / f"{n_groups}.parquet"
        draw = random.Random(0)
        with pq.ParquetWriter(path, pa.schema([("question", pa.string()), ("answer", pa.string())])) as writer:
            for group in range(n_groups):
                answers = [f"{group} {n}" for n in range(20)]
                questions = [draw.randbytes(50_000).hex() for _ in answers]
                writer.write_table(pa.table({"question": questions, "answer": answers}))
        highest = 0
        for _ in read_records([str(path)]):
            highest = max(highest, pa.total_allocated_bytes())
        return highest

    assert peak(8) < 1.2 * peak(2)
