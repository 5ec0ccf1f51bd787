"""From rows to chats: both formats, validation, ids and duplicates."""

import gzip
import json

import pytest

from gateau.data.chats import CHAT_ROWS, short_intake
from gateau.data.intake import Intake
from gateau.data.readers import Origin, Record, Rejection
from gateau.planted import planted_chats
from gateau.schemas import CHATS
from gateau.tables import open_table, read_rows

from helpers import run_script, write_jsonl


def read(*rows, **options):
    intake = Intake(CHAT_ROWS, **options)
    records = (Record(Origin("f.jsonl", n), value) for n, value in enumerate(rows, start=1))
    return list(intake.read(records)), intake


def one(value):
    return read(value)[0][0]


def messages(value):
    return json.loads(one(value)["messages"])


def spoken(*entries, **fields):
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in entries], **fields}


def written(*entries, **fields):
    return {"messages": [{"role": role, "content": text} for role, text in entries], **fields}


def chat(question="q", answer="a", **fields):
    return spoken(("human", question), ("gpt", answer), **fields)


def test_a_sharegpt_row_keeps_role_and_content_only():
    entries = [("system", "Be brief."), ("human", "Hi\n\nthere"), ("gpt", "Hello 世界 🙂")]
    value = spoken(*entries, id="QWJhYvA_0", dataset="sharegpt", model="GPT-4")
    value["conversations"][2].update(markdown=None, weight=0)
    row = one(value)
    assert {name: row[name] for name in ("id", "file", "line", "dataset")} == {
        "id": "QWJhYvA_0", "file": "f.jsonl", "line": 1, "dataset": "sharegpt",
    }  # fmt: skip
    assert json.loads(row["messages"]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi\n\nthere"},
        {"role": "assistant", "content": "Hello 世界 🙂"},
    ]
    assert "世界" in row["messages"]


@pytest.mark.parametrize(
    ("speaker", "role"),
    [("human", "user"), ("user", "user"), ("system", "system")]
    + [(name, "assistant") for name in ("gpt", "chatgpt", "assistant", "bard", "bing")],
)
def test_speakers_become_roles(speaker, role):
    value = spoken((speaker, "x"), ("human", "q"), ("gpt", "a"))
    assert messages(value)[0] == {"role": role, "content": "x"}


def test_entries_of_conversations_may_have_role_and_content():
    value = {"conversations": [{"role": "user", "content": "q"}, {"role": "gpt", "content": "a", "name": "n"}]}
    assert messages(value) == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def test_messages_stay_untouched():
    value = written(("user", "q"), ("assistant", "a"))
    value["messages"][1]["weight"] = 0.5
    assert messages(value) == value["messages"]


def test_explicit_fields_are_one_turn_and_the_context_may_be_missing():
    expected = [{"role": "user", "content": "text\n\ndo it"}, {"role": "assistant", "content": "done"}]
    assert messages({"instruction": "do it", "input": "text", "output": "done"}) == expected
    assert messages({"instruction": "do it", "context": "text", "output": "done"}) == expected
    expected[0]["content"] = "do it"
    assert messages({"instruction": "do it", "input": "", "output": "done"}) == expected
    assert messages({"instruction": "do it", "output": "done"}) == expected


def test_system_and_history_beside_fields_are_earlier_messages():
    value = {"instruction": "q", "output": "a", "system": "s", "history": [["q1", "a1"]]}
    spoken_first = [("system", "s"), ("user", "q1"), ("assistant", "a1")]
    assert messages(value) == written(*spoken_first, ("user", "q"), ("assistant", "a"))["messages"]


@pytest.mark.parametrize(
    "entries",
    [
        [("gpt", "I start"), ("human", "q"), ("gpt", "a")],
        [("human", "q"), ("human", "more"), ("gpt", "a")],
        [("human", "q"), ("gpt", "a"), ("human", "odd")],
        [("human", ""), ("gpt", "a"), ("human", "q"), ("gpt", "")],
    ],
)
def test_order_and_completeness_of_turns_are_not_judged_here(entries):
    assert [message["content"] for message in messages(spoken(*entries))] == [text for _, text in entries]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("text", "not_an_object"),
        ({"id": "x"}, "missing_fields"),
        ({"instruction": "q"}, "missing_fields"),
        ({"instruction": "q", "output": ["a"]}, "content_not_text"),
        ({"instruction": "q", "output": " "}, "empty_response"),
        ({"instruction": "", "output": "a"}, "empty_user"),
        (spoken(), "empty_messages"),
        ({"conversations": None}, "missing_fields"),
        ({"conversations": {"from": "human"}}, "empty_messages"),
        (written(), "empty_messages"),
        ({"conversations": ["text"]}, "bad_message"),
        (spoken(("function", "x"), ("gpt", "a")), "bad_role"),
        (spoken((["human"], "x"), ("gpt", "a")), "bad_role"),
        ({"conversations": [{"value": "nobody says this"}]}, "bad_role"),
        (written(("Human", "q"), ("gpt", "a")), "bad_role"),
        (chat(answer=None), "content_not_text"),
        ({"conversations": [{"from": "human"}]}, "content_not_text"),
        (chat("a\0b"), "nul_byte"),
        (chat(answer="a\ud800b"), "invalid_unicode"),
        (chat(dataset="\ud800"), "invalid_unicode"),
        (spoken(("gpt", "a")), "no_user"),
        (spoken(("system", "s")), "no_user"),
        (chat(" \n"), "empty_user"),
        (spoken(("human", "q"), ("human", "more")), "no_response"),
        (chat(answer=" \n"), "empty_response"),
    ],
)
def test_bad_rows_are_rejected_with_reason_and_advice(value, reason):
    outcome = one(value)
    assert isinstance(outcome, Rejection)
    assert outcome.reason == reason
    assert outcome.advice


def test_an_unknown_speaker_is_named():
    advice = one(spoken(("human", "q"), ("observation", "x"))).advice
    assert "message 2 has role 'observation'" in advice
    assert "gpt" in advice


def test_one_content_is_a_duplicate_in_whatever_form_it_comes():
    rows = [
        chat("q", "a", id="1"),
        written(("user", "q"), ("assistant", "a"), id="2"),
        {"instruction": "q", "output": "a", "id": "3"},
        chat("other", "a", id="1"),
        written(("system", "q"), ("user", "q"), ("assistant", "a"), id="4"),
    ]
    rows[1]["messages"][0]["weight"] = 1
    outcomes, intake = read(*rows)
    assert [getattr(outcome, "reason", "kept") for outcome in outcomes] == [
        "kept", "duplicate_content", "duplicate_content", "duplicate_id", "kept",
    ]  # fmt: skip
    assert "f.jsonl line 1" in outcomes[1].advice
    assert intake.summary() == {
        "rows": 5, "chats": 2, "rejected": 3, "rejected_by_reason": {"duplicate_content": 2, "duplicate_id": 1},
        "duplicate_content": 2, "ids_derived_from_content": 0, "datasets": {"(none)": 2},
    }  # fmt: skip


def test_the_digest_tells_roles_and_boundaries_apart():
    rows = [
        written(("user", "a"), ("assistant", "b"), ("user", "c")),
        written(("user", "a"), ("assistant", "b"), ("assistant", "c")),
        written(("user", "ab"), ("assistant", ""), ("assistant", "c")),
    ]
    assert len({row["digest"] for row in read(*rows)[0]}) == 3


def test_missing_ids_come_from_the_content_and_kept_duplicates_get_ids_of_their_own():
    (first, other), intake = read(chat(), chat("other"))
    assert intake.n_without_id == 2
    assert first["id"] != other["id"] == one(chat("other", dataset="d"))["id"]
    outcomes, intake = read(chat(), chat(), chat(), keep_duplicate_content=True)
    assert [outcome["id"] for outcome in outcomes] == [first["id"], f"{first['id']}-2", f"{first['id']}-3"]
    assert intake.n_duplicate_content == 2


def test_chats_have_own_names_of_columns_too():
    intake = short_intake({"columns": {"conversations": "talk"}})
    named = {"talk": chat()["conversations"], "messages": "not read"}
    kept, absent = intake.read([Record(Origin("f", 1), named), Record(Origin("f", 2), chat())])
    assert json.loads(kept["messages"]) == messages(chat())
    assert absent.advice == "the row has no talk, which is the conversations by data.short_columns"


def run_chats(path, out, *extra):
    outputs = ("--chats", out / "chats.parquet", "--rejects", out / "r.jsonl", "--summary", out / "summary.json")
    return run_script("chats", "--input", path, *outputs, *extra)


def as_jsonl(path, rows):
    write_jsonl(path, rows)


def as_gzip(path, rows):
    path.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))


def as_array(path, rows):
    path.write_text(json.dumps(rows, indent=1))


@pytest.mark.parametrize("write", [as_jsonl, as_gzip, as_array])
def test_script_writes_chats_rejects_and_summary(tmp_path, write):
    path = tmp_path / "in"
    write(path, [chat(id="x", dataset="d"), spoken(("human", "q"), id="y"), chat("w")])
    result = run_chats(path, tmp_path)
    assert result.returncode == 0, result.stderr
    rows = read_rows(tmp_path / "chats.parquet", CHATS)
    assert [(row["file"], row["line"], row["dataset"]) for row in rows] == [(str(path), 1, "d"), (str(path), 3, None)]
    (reject,) = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert (reject["file"], reject["line"], reject["id"], reject["reason"]) == (str(path), 2, "y", "no_response")
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "files": [str(path)], "rows": 3, "chats": 2, "rejected": 1, "rejected_by_reason": {"no_response": 1},
        "duplicate_content": 0, "ids_derived_from_content": 1, "datasets": {"(none)": 1, "d": 1},
    }  # fmt: skip


def test_script_writes_row_groups_of_many_chats(tmp_path):
    result = run_chats(write_jsonl(tmp_path / "in.jsonl", planted_chats(1100, seed=0)), tmp_path)
    assert result.returncode == 0, result.stderr
    with open_table(tmp_path / "chats.parquet", CHATS) as table:
        assert [table.metadata.row_group(n).num_rows for n in range(table.num_row_groups)] == [1024, 76]


def test_script_keeps_duplicate_content_on_demand(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", [chat(id="1"), chat(id="2")])
    assert run_chats(path, tmp_path, "--duplicate-content", "keep").returncode == 0
    assert len(read_rows(tmp_path / "chats.parquet", CHATS)) == 2


def test_script_refuses_data_that_is_mostly_broken_and_names_the_setting(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", [chat(), spoken(), "y"])
    result = run_chats(path, tmp_path)
    assert result.returncode == 1
    assert "line 2: empty_messages" in result.stderr
    assert "2 of 3 rows are unusable" in result.stderr
    assert "correct the rows of data.short" in result.stderr
    assert "Traceback" not in result.stderr
    assert run_chats(path, tmp_path, "--max-rejected-share", 0.7).returncode == 0


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("in.jsonl", "correct the rows of data.short"), ("absent.jsonl", "no such file; set data.short")],
)
def test_script_refuses_data_without_any_chat(tmp_path, name, complaint):
    write_jsonl(tmp_path / "in.jsonl", [spoken()])
    result = run_chats(tmp_path / name, tmp_path, "--max-rejected-share", 1)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
