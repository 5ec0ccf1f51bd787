"""From rows to samples: splitting, validation, ids and duplicates."""

import itertools
import json
import resource
import signal

import pytest
from transformers import AutoTokenizer

from gateau.boundaries import parted_at_first, parted_at_last
from gateau.data.intake import Intake
from gateau.data.readers import Origin, Record, Rejection
from gateau.data.samples import LONG_ROWS, long_intake
from gateau.errors import DataError
from gateau.schemas import SAMPLES
from gateau.tables import read_rows

from helpers import TINY_PAIR, row, run_script, write_jsonl


def read(*rows, **options):
    intake = Intake(LONG_ROWS, **options)
    records = (Record(Origin("f.jsonl", n), value) for n, value in enumerate(rows, start=1))
    return list(intake.read(records)), intake


def one(value):
    return read(value)[0][0]


def parts(value):
    sample = one(value)
    return sample["context"], sample["instruction"], sample["response"]


def turns(*contents):
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]}


def calling(content, **call):
    """A row whose second message has a call beside its content."""
    value = turns("doc\n\nq", content, "result", "a")
    value["messages"][1] |= call
    value["messages"][2]["role"] = "tool"
    return value


@pytest.mark.parametrize(
    ("user", "context", "instruction"),
    [
        ("doc\n\nquestion", "doc", "question"),
        ("one\n\ntwo\n\nquestion", "one\n\ntwo", "question"),
        ("ends blank\n\n\n\nquestion", "ends blank\n\n", "question"),
        ("odd\n\n\nquestion", "odd\n", "question"),
        ("doc\n\nquestion\n\n", "doc", "question\n\n"),
        ("no blank line", "", "no blank line"),
        ("\n\nquestion", "", "question"),
        ("a ### Response: b\n\nquestion", "a ### Response: b", "question"),
        ("one\r\n\r\ntwo\r\n\r\nquestion\r\nmore", "one\r\n\r\ntwo", "question\r\nmore"),
        ("odd\r\n\r\n\r\nquestion", "odd\r\n", "question"),
        ("mixed\r\n\nquestion", "mixed", "question"),
        ("mixed\n\r\n\nquestion", "mixed\n", "question"),
        ("doc\r\n\r\nquestion\r\n\r\n", "doc", "question\r\n\r\n"),
    ],
)
def test_the_last_blank_line_separates_context_and_instruction(user, context, instruction):
    assert parts(row(user, "answer")) == (context, instruction, "answer")


def test_explicit_fields_and_their_aliases():
    expected = ("long\n\ntext", "do\n\nthis", "done")
    assert parts({"context": expected[0], "instruction": expected[1], "response": expected[2]}) == expected
    assert parts({"input": expected[0], "instruct": expected[1], "output": expected[2]}) == expected
    messages = json.loads(one({"context": "c", "instruction": "i", "response": "r"})["messages"])
    assert messages == [{"role": "user", "content": "c\n\ni"}, {"role": "assistant", "content": "r"}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"prompt": "doc\n\nq", "completion": "a"}, ("doc", "q", "a")),
        ({"question": "q", "answer": "a"}, ("", "q", "a")),
        ({"context": "doc", "question": "q\n\nmore", "answer": "a"}, ("doc", "q\n\nmore", "a")),
        ({"input": "doc\n\nq", "output": "a"}, ("doc", "q", "a")),
        ({"query": "doc\n\nq", "response": "a", "id": None}, ("doc", "q", "a")),
        ({"instruction": "doc\n\nq", "input": "", "output": "a"}, ("doc", "q", "a")),
        ({"instruction": "q", "input": "doc", "output": "a"}, ("doc", "q", "a")),
        ({"context": "doc", "input": "q", "output": "a"}, ("doc", "q", "a")),
        ({"instruction": "q", "context": "", "input": "doc", "output": "a"}, ("doc", "q", "a")),
        ({"instruction": " ", "question": "q", "response": "", "output": "a"}, ("", "q", "a")),
        ({"instruction": "", "input": "doc\n\nq", "output": "a"}, ("doc", "q", "a")),
        ({"instruction": "", "context": "doc", "input": "q", "output": "a"}, ("doc", "q", "a")),
        ({"messages": json.dumps(turns("doc\n\nq", "a")["messages"])}, ("doc", "q", "a")),
        ({"messages": {"role": ["user", "assistant"], "content": ["doc\n\nq", "a"]}}, ("doc", "q", "a")),
        (
            {"prompt": turns("doc\n\nq")["messages"], "completion": [{"role": "assistant", "content": "a"}]},
            ("doc", "q", "a"),
        ),
        (
            {
                "messages": [
                    {"role": "human", "content": [{"type": "text", "text": "doc"}, {"type": "text", "text": "q"}]},
                    {"role": "gpt", "content": "a"},
                ]
            },
            ("doc", "q", "a"),
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": "s"}, {"role": "user", "content": "q1"},
                    {"role": "assistant", "content": "call"}, {"role": "tool", "content": "doc\n\nq"},
                    {"role": "assistant", "content": "a"},
                ]
            },
            ("s\n\nq1\n\ncall\n\ndoc", "q", "a"),
        ),
        ({"messages": None, "question": "q", "answer": "a"}, ("", "q", "a")),
    ],
)  # fmt: skip
def test_other_names_and_forms(value, expected):
    assert parts(value) == expected


def test_own_names_hide_the_known_ones():
    value = {"response": "no", "reply": "a", "question": "doc\n\nq", "messages": [], "id": "no", "key": 7}
    intake = long_intake({"columns": {"response": "reply", "id": "key"}})
    kept, absent = intake.read([Record(Origin("f", 1), value), Record(Origin("f", 2), {**value, "reply": None})])
    assert (kept["id"], kept["context"], kept["instruction"], kept["response"]) == ("7", "doc", "q", "a")
    assert absent.reason == "missing_fields"
    assert "the row has no reply, which is the response by data.columns" in absent.advice


@pytest.mark.parametrize("name", ["in.jsonl", "in.json"])
def test_a_name_of_a_column_that_no_row_has_stops_the_run(tmp_path, name):
    rows = [{"document": "doc", "question": f"q{n}", "answer": "a", **({"key": n} if n == 2 else {})} for n in range(3)]
    (tmp_path / name).write_text(json.dumps(rows) if name == "in.json" else "\n".join(map(json.dumps, rows)))
    complaint = (
        "data.long: no row has documnet, which is the context by data.columns; write one of the names that rows have: "
        "document, question, answer, key"
    )
    options = {"columns": {"context": "documnet"}}
    with pytest.raises(DataError, match=complaint):
        list(long_intake(options).read_files([str(tmp_path / name)]))
    result = run_samples(tmp_path / name, tmp_path, "--options", json.dumps(options))
    assert (result.returncode, complaint in result.stderr) == (1, True)
    intake = long_intake({"columns": {"context": "document", "id": "key"}})
    assert [one["id"] for one in intake.read_files([str(tmp_path / name)])][2:] == ["2"]  # one row is enough


@pytest.mark.parametrize(
    ("split", "user", "context", "instruction"),
    [
        ("first_blank_line", "q\n\ndoc\n\nend", "doc\n\nend", "q"),
        ("first_blank_line", "\n\nq\n\ndoc", "doc", "\n\nq"),
        ("first_blank_line", "q", "", "q"),
        ("first_line", "q\ndoc\n\nend", "doc\n\nend", "q"),
        ("last_line", "doc\n\nend\nq\n", "doc\n\nend", "q\n"),
        ("first_blank_line", "\r\nq\r\n\r\ndoc\n\nend", "doc\n\nend", "\r\nq"),
        ("first_line", "q\r\ndoc\nend", "doc\nend", "q"),
        ("last_line", "doc\r\nend\r\nq", "doc\r\nend", "q"),
        ("none", "doc\n\nq", "", "doc\n\nq"),
        ({"regex": r"(?s)<(?P<context>.*)> (?P<instruction>.*)"}, "see <a\n\nb> what", "a\n\nb", "what"),
        ({"regex": r"(?P<instruction>[^:]*):(?P<context>.+)?"}, "q:", "", "q"),
    ],
)
def test_the_user_turn_is_split_as_asked_for(split, user, context, instruction):
    (sample,) = long_intake({"split": split}).read([Record(Origin("f", 1), row(user, "a"))])
    assert (sample["context"], sample["instruction"]) == (context, instruction)
    (fields,) = long_intake({"split": split}).read([Record(Origin("f", 1), {"prompt": user, "answer": "a"})])
    assert fields["digest"] == sample["digest"]
    assert json.loads(fields["messages"]) == row(user, "a")["messages"]


def test_lines_that_end_with_a_line_feed_are_parted_as_ever():
    for text in map("".join, itertools.product("a\n", repeat=7)):
        for kind, boundary in (("blank_line", "\n\n"), ("line", "\n")):
            assert parted_at_first(text, kind) == text.partition(boundary)
            assert parted_at_last(text, kind) == text.rpartition(boundary)


@pytest.mark.parametrize(
    ("split", "user", "reason"),
    [({"regex": "(?P<context>x)(?P<instruction>y)"}, "doc", "not_split"), ("first_line", " \n ", "empty_instruction"),
     ({"regex": "(?P<context>.*)(?P<instruction>y?)"}, "doc", "empty_instruction")],
)  # fmt: skip
def test_what_cannot_be_split_is_rejected(split, user, reason):
    intake = long_intake({"split": split, "system": "frame"})
    value = row(user, "a")
    value["messages"].insert(0, {"role": "system", "content": "s"})
    (outcome,) = intake.read([Record(Origin("f", 1), value)])
    assert outcome.reason == reason


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("context", ("s\n\nq0\n\na0\n\ndoc", "q")),
        ("frame", ("q0\n\na0\n\ndoc", "s\n\nq")),
        ("drop", ("q0\n\na0\n\ndoc", "q")),
    ],
)
def test_where_a_system_message_goes(system, expected):
    value = turns("q0", "a0", "doc\n\nq", "a")
    value["messages"].insert(0, {"role": "system", "content": "s"})
    (sample,) = long_intake({"system": system}).read([Record(Origin("f", 1), value)])
    assert (sample["context"], sample["instruction"]) == expected
    assert json.loads(sample["messages"]) == value["messages"]


HISTORY = [["q1", "a1"], ["q2", "a2"]]
EARLIER = ("s", "q1", "a1", "q2", "a2")


@pytest.mark.parametrize(
    ("value", "expected", "contents"),
    [
        ({"system_prompt": "s", "question": "doc\n\nq", "response": "a"}, ("s\n\ndoc", "q"), ("s", "doc\n\nq", "a")),
        (
            {"instruction": "q\n\nmore", "input": "doc", "output": "a", "system": "s", "history": HISTORY},
            ("s\n\nq1\n\na1\n\nq2\n\na2\n\ndoc", "q\n\nmore"), (*EARLIER, "doc\n\nq\n\nmore", "a"),
        ),
        (
            {"input": "doc\n\nq", "output": "a", "system": "", "system_prompt": "s", "history": json.dumps(HISTORY)},
            ("s\n\nq1\n\na1\n\nq2\n\na2\n\ndoc", "q"), (*EARLIER, "doc\n\nq", "a"),
        ),
        ({"instruction": "q", "output": "a", "system": " ", "history": ""}, ("", "q"), ("q", "a")),
        (
            {"conversations": [{"from": "human", "value": "doc\n\nq"}, {"from": "gpt", "value": "a"}], "system": "s"},
            ("s\n\ndoc", "q"), ("s", "doc\n\nq", "a"),
        ),
        (
            {"messages": [{"role": "system", "content": "own"}, *turns("q", "a")["messages"]], "system": "s"},
            ("own", "q"), ("own", "q", "a"),
        ),
    ],
)  # fmt: skip
def test_system_and_history_beside_the_texts_come_first(value, expected, contents):
    context, instruction, _ = parts(value)
    assert (context, instruction) == expected
    messages = json.loads(one(value)["messages"])
    assert tuple(message["content"] for message in messages) == contents
    assert ("system" in [message["role"] for message in messages]) == (contents[0] in ("s", "own"))


@pytest.mark.parametrize(("system", "expected"), [("frame", ("doc", "s\n\nq")), ("drop", ("doc", "q"))])
def test_a_system_message_beside_fields_goes_where_it_is_asked_for(system, expected):
    value = {"system": "s", "context": "doc", "question": "q", "answer": "a"}
    (sample,) = long_intake({"system": system}).read([Record(Origin("f", 1), value)])
    assert (sample["context"], sample["instruction"]) == expected
    (empty,) = long_intake({"system": system}).read([Record(Origin("f", 1), {**value, "question": ""})])
    assert empty.reason == "empty_instruction"


def test_a_column_that_holds_a_text_of_another_name_is_not_read_twice():
    value = {"history": "doc", "input": "q", "response": "a"}
    (sample,) = long_intake({"columns": {"context": "history", "instruction": "input"}}).read(
        [Record(Origin("f", 1), value)]
    )
    assert (sample["context"], sample["instruction"]) == ("doc", "q")


def test_of_several_turns_the_last_is_scored_and_all_are_kept():
    value = turns("doc\n\nfirst?", "one", "more\n\nsecond?", "two")
    assert parts(value) == ("doc\n\nfirst?\n\none\n\nmore", "second?", "two")
    assert json.loads(one(value)["messages"]) == value["messages"]


def test_a_system_message_is_context_and_a_trailing_user_turn_is_ignored():
    value = turns("doc\n\nq?", "a", "and now?")
    value["messages"].insert(0, {"role": "system", "content": "Be brief."})
    assert parts(value) == ("Be brief.\n\ndoc", "q?", "a")


def test_conversations_as_sharegpt_writes_them_are_read_too():
    spoken = [("system", "Be brief."), ("human", "doc\n\nq?"), ("gpt", "a"), ("user", "more\n\nq2?"), ("bard", "b")]
    value = {"conversations": [{"from": speaker, "value": text, "markdown": None} for speaker, text in spoken]}
    assert parts(value) == ("Be brief.\n\ndoc\n\nq?\n\na\n\nmore", "q2?", "b")
    roles = ("system", "user", "assistant", "user", "assistant")
    expected = [{"role": role, "content": text} for role, (_, text) in zip(roles, spoken, strict=True)]
    assert json.loads(one(value)["messages"]) == expected
    assert one(value)["id"] == one({"messages": expected})["id"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (["a", "list"], "not_an_object"),
        ({"messages": []}, "empty_messages"),
        ({"messages": "text"}, "empty_messages"),
        ({"messages": "[1, 2]"}, "bad_message"),
        ({"messages": {"role": ["user"], "content": ["a", "b"]}}, "bad_message"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "content_not_text"),
        ({"messages": ["text"]}, "bad_message"),
        ({"messages": [{"role": "observation", "content": "x"}]}, "bad_role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "bad_role"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "bad_role"),
        (calling(None, tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]), "tool_calls"),
        (calling("", tool_calls='[{"name": "f"}]'), "tool_calls"),
        (calling("text", function_call={"name": "f"}), "tool_calls"),
        ({"conversations": calling("", tool_calls=[{"name": "f"}])["messages"]}, "tool_calls"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "content_not_text"),
        ({"messages": [{"role": "user", "content": None}]}, "content_not_text"),
        ({"messages": [{"role": "user", "content": "only a question"}]}, "no_response"),
        ({"messages": [{"role": "assistant", "content": "only an answer"}]}, "bad_role"),
        (turns("doc\n\nq", ""), "empty_response"),
        (turns("doc\n\nq", " \n"), "empty_response"),
        (turns(" \n\n ", "a"), "empty_instruction"),
        (turns("a\0b\n\nq", "a"), "nul_byte"),
        (turns("a\ud800b\n\nq", "a"), "invalid_unicode"),
        ({"context": "c", "instruction": "i"}, "missing_fields"),
        ({"context": "c", "instruction": "i", "response": 5}, "content_not_text"),
        ({"id": "x"}, "missing_fields"),
        *(
            ({"question": "q", "answer": "a", "history": history}, "bad_history")
            for history in ("text", [["q"]], ["qa"], [{"q": "a"}], 5)
        ),
        ({"question": "q", "answer": "a", "history": [["q", None]]}, "content_not_text"),
        ({"question": "q", "answer": "a", "system": 5}, "content_not_text"),
    ],
)
def test_bad_rows_are_rejected_with_reason_and_advice(value, reason):
    outcome = one(value)
    assert isinstance(outcome, Rejection)
    assert outcome.reason == reason
    assert outcome.advice


def test_messages_without_a_call_stay_untouched():
    value = calling("call", tool_calls=[], function_call=None)
    assert json.loads(one(value)["messages"])[1] == value["messages"][1]


def test_missing_ids_come_from_the_content_and_do_not_depend_on_the_place():
    (first, second), intake = read(row("a\n\nq"), row("b\n\nq"))
    (again,), _ = read(row("b\n\nq"))
    assert first["id"] != second["id"] == again["id"]
    assert intake.n_without_id == 2


def test_an_integer_id_is_an_id():
    assert one(row("a\n\nq", id=17))["id"] == "17"
    assert one(row("a\n\nq", id=0))["id"] == "0"


@pytest.mark.parametrize(
    ("length", "expected"),
    [(7, 7), (7.0, 7), (7.5, None), (float("nan"), None), (True, None), ("7", None), (2.0**63, None)],
)
def test_a_length_is_a_whole_number(length, expected):
    assert one(row("a\n\nq", length=length))["length"] == expected


def test_duplicates_are_counted_and_the_first_is_kept():
    rows = [row("a\n\nq", id="1"), row("a\n\nq", id="2"), row("b\n\nq", id="1"), row("c\n\nq", id="3")]
    outcomes, intake = read(*rows)
    assert [getattr(outcome, "reason", "kept") for outcome in outcomes] == [
        "kept", "duplicate_content", "duplicate_id", "kept",
    ]  # fmt: skip
    assert "line 1" in outcomes[1].advice
    assert intake.summary()["rejected_by_reason"] == {"duplicate_content": 1, "duplicate_id": 1}
    outcomes, intake = read(*rows, keep_duplicate_content=True)
    assert sum(isinstance(outcome, dict) for outcome in outcomes) == 3
    assert intake.n_duplicate_content == 1


def test_a_rejected_row_does_not_stand_for_its_content():
    """The second row falls for its id; the third, with the second's content, is then the first of that content."""
    outcomes, _ = read(row("a\n\nq", id="1"), row("b\n\nq", id="1"), row("b\n\nq", id="2"))
    assert [getattr(outcome, "reason", "kept") for outcome in outcomes] == ["kept", "duplicate_id", "kept"]


def test_kept_duplicates_without_ids_get_ids_of_their_own():
    outcomes, intake = read(row("a\n\nq"), row("a\n\nq"), row("a\n\nq"), keep_duplicate_content=True)
    assert len({outcome["id"] for outcome in outcomes}) == 3
    assert intake.n_duplicate_content == 2


def test_the_ids_of_many_kept_duplicates_are_found_in_linear_time(monkeypatch):
    keys = []
    monkeypatch.setattr("gateau.data.intake._id_key", lambda name: keys.append(name) or name.encode())
    first = one(row("a\n\nq"))["id"]
    outcomes, _ = read(row("a\n\nq", id=f"{first}-3"), *[row("a\n\nq")] * 200, keep_duplicate_content=True)
    assert [outcome["id"] for outcome in outcomes[1:]] == [first, *(f"{first}-{n}" for n in (2, *range(4, 202)))]
    assert len(keys) < 10 * 200


def test_a_file_given_twice_is_all_duplicates(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [row("a\n\nq", id="1"), row("b\n\nq", id="2")])
    result = run_samples([path, path], tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(read_rows(tmp_path / "s.parquet", SAMPLES)) == 2
    assert json.loads((tmp_path / "summary.json").read_text())["rejected_by_reason"] == {"duplicate_content": 2}


def test_half_a_surrogate_anywhere_in_the_messages_is_rejected():
    value = row("a\n\nq")
    value["messages"][0]["name"] = "\ud800"
    assert one(value).reason == "invalid_unicode"


def run_samples(path, out, *extra, **options):
    files = [path] if not isinstance(path, list) else path
    outputs = ("--samples", out / "s.parquet", "--rejects", out / "r.jsonl", "--summary", out / "summary.json")
    return run_script("samples", "--input", *files, *outputs, *extra, **options)


def test_script_writes_samples_rejects_and_summary(tmp_path):
    good, bad = row("a\n\nq", id="x", dataset="d", length=7), "not json"
    result = run_samples(write_jsonl(tmp_path / "in.jsonl", [good, bad, row("b")]), tmp_path)
    assert result.returncode == 0, result.stderr
    samples = read_rows(tmp_path / "s.parquet", SAMPLES)
    assert (samples[0]["id"], samples[0]["dataset"], samples[0]["length"]) == ("x", "d", 7)
    (reject,) = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert (reject["file"], reject["line"], reject["reason"]) == (str(tmp_path / "in.jsonl"), 2, "not_json")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["rows"], summary["samples"], summary["rejected"], summary["without_context"]) == (3, 2, 1, 1)


def test_script_refuses_data_that_is_mostly_broken_and_shows_where(tmp_path):
    result = run_samples(write_jsonl(tmp_path / "in.jsonl", [row("a\n\nq"), "x", "y"]), tmp_path)
    assert result.returncode == 1
    assert "line 2: not_json" in result.stderr
    assert "2 of 3 rows are unusable" in result.stderr
    assert "Traceback" not in result.stderr


def test_script_refuses_data_without_any_sample(tmp_path):
    result = run_samples(write_jsonl(tmp_path / "in.jsonl", [row("a", "")]), tmp_path, "--max-rejected-share", 1)
    assert result.returncode == 1
    assert "none of the 1 rows is usable (empty_response 1); correct the rows of data.long" in result.stderr


def test_rows_are_drawn_by_their_ids(tmp_path):
    """A larger draw contains the smaller one, whatever the order of the rows, and duplicates are counted as ever."""
    rows = [row(f"{n}\n\nq", id=str(n)) for n in range(30)]
    repeated = row("7\n\nq", id="other")

    def drawn(limit, rows):
        path = write_jsonl(tmp_path / "in.jsonl", [*rows, repeated, "broken"])
        result = run_samples(path, tmp_path, "--options", json.dumps({"limit": limit, "seed": 3}))
        summary = json.loads((tmp_path / "summary.json").read_text()) if result.returncode == 0 else None
        assert summary is None or sum(summary["datasets"].values()) == summary["samples"] == limit
        rejected = [json.loads(line)["reason"] for line in (tmp_path / "r.jsonl").read_text().splitlines()]
        return result, summary and summary["rejected_by_reason"], rejected

    _, counts, rejected = drawn(10, rows)
    few = {one["id"] for one in read_rows(tmp_path / "s.parquet", SAMPLES)}
    assert counts == {"duplicate_content": 1, "not_drawn": 20, "not_json": 1}
    assert sorted(rejected) == ["duplicate_content", *["not_drawn"] * 20, "not_json"]
    drawn(12, rows[::-1])
    assert few < {one["id"] for one in read_rows(tmp_path / "s.parquet", SAMPLES)}
    result, _, _ = drawn(31, rows)
    assert "data.limit is 31, but only 30 of the 32 rows of data.long can be used; lower it" in result.stderr


def test_rows_with_too_few_or_too_many_tokens_are_left_out_and_counted(tmp_path):
    lengths = [2, 5, 9, 14, 30]
    path = write_jsonl(tmp_path / "in.jsonl", [row(f"{'falcon ' * n}\n\nq{n}", id=str(n)) for n in lengths])
    tokenizer = AutoTokenizer.from_pretrained(TINY_PAIR / "long")
    texts = {n: ("falcon " * n, f"q{n}", "An answer.") for n in lengths}
    tokens = {n: sum(map(len, tokenizer(list(own), add_special_tokens=False).input_ids)) for n, own in texts.items()}
    options = {"min_tokens": tokens[5], "max_tokens": tokens[14]}
    model = json.dumps({"path": str(TINY_PAIR / "long")})
    result = run_samples(path, tmp_path, "--options", json.dumps(options), "--model", model, "--max-rejected-share", 0)
    assert result.returncode == 0, result.stderr
    assert [one["id"] for one in read_rows(tmp_path / "s.parquet", SAMPLES)] == ["5", "9", "14"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rejected_by_reason"] == {"above_max_tokens": 1, "below_min_tokens": 1}
    assert f"{tokens[2]} tokens; data.min_tokens is" in (tmp_path / "r.jsonl").read_text()


def test_the_preview_shows_the_parts_of_ten_rows(tmp_path):
    path = write_jsonl(
        tmp_path / "in.jsonl", [row(f"<doc> {n} {'x' * 5000}\n\nq{n}?", f"a{n}", id=f"r{n}") for n in range(40)]
    )
    files = ("--preview", tmp_path / "p.txt", "--preview-page", tmp_path / "p.html")
    assert run_samples(path, tmp_path, *files).returncode == 0
    text, page = (tmp_path / "p.txt").read_text(), (tmp_path / "p.html").read_text()
    shown = [line.split()[1] for line in text.splitlines() if line.startswith("=== ")]
    assert len(set(shown)) == 10
    assert shown != [f"r{n}" for n in range(10)]
    for number in (name[1:] for name in shown):
        assert f"--- context\n<doc> {number} " in text
        assert f"--- instruction\nq{number}?\n--- response\na{number}\n" in text
        assert f'<pre class="instruction">q{number}?</pre>' in page
    assert "&lt;doc&gt;" in page
    assert "characters) …" in text
    assert len(text) < 15_000


def test_a_row_of_5_megabytes(tmp_path):
    text = "word " * 1_000_000
    result = run_samples(write_jsonl(tmp_path / "in.jsonl", [row(f"{text}\n\nq", id="big")]), tmp_path)
    assert result.returncode == 0, result.stderr
    assert read_rows(tmp_path / "s.parquet", SAMPLES)[0]["context"] == text


def test_a_full_disk_is_an_error_and_leaves_nothing_that_looks_finished(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    import random

    rng = random.Random(0)
    rows = [row(f"{rng.random()} " * 50 + "\n\nq", str(rng.random())) for _ in range(300)]
    out = tmp_path / "out"
    out.mkdir()
    result = run_samples(write_jsonl(tmp_path / "in.jsonl", rows), out, preexec_fn=limit)
    assert result.returncode == 1
    assert "File too large" in result.stderr
    assert not list(out.glob("*.parquet"))
    assert not list(out.glob(".*.tmp"))
